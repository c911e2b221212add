//! The transforms of tiles and weights.

use crate::blocked_tensor::{BlockedTensor, LANES, SimdBlock};
use pulp::Simd;

/// Side of a tile of outputs of a forward pass, in pixels.
pub(crate) const OUT: usize = 4;
/// Side of the inputs of a tile of stride 1, in pixels, and of all transformed weights.
pub(crate) const IN: usize = 6;
/// Elements of a transformed tile of stride 1, and matrices of transformed weights.
pub(crate) const ELEMENTS: usize = IN * IN;
/// Elements of stride 2 in one dimension: five of the two outer taps, and four of the tap between them.
pub(crate) const STRIDE2_ELEMENTS: usize = 9;
/// Tiles that are stored side by side, so that a product reads them at constant distances.
pub(crate) const GROUP: usize = 8;

/// The interpolation's points are 0, ±P, ±Q and infinity.
const P: f64 = 0.625;
const Q: f64 = 1.5;
const P2: f64 = P * P;
const Q2: f64 = Q * Q;

/// A border's or an absent pixel.
pub(crate) const ZERO: SimdBlock = SimdBlock([0.0; LANES]);

/// One block of channels of transformed tiles of stride 1: for each element, column by column, all tiles of a group.
pub(crate) type Group = [[SimdBlock; GROUP]; ELEMENTS];

/// An algorithm in one dimension, which takes `N` inputs to `E` elements, and `E` sums of products to `O` outputs. In
/// two dimensions it is applied to rows and columns.
pub(crate) trait Algorithm<const N: usize, const E: usize, const O: usize> {
    /// Inputs from a tile to the next.
    const STEP: usize;
    /// Inputs of a tile that lie before the one that its number times [`Algorithm::STEP`] says.
    const BEFORE: usize;

    /// `B^T` times the inputs.
    fn input_line<S: Simd>(simd: S, d: [S::f32s; N]) -> [S::f32s; E];

    /// `A^T` times the sums.
    fn output_line<S: Simd>(simd: S, m: [S::f32s; E]) -> [S::f32s; O];
}

/// Stride 1, F(4, 3).
pub(crate) struct Stride1;

/// Stride 2. Of the outputs `w0 o[i] + w1 e[i] + w2 o[i + 1]`, where `o` and `e` are every second input, the taps `w0`
/// and `w2` are F(4, 2), and the tap `w1` is a product for every output.
pub(crate) struct Stride2Forward;

/// The vector-Jacobian product of stride 2: every second output has two taps, F(4, 2), and the others have one.
pub(crate) struct Stride2Backward;

impl Algorithm<IN, IN, OUT> for Stride1 {
    const STEP: usize = OUT;
    const BEFORE: usize = 1;

    #[inline(always)]
    fn input_line<S: Simd>(simd: S, d: [S::f32s; IN]) -> [S::f32s; IN] {
        let [zero, p, minus_p, q, minus_q] = finite_inputs(simd, [d[0], d[1], d[2], d[3], d[4]]);
        let of = |factor: f64, x: S::f32s, plus: S::f32s| simd.mul_add_e_f32s(simd.splat_f32s(factor as f32), x, plus);
        [zero, p, minus_p, q, minus_q, of(P2 * Q2, d[1], of(-(P2 + Q2), d[3], d[5]))]
    }

    #[inline(always)]
    fn output_line<S: Simd>(simd: S, m: [S::f32s; IN]) -> [S::f32s; OUT] {
        finite_outputs(simd, [m[0], m[1], m[2], m[3], m[4]], m[5])
    }
}

impl Algorithm<STRIDE2_ELEMENTS, STRIDE2_ELEMENTS, OUT> for Stride2Forward {
    const STEP: usize = 2 * OUT;
    const BEFORE: usize = 1;

    #[inline(always)]
    fn input_line<S: Simd>(simd: S, d: [S::f32s; STRIDE2_ELEMENTS]) -> [S::f32s; STRIDE2_ELEMENTS] {
        let [zero, p, minus_p, q, minus_q] = finite_inputs(simd, [d[0], d[2], d[4], d[6], d[8]]);
        [zero, p, minus_p, q, minus_q, d[1], d[3], d[5], d[7]]
    }

    #[inline(always)]
    fn output_line<S: Simd>(simd: S, m: [S::f32s; STRIDE2_ELEMENTS]) -> [S::f32s; OUT] {
        let outer = finite_outputs(simd, [m[0], m[1], m[2], m[3], m[4]], simd.splat_f32s(0.0));
        std::array::from_fn(|i| simd.add_f32s(outer[i], m[5 + i]))
    }
}

