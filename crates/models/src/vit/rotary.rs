//! Rotary positions of patches, as in DINOv3.
//!
//! RoFormer (Su et al., 2021) rotates pairs of channels of queries and keys by an angle that grows with the position,
//! so that their product depends on the distance. DINOv3 (Siméoni et al., 2025) does so on patches alone: a quarter of
//! a head's channels has the angles of the row, a quarter those of the column, and the other half is the second channel
//! of each pair. Positions are the centres of patches, with -1 and 1 at the edges of the image.

use burn::tensor::{Device, Tensor, TensorData};

use super::VitArch;

/// The base of the geometric series of periods.
const BASE: f64 = 100.0;

/// Cosines and sines for every patch, `[patches, head]`.
pub(crate) fn tables(arch: VitArch, [rows, columns]: [usize; 2]) -> [Vec<f32>; 2] {
    let head = arch.width / arch.heads;
    let quarter = head / 4;
    let centre = |i: usize, of: usize| 2.0 * (i as f64 + 0.5) / of as f64 - 1.0;
    let angle = |at: f64, i: usize| std::f64::consts::TAU * at / BASE.powf(2.0 * i as f64 / (head / 2) as f64);
    let patches =
        (0..rows).flat_map(|row| (0..columns).map(move |column| [centre(row, rows), centre(column, columns)]));
    let angles: Vec<f64> = patches
        .flat_map(|at| {
            let half = at.map(|at| (0..quarter).map(move |i| angle(at, i))).into_iter().flatten();
            let half: Vec<f64> = half.collect();
            [half.clone(), half].concat()
        })
        .collect();
    [angles.iter().map(|a| a.cos() as f32).collect(), angles.iter().map(|a| a.sin() as f32).collect()]
}

/// The rotation of queries and keys of images of one size.
#[derive(Debug)]
pub(super) struct Rotation {
    /// `[1, 1, patches, head]`.
    cos: Tensor<4>,
    sin: Tensor<4>,
    /// Tokens before the patches, which are not rotated.
    before: usize,
}

impl Rotation {
    /// The rotation for a grid of patches, `[rows, columns]`.
    pub(super) fn new(arch: VitArch, grid: [usize; 2], device: &Device) -> Self {
        let shape = [1, 1, grid[0] * grid[1], arch.width / arch.heads];
        let [cos, sin] = tables(arch, grid).map(|values| Tensor::from_data(TensorData::new(values, shape), device));
        Self { cos, sin, before: arch.before_patches() }
    }

    /// Rotates queries or keys, `[n, heads, tokens, head]`.
    pub(super) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, tokens, head] = x.dims();
        let patches = x.clone().narrow(2, self.before, tokens - self.before);
        let [first, second] = [0, head / 2].map(|from| patches.clone().narrow(3, from, head / 2));
        let turned = Tensor::cat(vec![-second, first], 3);
        let rotated = patches * self.cos.clone() + turned * self.sin.clone();
        if self.before == 0 { rotated } else { Tensor::cat(vec![x.narrow(2, 0, self.before), rotated], 2) }
    }
}
