//! Finished images, which are kept so that a later run of the same task does not match them again.

use super::BestSoFar;
use hemlock_optim::Snapshot;
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, Axis};
use std::{
    collections::BTreeMap,
    mem::take,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The time between two pieces.
const INTERVAL: Duration = Duration::from_secs(120);

/// Collects finished images, and adds them to the task's pieces from time to time.
pub(super) struct Finished<'a> {
    ctx: &'a Context<'a>,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    images: Vec<BestSoFar>,
    since: Instant,
}

impl<'a> Finished<'a> {
    pub(super) fn new(ctx: &'a Context<'a>) -> Self {
        Self { ctx, waiting: Mutex::new(Waiting { images: Vec::new(), since: Instant::now() }) }
    }

    /// Takes note of finished images.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn add(&self, images: &[BestSoFar]) -> Result<(), StageError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.images.extend_from_slice(images);
        if waiting.since.elapsed() >= INTERVAL { self.write(&mut waiting) } else { Ok(()) }
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn flush(&self) -> Result<(), StageError> {
        self.write(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, waiting: &mut Waiting) -> Result<(), StageError> {
        waiting.since = Instant::now();
        let images = take(&mut waiting.images);
        if images.is_empty() {
            return Ok(());
        }
        let rows = images.iter().map(|image| image.best.len());
        let pixels = images.iter().flat_map(|image| &image.best).map(|p| f64::from(*p)).collect();
        let pixels = Array2::from_shape_vec((images.len(), rows.max().unwrap_or(0)), pixels)
            .map_err(|e| StageError::internal(format!("images of one task differ in size: {e}")))?;
        let column = |of: &dyn Fn(&BestSoFar) -> usize| images.iter().map(of).collect::<Vec<_>>();
        let losses: Vec<&[f64]> = images.iter().map(|image| &*image.losses).collect();
        let piece = Snapshot::default()
            .with("rows", column(&|image| image.row))
            .with("starts", column(&|image| image.start))
            .with("losses", losses)
            .with_matrix("pixels", &pixels);
        self.ctx.checkpoints.add_piece(&piece.to_bytes().map_err(StageError::internal)?)
    }
}

/// The images of `size` values that earlier runs of the task finished, by the row of the poison and the number of the
/// start. Pieces that cannot be used are left out with a warning.
///
/// # Errors
/// If the pieces cannot be read.
pub(super) fn earlier(ctx: &Context, size: usize) -> Result<BTreeMap<(usize, usize), BestSoFar>, StageError> {
    let mut found = BTreeMap::new();
    for piece in ctx.checkpoints.pieces()? {
        match images(&piece, size) {
            Ok(images) => found.extend(images.into_iter().map(|image| ((image.row, image.start), image))),
            Err(reason) => tracing::warn!("a piece of an earlier run is not used: {reason}"),
        }
    }
    Ok(found)
}

fn images(piece: &[u8], size: usize) -> Result<Vec<BestSoFar>, String> {
    let piece = Snapshot::from_bytes(piece)?;
    let (rows, starts, losses): (Vec<usize>, Vec<usize>, Vec<Vec<f64>>) =
        (piece.get("rows")?, piece.get("starts")?, piece.get("losses")?);
    let pixels = piece.matrix("pixels")?;
    if pixels.dim() != (rows.len(), size) || starts.len() != rows.len() || losses.len() != rows.len() {
        return Err("it has another shape".to_owned());
    }
    let images = rows.into_iter().zip(starts).zip(losses).zip(pixels.axis_iter(Axis(0)));
    Ok(images
        .map(|(((row, start), losses), pixels)| BestSoFar {
            row,
            start,
            best: pixels.iter().map(|p| *p as f32).collect(),
            losses,
        })
        .collect())
}