impl Algorithm<5, STRIDE2_ELEMENTS, 8> for Stride2Backward {
    const STEP: usize = OUT;
    const BEFORE: usize = 0;

    #[inline(always)]
    fn input_line<S: Simd>(simd: S, d: [S::f32s; 5]) -> [S::f32s; STRIDE2_ELEMENTS] {
        let [zero, p, minus_p, q, minus_q] = finite_inputs(simd, d);
        [zero, p, minus_p, q, minus_q, d[0], d[1], d[2], d[3]]
    }

    #[inline(always)]
    fn output_line<S: Simd>(simd: S, m: [S::f32s; STRIDE2_ELEMENTS]) -> [S::f32s; 8] {
        let outer = finite_outputs(simd, [m[0], m[1], m[2], m[3], m[4]], simd.splat_f32s(0.0));
        [m[5], outer[0], m[6], outer[1], m[7], outer[2], m[8], outer[3]]
    }
}

/// The number of the transformed weight, in one dimension, that an element is multiplied by: all elements of one tap
/// have the same.
#[inline(always)]
pub(crate) fn weight_of(element: usize) -> usize {
    element.min(IN - 1)
}

/// The rows of `G` for stride 2: those of the finite points for the two outer taps, and the tap between them.
pub(crate) fn two_taps(row: usize) -> [f64; 3] {
    if row == IN - 1 {
        return [0.0, 1.0, 0.0];
    }
    let [scale, times_point, _] = weight_row(row);
    [scale, 0.0, times_point]
}

/// Where a tile is: the number of its tensor, image, row and column, the latter two in tiles.
pub(crate) type Tile = [usize; 4];

/// The rows of `G` for stride 1, which are the powers of a point over the product of its distances to all others.
pub(crate) const fn weight_row(element: usize) -> [f64; 3] {
    let (point, scale) = match element {
        0 => (0.0, 1.0 / (P2 * Q2)),
        1 => (P, 0.5 / (P2 * (P2 - Q2))),
        2 => (-P, 0.5 / (P2 * (P2 - Q2))),
        3 => (Q, 0.5 / (Q2 * (Q2 - P2))),
        4 => (-Q, 0.5 / (Q2 * (Q2 - P2))),
        _ => return [0.0, 0.0, 1.0],
    };
    [scale, scale * point, scale * point * point]
}

/// `G g G^T` for the weights `taps` to 16 output channels, with the rows of `G` that `weight_row` returns.
#[inline(always)]
pub(crate) fn transform_weights(
    taps: &[[f32; LANES]; 9],
    weight_row: impl Fn(usize) -> [f64; 3],
) -> [[f32; LANES]; ELEMENTS] {
    let mut half = [[[0.0; LANES]; 3]; IN];
    for (element, half) in half.iter_mut().enumerate() {
        for (tap, coefficient) in weight_row(element).into_iter().enumerate() {
            for (x, half) in half.iter_mut().enumerate() {
                for (half, weight) in half.iter_mut().zip(taps[tap * 3 + x]) {
                    *half += coefficient * f64::from(weight);
                }
            }
        }
    }
    let mut all = [[0.0; LANES]; ELEMENTS];
    for (element, all) in all.iter_mut().enumerate() {
        let ([a, b, c], half) = (weight_row(element / IN), &half[element % IN]);
        for (lane, to) in all.iter_mut().enumerate() {
            *to = (a * half[0][lane] + b * half[1][lane] + c * half[2][lane]) as f32;
        }
    }
    all
}

/// `G^T m G`, the adjoint of [`transform_weights`].
#[inline(always)]
pub(crate) fn transform_weight_gradient(elements: &[[f32; LANES]; ELEMENTS]) -> [[f32; LANES]; 9] {
    let mut half = [[[0.0; LANES]; IN]; 3];
    for (element, values) in elements.iter().enumerate() {
        for (tap, coefficient) in weight_row(element / IN).into_iter().enumerate() {
            for (half, value) in half[tap][element % IN].iter_mut().zip(values) {
                *half += coefficient * f64::from(*value);
            }
        }
    }
    let mut all = [[0.0; LANES]; 9];
    for (tap, all) in all.iter_mut().enumerate() {
        for (lane, to) in all.iter_mut().enumerate() {
            let mut sum = 0.0;
            for (element, values) in half[tap % 3].iter().enumerate() {
                sum += weight_row(element)[tap / 3] * values[lane];
            }
            *to = sum as f32;
        }
    }
    all
}

