//! Compares every kernel with sums that are written out, at sizes that do not fill whole blocks.

use crate::norm::{Map, Sums};
use crate::{Accumulate, BlockedTensor, Conv, ConvPass, Depthwise, Epilogue, Geometry, Moments, Workspace};
use proptest::prelude::*;
use pulp::Arch;

/// A convolution to test: `[outputs, inputs, kernel]`, stride, padding, `[images, height, width]`.
#[derive(Debug, Clone)]
struct Problem {
    size: [usize; 3],
    stride: usize,
    padding: usize,
    images: [usize; 3],
}

fn problem() -> impl Strategy<Value = Problem> {
    let channels = || prop_oneof![4 => 1usize..5, 4 => Just(16), 4 => 17usize..40, 4 => Just(64), 1 => Just(260)];
    let kernel = prop_oneof![Just((1, 0)), Just((2, 0)), Just((3, 1)), Just((3, 0)), Just((3, 2)), Just((7, 3))];
    ((channels(), channels()), kernel, 1usize..3, (1usize..3, 7usize..11, 7usize..20)).prop_map(
        |((outputs, inputs), (kernel, padding), stride, (n, height, width))| Problem {
            size: [outputs, inputs, kernel],
            stride,
            padding,
            images: [n, height, width],
        },
    )
}

/// All instruction sets that this processor has, from scalar code to the best.
fn archs() -> Vec<Arch> {
    let mut archs = vec![Arch::Scalar, Arch::new()];
    #[cfg(target_arch = "x86_64")]
    archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
    archs
}

/// Values without a pattern in -1..1.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(shape: [usize; 4], border: usize, values: &[f32]) -> BlockedTensor {
    let mut tensor = BlockedTensor::new(shape, border);
    tensor.load(values);
    tensor
}

fn values(tensor: &BlockedTensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.shape().iter().product()];
    tensor.store(&mut values);
    values
}

impl Problem {
    fn input(&self) -> [usize; 4] {
        [self.images[0], self.size[1], self.images[1], self.images[2]]
    }

    fn weights(&self) -> Vec<f32> {
        let [outputs, inputs, kernel] = self.size;
        noise(outputs * inputs * kernel * kernel, 1)
    }

    fn geometry(&self) -> Geometry {
        let [outputs, inputs, kernel] = self.size;
        Geometry { inputs, outputs, kernel, stride: self.stride, padding: self.padding }
    }

    fn conv(&self) -> Conv {
        Conv::new(self.geometry(), &self.weights(), &noise(self.size[0], 2))
    }

