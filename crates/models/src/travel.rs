//! What travels between the processor and a device, counted: on a GPU a step must not wait for it.

use burn::tensor::{Device, Tensor, TensorData};
use std::cell::Cell;

/// Arrays that this thread sent to devices, and arrays that it waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Travelled {
    /// To a device.
    pub up: usize,
    /// From a device.
    pub down: usize,
}

thread_local! {
    static TRAVELLED: Cell<Travelled> = const { Cell::new(Travelled { up: 0, down: 0 }) };
}

/// An array on a device.
#[must_use]
pub fn up<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    count(|t| t.up += 1);
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The values of a tensor: waits until the device has them.
#[must_use]
pub fn down<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    count(|t| t.down += 1);
    let data = tensor.into_data();
    // Value by value, an image's pixels take as long as their derivative.
    data.as_slice().map_or_else(|_| data.iter().collect(), <[f32]>::to_vec)
}

/// What some work makes this thread send and wait for.
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
