//! Transfers between the host and a device, counted per thread, because on a GPU a step must not wait for one.

use burn::tensor::{Device, Tensor, TensorData};
use std::cell::Cell;

/// Numbers of arrays that a thread uploaded to devices and downloaded from them. A download waits for the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Travelled {
    /// Uploads.
    pub up: usize,
    /// Downloads.
    pub down: usize,
}

thread_local! {
    static TRAVELLED: Cell<Travelled> = const { Cell::new(Travelled { up: 0, down: 0 }) };
}

/// Uploads an array to a device.
#[must_use]
pub fn up<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    count(|t| t.up += 1);
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Downloads the values of a tensor, which waits until the device has computed them.
#[must_use]
pub fn down<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    count(|t| t.down += 1);
    let data = tensor.into_data();
    // Copying value by value would take as long for an image's pixels as computing their gradient.
    data.as_slice().map_or_else(|_| data.iter().collect(), <[f32]>::to_vec)
}

/// Runs `work`, and counts the transfers that it makes on this thread.
pub fn travelled<T>(work: impl FnOnce() -> T) -> (T, Travelled) {
    let before = TRAVELLED.take();
    let done = work();
    let during = TRAVELLED.replace(before);
    (done, during)
}

fn count(one: impl FnOnce(&mut Travelled)) {
    TRAVELLED.with(|travelled| {
        let mut now = travelled.get();
        one(&mut now);
        travelled.set(now);
    });
}