    /// Calls `visit(x, weight, output)` with the indices of every product of the convolution.
    fn products(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let ([outputs, inputs, k], [n, height, width]) = (self.size, self.images);
        let [_, _, rows, columns] = self.geometry().output(self.input());
        let inside = |at: usize, k: usize, length: usize| {
            (at * self.stride + k).checked_sub(self.padding).filter(|at| *at < length)
        };
        for (image, o, i) in (0..n).flat_map(|n| (0..outputs).flat_map(move |o| (0..inputs).map(move |i| (n, o, i)))) {
            for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
                for (ky, kx) in (0..k).flat_map(|ky| (0..k).map(move |kx| (ky, kx))) {
                    if let (Some(iy), Some(ix)) = (inside(y, ky, height), inside(x, kx, width)) {
                        let from = ((image * inputs + i) * height + iy) * width + ix;
                        visit(
                            from,
                            ((o * inputs + i) * k + ky) * k + kx,
                            ((image * outputs + o) * rows + y) * columns + x,
                        );
                    }
                }
            }
        }
    }
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*found) - expected).abs() < 1e-5 * largest, "value {i}: {found}, not {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn both_directions_are_the_sums_written_out(problem in problem()) {
        let (conv, geometry, weights) = (problem.conv(), problem.geometry(), problem.weights());
        let transposed = Conv::transposed(geometry, &weights);
        let (input, output) = (problem.input(), geometry.output(problem.input()));
        let x = noise(input.iter().product(), 3);
        let of = noise(output.iter().product(), 4);
        let per_channel: usize = output[2..].iter().product();
        let bias = noise(output[1], 2);
        let added = noise(of.len(), 5);
        let mut sums: Vec<f64> = (0..of.len())
            .map(|i| f64::from(bias[i / per_channel % output[1]]) + f64::from(added[i]))
            .collect();
        let mut dx: Vec<f64> = vec![0.0; x.len()];
        let mut dw: Vec<f64> = vec![0.0; weights.len()];
        problem.products(|from, weight, to| {
            sums[to] += f64::from(x[from]) * f64::from(weights[weight]);
            dx[from] += f64::from(of[to]) * f64::from(weights[weight]);
            dw[weight] += f64::from(of[to]) * f64::from(x[from]);
        });
        // The other tensors may have any border.
        let (x, of) = (tensor(input, conv.border(), &x), tensor(output, transposed.border() + 1, &of));
        let added = tensor(output, 3, &added);

        let twice: Vec<f64> = dw.iter().map(|w| 2.0 * w).collect();
        for arch in archs() {
            let mut out = BlockedTensor::new(output, 1);
            conv.apply_on(arch, &x, Accumulate::Add(&added), Epilogue::Keep, &mut out);
            assert_close(&values(&out), &sums);
            let mut again = added.clone();
            conv.apply_on(arch, &x, Accumulate::Result, Epilogue::Keep, &mut again);
            prop_assert_eq!(values(&again), values(&out));
            conv.apply_on(arch, &x, Accumulate::Add(&added), Epilogue::Relu, &mut again);
            let positive: Vec<f32> = values(&out).iter().map(|x| x.max(0.0)).collect();
            prop_assert_eq!(values(&again), positive);

            let mut back = tensor(input, 2, &noise(dx.len(), 6));
            transposed.apply_on(arch, &of, Accumulate::Zero, Epilogue::Keep, &mut back);
            assert_close(&values(&back), &dx);
            let mut masked = BlockedTensor::new(input, 0);
            transposed.apply_on(arch, &of, Accumulate::Zero, Epilogue::Mask(&x), &mut masked);
            let kept = values(&back).into_iter().zip(values(&x)).map(|(v, x)| if x > 0.0 { v } else { 0.0 });
            prop_assert_eq!(values(&masked), kept.collect::<Vec<_>>());

            let gradient = geometry.weight_gradient_on(arch, &[x.clone(), x.clone()], &[of.clone(), of.clone()]);
            assert_close(&gradient, &twice);
            // Many tiles, some of which are zero, are summed in groups.
            let nothing = BlockedTensor::new(input, x.border());
            let many = |x: &BlockedTensor| (0..11).map(|i| if i % 5 == 0 { x.clone() } else { nothing.clone() }).collect::<Vec<_>>();
            let gradient = geometry.weight_gradient_on(arch, &many(&x), &vec![of.clone(); 11]);
            assert_close(&gradient, &twice.iter().map(|g| 1.5 * g).collect::<Vec<_>>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn maps_and_sums_of_channels_are_those_written_out(
        shape in (1usize..4, prop_oneof![1usize..5, Just(16), 17usize..40], 1usize..9, 1usize..9),
    ) {
        let (n, channels, height, width) = shape;
        let shape = [n, channels, height, width];
        let (count, area) = (shape.iter().product::<usize>(), height * width);
        let channel = |i: usize| i / area % channels;
        // A mean as large, relative to the deviation, as a channel may have.
        let own: Vec<f32> = noise(count, 1).iter().enumerate().map(|(i, x)| x + 10.0 * channel(i) as f32).collect();
        let other = noise(count, 2);
        let maps = [noise(channels, 3), noise(channels, 4), noise(channels, 5)];
        let wide = |x: f32| f64::from(x);
        let mut sums = [(); 2].map(|()| vec![0.0; channels]);
        let mut mean = vec![0.0; channels];
        for i in 0..count {
            sums[0][channel(i)] += wide(other[i]);
            sums[1][channel(i)] += wide(other[i]) * (wide(own[i]) - wide(maps[0][channel(i)]));
            mean[channel(i)] += wide(own[i]) / (n * area) as f64;
        }
        let mut variance = vec![0.0; channels];
        for i in 0..count {
            variance[channel(i)] += (wide(own[i]) - mean[channel(i)]).powi(2) / (n * area) as f64;
        }
        let mapped: Vec<f64> = (0..count)
            .map(|i| {
                let [scale, shift, factor] = maps.each_ref().map(|map| wide(map[channel(i)]));
                wide(own[i]) * scale + shift + wide(other[i]) * factor
            })
            .collect();
        for arch in archs() {
            let (x, plus) = (tensor(shape, 1, &own), tensor(shape, 2, &other));
            let lanes = maps.each_ref().map(|map| x.lanes(map));
            let mut out = tensor(shape, 0, &noise(count, 6));
            out.map(arch, Map { x: Some(&x), plus: Some(&plus), maps: &lanes, floor: 0.0 });
            assert_close(&values(&out), &mapped.iter().map(|x| x.max(0.0)).collect::<Vec<_>>());
            let mut replaced = x.clone();
            replaced.map(arch, Map { x: None, plus: Some(&plus), maps: &lanes, floor: f32::NEG_INFINITY });
            assert_close(&values(&replaced), &mapped);

            let zeros = plus.lanes(&vec![0.0; channels]);
            let found = Sums { values: &plus, with: &x, about: [&zeros, &lanes[0]] }.run(arch);
            for (found, sums) in found.iter().zip(&sums) {
                assert_close(&found.iter().map(|x| *x as f32).collect::<Vec<_>>(), sums);
            }
            // Merging two halves gives the moments of the whole.
            let halves = [&own[..count / n], &own[count / n..]].map(|half| {
                let shape = [half.len() * n / count, channels, height, width];
                (shape[0] > 0).then(|| Moments::new_on(arch, &tensor(shape, 0, half)))
            });
            for moments in [Moments::new_on(arch, &x), Moments::merge(&halves.into_iter().flatten().collect::<Vec<_>>())] {
                assert_eq!(moments.count, (n * area) as f64);
                for (i, found) in moments.variance().enumerate() {
                    prop_assert!((moments.mean[i] - mean[i]).abs() < 1e-6 * mean[i].abs().max(1.0));
                    prop_assert!((found - variance[i]).abs() < 1e-5, "{found}, not {}", variance[i]);
                }
            }
        }
    }
}

#[test]
fn winograds_algorithm_gives_the_sums_over_taps() {
    for (stride, [n, height, width]) in [(1, [2, 11, 14]), (2, [2, 13, 15]), (2, [1, 16, 8]), (2, [3, 7, 7])] {
        let problem = Problem { size: [64, 80, 3], stride, padding: 1, images: [n, height, width] };
        let shapes = [problem.input(), problem.geometry().output(problem.input())];
        let transposed = Conv::transposed(problem.geometry(), &problem.weights());
        for (conv, [from, to]) in [(problem.conv(), shapes), (transposed, [shapes[1], shapes[0]])] {
            assert!(conv.is_minimal(from));
            let [x, added] = [from, to].map(|shape| tensor(shape, 1, &noise(shape.iter().product(), 3)));
            let (start, finish) = (Accumulate::Add(&added), Epilogue::Relu);
            for arch in archs() {
                let (mut out, mut over_taps) = (BlockedTensor::new(to, 1), BlockedTensor::new(to, 1));
                conv.apply_on(arch, &x, start, finish, &mut out);
                conv.sum_over_taps(arch, &mut [ConvPass { x: &x, start, finish, out: &mut over_taps }]);
                assert_close(&values(&out), &values(&over_taps).into_iter().map(f64::from).collect::<Vec<_>>());
            }
        }
    }
}

/// Memory of another convolution, larger or smaller, changes no result.
#[test]
fn used_memory_changes_nothing() {
    let workspace = Workspace::default();
    for channels in [48, 20, 33] {
        let problem = Problem { size: [channels, channels, 3], stride: 1, padding: 1, images: [2, 8, 8] };
        let [x, dy] = [1, 2].map(|seed| tensor(problem.input(), 1, &noise(problem.input().iter().product(), seed)));
        let (mut fresh, mut used) = (BlockedTensor::new(problem.input(), 1), BlockedTensor::new(problem.input(), 1));
        problem.conv().apply(&x, Accumulate::Zero, Epilogue::Keep, &mut fresh);
        problem.conv().with_workspace(&workspace).apply(&x, Accumulate::Zero, Epilogue::Keep, &mut used);
        assert_eq!(fresh, used);
        let (geometry, x, dy) = (problem.geometry(), [x], [dy]);
        let part = geometry.partial_gradient(&x, &dy, &workspace);
        assert_eq!(geometry.merge(vec![part], &workspace), geometry.weight_gradient(&x, &dy));
    }
}

#[test]
fn convolutions_of_means_are_those_of_2x2_with_equal_weights() {
    for (channels @ [outputs, inputs], [n, height, width]) in [([20, 40], [2, 6, 10]), ([3, 5], [1, 7, 5])] {
        let weights = noise(outputs * inputs, 1);
        let four: Vec<f32> = weights.iter().flat_map(|w| [w / 4.0; 4]).collect();
        let (bias, geometry) = (noise(outputs, 2), Geometry { inputs, outputs, kernel: 2, stride: 2, padding: 0 });
        let maps = [
            (Conv::with_average_pooling(channels, &weights, &bias), Conv::new(geometry, &four, &bias)),
            (Conv::transposed_with_average_pooling(channels, &weights), Conv::transposed(geometry, &four)),
        ];
        let mut shapes = [[n, inputs, height, width], geometry.output([n, inputs, height, width])];
        for (found, expected) in maps {
            assert_eq!(found.geometry(), geometry);
            assert!(found.border() <= 1);
            let [from, to] = shapes.map(|shape| tensor(shape, 1, &noise(shape.iter().product(), 3)));
            for (start, finish) in [
                (Accumulate::Add(&to), Epilogue::Keep),
                (Accumulate::Result, Epilogue::Relu),
                (Accumulate::Zero, Epilogue::Mask(&to)),
            ] {
                let (mut out, mut written_out) = (to.clone(), to.clone());
                expected.apply(&from, start, finish, &mut written_out);
                for arch in archs() {
                    out.clone_from(&to);
                    found.apply_on(arch, &from, start, finish, &mut out);
                    let sums: Vec<f64> = values(&written_out).into_iter().map(f64::from).collect();
                    assert_close(&values(&out), &sums);
                }
            }
            shapes.reverse();
        }
    }
}

#[test]
fn borders_and_fillers_stay_zero() {
    let problem = Problem { size: [5, 3, 3], stride: 1, padding: 1, images: [2, 4, 9] };
    let x = tensor(problem.input(), 1, &noise(2 * 3 * 4 * 9, 1));
    let mut out = BlockedTensor::new(problem.geometry().output(problem.input()), 1);
    problem.conv().apply(&x, Accumulate::Zero, Epilogue::Keep, &mut out);
    let total: f32 = out.values.iter().flat_map(|pixel| pixel.0).map(f32::abs).sum();
    let inside: f32 = values(&out).iter().map(|x| x.abs()).sum();
    assert!(inside > 1.0 && (total - inside).abs() < 1e-3 * inside, "{total} and {inside}");
}

/// Batches of Winograd's tiles begin in one tensor and end in another.
#[test]
fn tensors_together_give_the_bytes_of_those_alone() {
    let problem = Problem { size: [20, 40, 3], stride: 1, padding: 1, images: [3, 9, 7] };
    let x: Vec<_> = (0..7).map(|i| tensor(problem.input(), 1, &noise(3 * 40 * 63, i))).collect();
    for conv in [
        problem.conv(),
        Conv::transposed(Geometry { inputs: 20, outputs: 40, ..problem.geometry() }, &problem.weights()),
    ] {
        let mut together = vec![BlockedTensor::new([3, 20, 9, 7], 0); x.len()];
        let mut jobs: Vec<_> = together
            .iter_mut()
            .zip(&x)
            .map(|(out, x)| ConvPass { x, start: Accumulate::Zero, finish: Epilogue::Relu, out })
            .collect();
        conv.prepare(problem.input());
        conv.apply_all(&mut jobs);
        for (x, together) in x.iter().zip(&together) {
            let mut alone = BlockedTensor::new([3, 20, 9, 7], 0);
            conv.clone().apply(x, Accumulate::Zero, Epilogue::Relu, &mut alone);
            assert_eq!(&alone, together);
            assert!(values(&alone).iter().any(|x| *x > 0.0));
        }
    }
}

#[test]
fn not_a_number_is_handed_on() {
    let problem = Problem { size: [1, 1, 1], stride: 1, padding: 0, images: [1, 1, 1] };
    let mut out = BlockedTensor::new([1, 1, 1, 1], 0);
    let x = tensor([1, 1, 1, 1], 0, &[f32::NAN]);
    problem.conv().apply(&x, Accumulate::Zero, Epilogue::Relu, &mut out);
    assert!(values(&out)[0].is_nan());
    let mut out = BlockedTensor::new([1, 1, 1, 1], 0);
    x.affine([&[1.0], &[0.0]], None, true, &mut out);
    assert!(values(&out)[0].is_nan());
}

#[test]
fn means_and_their_derivative() {
    let x = tensor([1, 2, 2, 2], 1, &[1.0, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0, 0.0]);
    assert_eq!(x.means(), [1.0, 4.5]);
    let mut dx = BlockedTensor::new([1, 2, 2, 2], 0);
    dx.means_derivative(&[4.0, 8.0], &x);
    assert_eq!(values(&dx), [1.0, 1.0, 0.0, 1.0, 2.0, 2.0, 2.0, 0.0]);
}

#[test]
fn the_largest_of_nine_and_its_derivative() {
    let x = tensor([1, 1, 3, 4], 1, &[0.0, 1.0, 2.0, 0.0, 5.0, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 3.0]);
    let mut out = BlockedTensor::new([1, 1, 2, 2], 0);
    x.max_pool(&mut out);
    assert_eq!(values(&out), [5.0, 3.0, 5.0, 3.0]);
    let mut by = BlockedTensor::new(x.shape(), 1);
    x.max_pool_derivative(&tensor([1, 1, 2, 2], 0, &[1.0, 2.0, 4.0, 8.0]), &mut by);
    assert_eq!(values(&by), [0.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 0.0]);
    let nothing = BlockedTensor::new(x.shape(), 1);
    nothing.max_pool_derivative(&out, &mut by);
    assert_eq!(values(&by), [0.0; 12]);
}

/// Seconds that the current thread has computed; on a busy machine they are less than those that have passed.
fn computed() -> f64 {
    let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat");
    nanoseconds.unwrap().split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Compares the speed with that of the machine:
/// `cargo nextest run --release -p hemlock-conv --run-ignored all speed --no-capture`.
#[test]
#[ignore = "a timing, by hand, on Linux"]
fn speed() {
    // On one thread, so that its time is that of all of the work.
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(measure_speed);
}

#[allow(clippy::print_stderr)]
fn measure_speed() {
    // Channels in and out, side of the kernel, stride, side of the images, and their number.
    let sizes = [
        ([16, 16, 3], 1, 32, 4),
        ([32, 32, 3], 1, 16, 4),
        ([64, 64, 3], 1, 8, 4),
        ([64, 64, 3], 1, 32, 4),
        ([128, 128, 3], 1, 16, 8),
        ([256, 256, 3], 1, 8, 16),
        ([512, 512, 3], 1, 4, 32),
        ([3, 16, 3], 1, 32, 4),
        ([16, 32, 3], 2, 32, 4),
        ([32, 64, 3], 2, 16, 4),
        ([64, 128, 3], 2, 32, 4),
        ([128, 256, 3], 2, 16, 8),
        ([256, 512, 3], 2, 8, 16),
        ([3, 64, 7], 2, 224, 2),
        ([64, 256, 1], 1, 56, 2),
        ([256, 64, 1], 1, 56, 2),
        ([512, 128, 1], 1, 28, 2),
        ([1024, 256, 1], 1, 14, 2),
        ([256, 1024, 1], 1, 14, 2),
        ([2048, 512, 1], 1, 7, 2),
        ([512, 1024, 1], 2, 28, 2),
    ];
    for ([inputs, outputs, kernel], stride, side, images) in sizes {
        let padding = kernel / 2;
        let size = [outputs, inputs, kernel];
        let problem = Problem { size, stride, padding, images: [images, side, side] };
        let conv = problem.conv();
        let x = tensor(problem.input(), 3, &noise(problem.input().iter().product(), 3));
        let mut out = BlockedTensor::new(problem.geometry().output(problem.input()), 3);
        let products = (out.shape().iter().product::<usize>() * inputs * kernel * kernel) as f64;
        let transposed = Conv::transposed(problem.geometry(), &problem.weights());
        let time = |work: &mut dyn FnMut()| {
            let seconds = (0..5).map(|_| {
                let (start, rounds) = (computed(), (1e10 / products).ceil());
                (0..rounds as usize).for_each(|_| work());
                (computed() - start) / rounds
            });
            2.0 * products / seconds.fold(f64::INFINITY, f64::min) / 1e9
        };
        let arch = Arch::new();
        let (start, keep) = (Accumulate::Zero, Epilogue::Keep);
        let taps = time(&mut || {
            conv.sum_over_taps(arch, &mut [ConvPass { x: &x, start, finish: keep, out: &mut out }]);
        });
        let forward = time(&mut || conv.apply(&x, start, Epilogue::Relu, &mut out));
        let (y, mut grad) = (out.clone(), x.clone());
        let backward = time(&mut || transposed.apply(&y, start, Epilogue::Mask(&x), &mut grad));
        let (x, y) = ([x], [y]);
        let gradient = time(&mut || drop(problem.geometry().weight_gradient(&x, &y)));
        eprintln!(
            "{:?} / {stride}, {side} x {side}, Gflop/s: {taps:.0} over taps, {forward:.0} forward,",
            [inputs, outputs, kernel]
        );
        eprintln!("    {backward:.0} backward, {gradient:.0} to the weights");
    }
}

/// A depthwise convolution of an image `[height * width, channels]`, written out.
fn depthwise(side: usize, [height, width]: [usize; 2], x: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f64> {
    let (channels, border) = (bias.len(), side / 2);
    let at = |y: usize, x: usize, c: usize| (y * width + x) * channels + c;
    let mut sums = vec![0.0; x.len()];
    for (y, column, c) in (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..channels).map(move |c| (y, x, c))))
    {
        let mut sum = f64::from(bias[c]);
        for (i, weight) in weights[c * side * side..][..side * side].iter().enumerate() {
            let (from_y, from_x) = ((y + i / side).wrapping_sub(border), (column + i % side).wrapping_sub(border));
            if from_y < height && from_x < width {
                sum += f64::from(*weight) * f64::from(x[at(from_y, from_x, c)]);
            }
        }
        sums[at(y, column, c)] = sum;
    }
    sums
}

#[test]
fn depthwise_convolutions_are_their_sums() {
    for (side, channels, size) in [(7, 5, [6, 11]), (7, 16, [3, 8]), (3, 40, [9, 5]), (1, 17, [1, 1])] {
        let count = size[0] * size[1] * channels;
        let (x, grad) = (noise(count, 1), noise(count, 2));
        let (weights, bias) = (noise(channels * side * side, 3), noise(channels, 4));
        let conv = Depthwise::new(side, &weights, &bias);
        let expected = depthwise(side, size, &x, &weights, &bias);
        for arch in archs() {
            let (mut out, mut back) = (vec![9.0; count], vec![9.0; count]);
            conv.apply_on(arch, size, &x, &mut out);
            conv.transposed().apply_on(arch, size, &grad, &mut back);
            let off = out.iter().zip(&expected).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
            assert!(off < 1e-5, "{side} {channels} {size:?}: {off}");
            // The transposed map: <conv(x), grad> - <bias, grad> = <x, transposed(grad)>.
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let shift: f64 = grad.chunks_exact(channels).map(|row| dot(row, &bias)).sum();
            assert!((dot(&out, &grad) - shift - dot(&x, &back)).abs() < 1e-3, "{side} {channels} {size:?}");
        }
    }
}
