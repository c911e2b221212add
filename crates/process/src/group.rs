//! Groups of processes, each of which is a child with all that it has started.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The groups that were started and not killed yet, by the ids of their leaders.
static ALIVE: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn alive() -> MutexGuard<'static, BTreeSet<u32>> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a command start in a group of its own.
pub(crate) fn lead(command: &mut Command) -> &mut Command {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    command
}

/// Notes that the child of that id leads a group.
pub(crate) fn started(leader: u32) {
    alive().insert(leader);
}

/// Kills a group, unless that was done before.
pub(crate) fn kill(leader: u32) {
    if alive().remove(&leader) {
        signal(leader);
    }
}

/// Kills all children that are running. For a program that ends without ending its stages.
pub fn kill_all() {
    let groups = std::mem::take(&mut *alive());
    groups.into_iter().for_each(signal);
}

#[cfg(unix)]
fn signal(leader: u32) {
    use nix::{sys::signal, unistd::Pid};
    if let Ok(group) = i32::try_from(leader) {
        // It fails if no process of the group is left, which is what is wanted.
        let _ = signal::killpg(Pid::from_raw(group), signal::Signal::SIGKILL);
    }
}

/// There are no groups here. The child itself is killed by its handle.
#[cfg(not(unix))]
fn signal(_: u32) {}
