//! Learned positions for another grid of patches, as the libraries resample them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::weights::Weight;

/// How learned positions are resampled to the grid of an image size: as the code that the weights come from does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Resampling {
    /// Bicubic interpolation, as in transformers.
    Bicubic,
    /// Bicubic interpolation with a wider kernel where the grid shrinks, as in timm, OpenCLIP, and DINOv2 with
    /// registers.
    BicubicAntialias,
    /// Bicubic interpolation at a scale for a grid that is a tenth of a patch larger, as in DINO, and in DINOv2 without
    /// registers.
    BicubicOffset,
}

/// The offset of DINO and DINOv2, in patches.
const OFFSET: f64 = 0.1;

/// A cubic convolution kernel (Keys, 1981) with the parameter `a`.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

impl Resampling {
    /// The weights of `from` points for each of `to` points: pairs of an index and its weight. The parameters of the
    /// kernels are PyTorch's.
    fn weights(self, from: usize, to: usize) -> Vec<Vec<(usize, f64)>> {
        let offset = if self == Self::BicubicOffset { OFFSET } else { 0.0 };
        let ratio = from as f64 / (to as f64 + offset);
        let last = from as isize - 1;
        let row = |i: usize| -> Vec<(usize, f64)> {
            let centre = (i as f64 + 0.5) * ratio;
            if self == Self::BicubicAntialias {
                let scale = ratio.max(1.0);
                let first = ((centre - 2.0 * scale + 0.5) as isize).max(0);
                let end = ((centre + 2.0 * scale + 0.5) as isize).min(last + 1);
                let weight = |j: isize| cubic((j as f64 + 0.5 - centre) / scale, -0.5);
                let total: f64 = (first..end).map(weight).sum();
                return (first..end).map(|j| (j as usize, weight(j) / total)).collect();
            }
            let at = centre - 0.5;
            let floor = at.floor();
            // Points beyond the edge have the edge's value.
            let tap = |j: isize| ((floor as isize + j).clamp(0, last) as usize, cubic(at - floor - j as f64, -0.75));
            (-1..3).map(tap).collect()
        };
        (0..to).map(row).collect()
    }

    /// Resamples a grid, `[from, from, width]`, to `[to[0], to[1], width]`.
    fn grid(self, values: &[f32], from: usize, to: [usize; 2], width: usize) -> Vec<f32> {
        let [down, across] = to.map(|to| self.weights(from, to));
        let mut made = Vec::with_capacity(to[0] * to[1] * width);
        for (rows, columns) in down.iter().flat_map(|rows| across.iter().map(move |columns| (rows, columns))) {
            let mut sums = vec![0.0f64; width];
            for (row, a) in rows {
                for (column, b) in columns {
                    let at = &values[(row * from + column) * width..][..width];
                    sums.iter_mut().zip(at).for_each(|(sum, v)| *sum += a * b * f64::from(*v));
                }
            }
            made.extend(sums.into_iter().map(|sum| sum as f32));
        }
        made
    }
}

/// Positions `[1, rows, width]` for a class token (if there is one) and a grid of patches, made of stored ones; `None`
/// if those are of no square grid.
///
/// Stored positions without one for the class token get zeros for it.
pub(super) fn fit(stored: &Weight, class: bool, grid: [usize; 2], resampling: Resampling) -> Option<Vec<f32>> {
    let width = *stored.shape.last()?;
    let (class, rows) = (usize::from(class), stored.values.len().checked_div(width)?);
    let side = |patches: usize| Some(patches.isqrt()).filter(|side| *side > 0 && side * side == patches);
    let (before, side) = match rows.checked_sub(class).and_then(side) {
        Some(side) => (class, side),
        None => (0, side(rows)?),
    };
    let (first, patches) = stored.values.split_at(before * width);
    let mut made = if before == class { first.to_vec() } else { vec![0.0; class * width] };
    if grid == [side; 2] {
        made.extend(patches);
    } else {
        made.extend(resampling.grid(patches, side, grid, width));
    }
    Some(made)
}

impl fmt::Display for Resampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bicubic => "bicubic",
            Self::BicubicAntialias => "bicubic-antialias",
            Self::BicubicOffset => "bicubic-offset",
        })
    }
}

impl FromStr for Resampling {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        [Self::Bicubic, Self::BicubicAntialias, Self::BicubicOffset]
            .into_iter()
            .find(|way| way.to_string() == s)
            .ok_or(())
    }
}
