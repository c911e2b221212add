//! A convolution's weights, packed for both directions.

use crate::kernel::{Finish, Matrix, Phase, Run, Start, Tap};
use crate::planes::{LANES, Lanes, Planes};
use pulp::Arch;

/// A convolution (in the sense of networks: a correlation) with square kernel, zero padding, and stride 1 or 2.
#[derive(Debug, Clone)]
pub struct Conv {
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    bias: Vec<Lanes>,
    forward: Direction,
    backward: Direction,
}

/// Matrices, and what they are applied to.
#[derive(Debug, Clone)]
struct Direction {
    /// `[output blocks][input blocks][kernel rows][kernel columns]`.
    matrices: Vec<Matrix>,
    phases: Vec<Phase>,
}

impl Conv {
    /// A convolution with weights `[outputs, inputs, kernel, kernel]` and a bias for each output (or none).
    ///
    /// # Panics
    /// Weights or bias of another length; a stride that is neither 1 nor 2; padding by a kernel or more.
    #[must_use]
    pub fn new(
        [outputs, inputs, kernel]: [usize; 3],
        weights: &[f32],
        bias: &[f32],
        stride: usize,
        padding: usize,
    ) -> Self {
        assert_eq!(weights.len(), outputs * inputs * kernel * kernel, "weights of another shape");
        assert!(bias.is_empty() || bias.len() == outputs, "a bias of another length");
        assert!((1..=2).contains(&stride) && padding < kernel, "stride {stride}, padding {padding}");
        let lanes = |values: &[f32]| {
            let mut lanes = Lanes::default();
            lanes.0[..values.len()].copy_from_slice(values);
            lanes
        };
        let taps = kernel * kernel;
        let weight = |output: usize, input: usize, tap: usize| weights[(output * inputs + input) * taps + tap];
        Self {
            inputs,
            outputs,
            kernel,
            stride,
            padding,
            bias: bias.chunks(LANES).map(lanes).collect(),
            forward: Direction {
                matrices: matrices([outputs, inputs, taps], weight),
                phases: vec![forwards(kernel, stride, padding)],
            },
            backward: Direction {
                matrices: matrices([inputs, outputs, taps], |input, output, tap| weight(output, input, tap)),
                phases: backwards(kernel, stride, padding),
            },
        }
    }

    /// The shape of what this makes of planes of that shape.
    ///
    /// # Panics
    /// Planes with other channels, or smaller than the kernel.
    #[must_use]
    pub fn shape(&self, [images, channels, height, width]: [usize; 4]) -> [usize; 4] {
        assert_eq!(channels, self.inputs, "planes with other channels");
        let side = |length: usize| (length + 2 * self.padding - self.kernel) / self.stride + 1;
        [images, self.outputs, side(height), side(width)]
    }

    /// The border that planes need to be read by this: forwards, and backwards.
    #[must_use]
    pub fn borders(&self) -> [usize; 2] {
        let reach = |direction: &Direction| {
            let taps = direction.phases.iter().flat_map(|phase| &phase.taps);
            taps.flat_map(|tap| [tap.dy, tap.dx]).map(isize::unsigned_abs).max().unwrap_or(0)
        };
        [reach(&self.forward), reach(&self.backward)]
    }

    /// `finish(start + bias + self * x)`.
    ///
    /// # Panics
    /// Planes of shapes that do not fit, or with too small a border.
    pub fn forward(&self, x: &Planes, start: Start, finish: Finish, out: &mut Planes) {
        assert_eq!(out.shape(), self.shape(x.shape()), "planes of another shape");
        self.forward.run(x, &self.bias, start, finish, out);
    }

    /// `finish(start + dx)`: of a function with the derivative `of` by what [`Conv::forward`] makes of x, without its finish, the
    /// derivative by x.
    ///
    /// # Panics
    /// Planes of shapes that do not fit, or with too small a border.
    pub fn backward(&self, of: &Planes, start: Start, finish: Finish, dx: &mut Planes) {
        assert_eq!(of.shape(), self.shape(dx.shape()), "planes of another shape");
        self.backward.run(of, &[], start, finish, dx);
    }
}

impl Direction {
    fn run(&self, x: &Planes, bias: &[Lanes], start: Start, finish: Finish, out: &mut Planes) {
        for planes in [start.planes(), finish.planes()].into_iter().flatten() {
            assert_eq!(planes.shape(), out.shape(), "planes of another shape");
        }
        for phase in &self.phases {
            let run = Run { x, phase, matrices: &self.matrices, bias, start, finish, out };
            Arch::new().dispatch(run);
        }
    }
}

fn matrices([outputs, inputs, taps]: [usize; 3], weight: impl Fn(usize, usize, usize) -> f32) -> Vec<Matrix> {
    let blocks = inputs.div_ceil(LANES);
    let mut matrices = vec![[Lanes::default(); LANES]; outputs.div_ceil(LANES) * blocks * taps];
    for output in 0..outputs {
        for input in 0..inputs {
            for tap in 0..taps {
                let matrix = &mut matrices[((output / LANES) * blocks + input / LANES) * taps + tap];
                matrix[input % LANES].0[output % LANES] = weight(output, input, tap);
            }
        }
    }
    matrices
}

fn forwards(kernel: usize, stride: usize, padding: usize) -> Phase {
    let along = |k: usize| k as isize - padding as isize;
    let taps = (0..kernel * kernel).map(|matrix| Tap { dy: along(matrix / kernel), dx: along(matrix % kernel), matrix });
    Phase { taps: taps.collect(), stride, step: 1, offset: [0, 0] }
}

/// An input pixel `i` is read by the outputs `(i + padding - k) / stride` that are whole. Which taps these are depends on `i` modulo
/// the stride: a phase for each.
fn backwards(kernel: usize, stride: usize, padding: usize) -> Vec<Phase> {
    let phase = |top: usize, left: usize| {
        let along = |offset: usize, k: usize| {
            let distance = (offset + padding) as isize - k as isize;
            (distance.rem_euclid(stride as isize) == 0).then(|| distance.div_euclid(stride as isize))
        };
        let tap = |matrix| {
            Some(Tap { dy: along(top, matrix / kernel)?, dx: along(left, matrix % kernel)?, matrix })
        };
        Phase { taps: (0..kernel * kernel).filter_map(tap).collect(), stride: 1, step: stride, offset: [top, left] }
    };
    (0..stride).flat_map(|top| (0..stride).map(move |left| (top, left))).map(|(top, left)| phase(top, left)).collect()
}