/// All tiles of outputs of the given shapes, with `side` x `side` pixels each.
pub(crate) fn tiles(shapes: impl Iterator<Item = [usize; 4]>, side: usize) -> Vec<Tile> {
    let of = |(tensor, [images, _, height, width]): (usize, [usize; 4])| {
        let (rows, columns) = (height.div_ceil(side), width.div_ceil(side));
        let at = move |i: usize| [tensor, i / (rows * columns), i / columns % rows, i % columns];
        (0..images * rows * columns).map(at)
    };
    shapes.enumerate().flat_map(of).collect()
}

/// Writes `B^T d B` for the inputs `d` of a tile in one block to `to`, `[elements][GROUP]`, as tile `at` of the group.
#[inline(always)]
pub(crate) fn transform_input<
    S: Simd,
    A: Algorithm<N, E, O>,
    const N: usize,
    const E: usize,
    const O: usize,
    const V: usize,
>(
    simd: S,
    x: &BlockedTensor,
    [_, image, row, column]: Tile,
    block: usize,
    (to, at): (&mut [SimdBlock], usize),
) {
    let corner = [row, column].map(|tile| tile * A::STEP + x.border - A::BEFORE);
    let mut edge = None;
    let (pixels, pitch) = window::<N>(x, [image, block], corner, &mut edge);
    let to = &mut to[..E * E * GROUP];
    let mut half = [[ZERO; E]; N];
    for v in 0..V {
        for (row, half) in half.iter_mut().enumerate() {
            let line = A::input_line(simd, line::<S, N>(simd, &pixels[row * pitch..], 1, v));
            for i in 0..E {
                S::as_mut_simd_f32s(&mut half[i].0).0[v] = line[i];
            }
        }
        for x in 0..E {
            let line = A::input_line(simd, line::<S, N>(simd, &half.as_flattened()[x..], E, v));
            for i in 0..E {
                S::as_mut_simd_f32s(&mut to[(x * E + i) * GROUP + at].0).0[v] = line[i];
            }
        }
    }
}

/// Vector `v` of `N` blocks at a distance of `step` blocks.
#[inline(always)]
fn line<S: Simd, const N: usize>(simd: S, blocks: &[SimdBlock], step: usize, v: usize) -> [S::f32s; N] {
    let blocks = &blocks[..(N - 1) * step + 1];
    let mut line = [simd.splat_f32s(0.0); N];
    for i in 0..N {
        line[i] = S::as_simd_f32s(&blocks[i * step].0).0[v];
    }
    line
}

/// `N` x `N` stored pixels from `corner` on, and the distance between rows: those of the tensor or, at the edge of an
/// image, where some are not stored, those of a copy.
#[inline(always)]
fn window<'a, const N: usize>(
    x: &'a BlockedTensor,
    [image, block]: [usize; 2],
    [top, left]: [usize; 2],
    edge: &'a mut Option<Box<[[SimdBlock; N]; N]>>,
) -> (&'a [SimdBlock], usize) {
    let (rows, columns) = (x.height + 2 * x.border - top, x.pitch() - left);
    let pixels = &x.values[x.plane(image, block) + top * x.pitch() + left..];
    if N <= rows && N <= columns {
        return (pixels, x.pitch());
    }
    (edge.insert(edge_copy(pixels, x.pitch(), [rows.min(N), columns.min(N)])).as_flattened(), N)
}

#[inline(never)]
fn edge_copy<const N: usize>(
    pixels: &[SimdBlock],
    pitch: usize,
    [rows, columns]: [usize; 2],
) -> Box<[[SimdBlock; N]; N]> {
    let mut copy = Box::new([[ZERO; N]; N]);
    for (copy, pixels) in copy.iter_mut().zip(pixels.chunks(pitch)).take(rows) {
        copy[..columns].copy_from_slice(&pixels[..columns]);
    }
    copy
}

/// Writes `A d A^T` for the gradient `d` with respect to the outputs of a tile in one block, as [`transform_input`].
#[inline(always)]
pub(crate) fn transform_gradient<S: Simd, const V: usize>(
    simd: S,
    gradient: &BlockedTensor,
    [_, image, row, column]: Tile,
    block: usize,
    (to, at): (&mut Group, usize),
) {
    let (mut edge, corner) = (None, [row * OUT + gradient.border, column * OUT + gradient.border]);
    let (pixels, pitch) = window::<OUT>(gradient, [image, block], corner, &mut edge);
    let mut half = [ZERO; OUT * IN];
    for v in 0..V {
        for (row, half) in half.chunks_exact_mut(IN).enumerate() {
            let line = gradient_line(simd, line::<S, OUT>(simd, &pixels[row * pitch..], 1, v));
            for i in 0..IN {
                S::as_mut_simd_f32s(&mut half[i].0).0[v] = line[i];
            }
        }
        for x in 0..IN {
            let line = gradient_line(simd, line::<S, OUT>(simd, &half[x..], IN, v));
            for i in 0..IN {
                S::as_mut_simd_f32s(&mut to[x * IN + i][at].0).0[v] = line[i];
            }
        }
    }
}

