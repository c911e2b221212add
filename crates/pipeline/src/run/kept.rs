//! What is kept of unfinished tasks, and which backends made it.

use hemlock_stage::{Checkpoints, Part, StageError};
use hemlock_store::{Lock, SharedLock, StoreError};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// The backend of what was computed on the host, whatever the run's backend is.
pub(super) const HOST: &str = "host";
/// Most bytes in which the names of backends end.
const MOST: usize = 64;

/// The right to work on a task.
pub(super) enum Right {
    Whole(Lock),
    Part(SharedLock, Part),
}

impl Right {
    pub(super) fn scratch(&self) -> Result<PathBuf, StoreError> {
        match self {
            Self::Whole(lock) => lock.scratch(),
            Self::Part(lock, _) => lock.scratch(),
        }
    }
}

/// Checkpoint and pieces of a task. Each is kept with the name of the backend that made it, so that the manifest of the
/// result names all of them.
pub(super) struct Kept<'a> {
    right: &'a Right,
    backend: &'a str,
    /// Whether the run computes on the backend.
    pub(super) on_backend: AtomicBool,
    /// The backends that made what earlier runs left.
    earlier: Mutex<BTreeSet<String>>,
}

impl<'a> Kept<'a> {
    pub(super) fn new(right: &'a Right, backend: &'a str, on_backend: bool) -> Self {
        Self { right, backend, on_backend: on_backend.into(), earlier: Mutex::default() }
    }

    /// The backends that had a part in the result. That of this run comes first.
    pub(super) fn backends(&self) -> Vec<String> {
        let own = if self.on_backend.load(Ordering::SeqCst) { self.backend } else { HOST };
        let earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        let others = earlier.iter().filter(|backend| *backend != own).cloned();
        std::iter::once(own.to_owned()).chain(others).collect()
    }

    fn labelled(&self, state: &[u8]) -> Vec<u8> {
        [self.backends().join(",").as_bytes(), b"\n", state].concat()
    }

    /// What was kept, without the names of its backends, which are noted; `None` if there are no names.
    fn unlabelled(&self, kept: &[u8]) -> Option<Vec<u8>> {
        let end = kept.iter().take(MOST).position(|byte| *byte == b'\n');
        let Some((end, backends)) = end.and_then(|end| Some((end, str::from_utf8(&kept[..end]).ok()?))) else {
            tracing::warn!("what an earlier version kept of this task is not used");
            return None;
        };
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.extend(backends.split(',').map(str::to_owned));
        Some(kept[end + 1..].to_vec())
    }
}

/// Parts of a task have no checkpoint, because they would have to share it.
impl Checkpoints for Kept<'_> {
    fn load(&self) -> Result<Option<Vec<u8>>, StageError> {
        match self.right {
            Right::Whole(lock) => Ok(lock.load_checkpoint()?.and_then(|kept| self.unlabelled(&kept))),
            Right::Part(..) => Ok(None),
        }
    }

    fn save(&self, state: &[u8]) -> Result<(), StageError> {
        match self.right {
            Right::Whole(lock) => Ok(lock.save_checkpoint(&self.labelled(state))?),
            Right::Part(..) => Ok(()),
        }
    }

    fn pieces(&self) -> Result<Vec<Vec<u8>>, StageError> {
        let pieces = match self.right {
            Right::Whole(lock) => lock.load_pieces()?,
            Right::Part(lock, _) => lock.load_pieces()?,
        };
        Ok(pieces.iter().filter_map(|piece| self.unlabelled(piece)).collect())
    }

    fn add_piece(&self, piece: &[u8]) -> Result<(), StageError> {
        match self.right {
            Right::Whole(lock) => Ok(lock.add_piece(&self.labelled(piece))?),
            Right::Part(lock, _) => Ok(lock.add_piece(&self.labelled(piece))?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_store::{Key, Store};

    /// A run that takes up another backend's work says so, and so does every run after it.
    #[test]
    fn backends_of_earlier_runs_are_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (store, key) = (Store::new(folder.path()), "0".repeat(32).parse::<Key>().unwrap());
        let right = || Right::Whole(store.lock("pretrain", &key, || ()).unwrap());
        let made = |backend: &str, on_backend, state: &[u8]| {
            let right = right();
            let kept = Kept::new(&right, backend, on_backend);
            let found = kept.load().unwrap();
            kept.save(state).unwrap();
            (found, kept.backends())
        };
        assert_eq!(made("cuda", true, b"one"), (None, vec!["cuda".to_owned()]));
        assert_eq!(made("flex", true, b"two"), (Some(b"one".to_vec()), vec!["flex".to_owned(), "cuda".to_owned()]));
        let all = ["flex", "cuda"].map(str::to_owned).to_vec();
        assert_eq!(made("flex", true, b"three"), (Some(b"two".to_vec()), all));
        let part = Right::Part(store.try_shared_lock("invert", &key).unwrap().unwrap(), "1/2".parse().unwrap());
        Kept::new(&part, "wgpu", true).add_piece(b"piece").unwrap();
        let kept = Kept::new(&part, "wgpu", false);
        assert_eq!(
            (kept.pieces().unwrap(), kept.backends()),
            (vec![b"piece".to_vec()], vec!["host".into(), "wgpu".into()])
        );
        assert_eq!(kept.load().unwrap(), None);
        // A checkpoint of a version that wrote no names.
        let Right::Whole(lock) = right() else { unreachable!() };
        lock.save_checkpoint(&[7; 100]).unwrap();
        assert_eq!(Kept::new(&Right::Whole(lock), "flex", true).load().unwrap(), None);
    }
}