/// `A^T m A` for tile `at` of the element-wise products `m`, `[elements][GROUP]`, plus `bias`.
#[inline(always)]
pub(crate) fn transform_sums<
    S: Simd,
    A: Algorithm<N, E, O>,
    const N: usize,
    const E: usize,
    const O: usize,
    const V: usize,
>(
    simd: S,
    (m, at): (&[SimdBlock], usize),
    bias: &SimdBlock,
) -> [[SimdBlock; O]; O] {
    let (mut half, mut outputs) = ([[ZERO; O]; E], [[ZERO; O]; O]);
    for v in 0..V {
        for (x, half) in half.iter_mut().enumerate() {
            let line = A::output_line(simd, line::<S, E>(simd, &m[x * E * GROUP + at..], GROUP, v));
            for i in 0..O {
                S::as_mut_simd_f32s(&mut half[i].0).0[v] = line[i];
            }
        }
        let bias = S::as_simd_f32s(&bias.0).0[v];
        for (y, outputs) in outputs.iter_mut().enumerate() {
            let line = A::output_line(simd, line::<S, E>(simd, &half.as_flattened()[y..], O, v));
            for x in 0..O {
                S::as_mut_simd_f32s(&mut outputs[x].0).0[v] = simd.add_f32s(bias, line[x]);
            }
        }
    }
    outputs
}

/// The rows of `B^T` of the finite points: 0, P, -P, Q and -Q.
#[inline(always)]
fn finite_inputs<S: Simd>(simd: S, d: [S::f32s; 5]) -> [S::f32s; 5] {
    let of = |factor: f64, x: S::f32s, plus: S::f32s| simd.mul_add_e_f32s(simd.splat_f32s(factor as f32), x, plus);
    let times = |factor: f64, x: S::f32s| simd.mul_f32s(simd.splat_f32s(factor as f32), x);
    let (even_p, odd_p) = (of(-Q2, d[2], d[4]), times(P, of(-Q2, d[1], d[3])));
    let (even_q, odd_q) = (of(-P2, d[2], d[4]), times(Q, of(-P2, d[1], d[3])));
    [
        of(P2 * Q2, d[0], of(-(P2 + Q2), d[2], d[4])),
        simd.add_f32s(even_p, odd_p),
        simd.sub_f32s(even_p, odd_p),
        simd.add_f32s(even_q, odd_q),
        simd.sub_f32s(even_q, odd_q),
    ]
}

/// `A^T` times a line of sums, of the finite points and of infinity.
#[inline(always)]
fn finite_outputs<S: Simd>(simd: S, m: [S::f32s; 5], infinity: S::f32s) -> [S::f32s; OUT] {
    let of = |factor: f64, x: S::f32s, plus: S::f32s| simd.mul_add_e_f32s(simd.splat_f32s(factor as f32), x, plus);
    let times = |factor: f64, x: S::f32s| simd.mul_f32s(simd.splat_f32s(factor as f32), x);
    let (even_p, odd_p) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    let (even_q, odd_q) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
    [
        simd.add_f32s(m[0], simd.add_f32s(even_p, even_q)),
        of(P, odd_p, times(Q, odd_q)),
        of(P2, even_p, times(Q2, even_q)),
        of(P * P2, odd_p, of(Q * Q2, odd_q, infinity)),
    ]
}

/// `A` times a line of outputs.
#[inline(always)]
fn gradient_line<S: Simd>(simd: S, y: [S::f32s; OUT]) -> [S::f32s; IN] {
    let of = |factor: f64, x: S::f32s, plus: S::f32s| simd.mul_add_e_f32s(simd.splat_f32s(factor as f32), x, plus);
    let times = |factor: f64, x: S::f32s| simd.mul_f32s(simd.splat_f32s(factor as f32), x);
    let (even_p, odd_p) = (of(P2, y[2], y[0]), of(P * P2, y[3], times(P, y[1])));
    let (even_q, odd_q) = (of(Q2, y[2], y[0]), of(Q * Q2, y[3], times(Q, y[1])));
    [
        y[0],
        simd.add_f32s(even_p, odd_p),
        simd.sub_f32s(even_p, odd_p),
        simd.add_f32s(even_q, odd_q),
        simd.sub_f32s(even_q, odd_q),
        y[3],
    ]
}
