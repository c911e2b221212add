//! A convolution's weights, packed for one direction.

use crate::blocked_tensor::{BlockedTensor, LANES, SimdBlock};
use crate::kernel::{Accumulate, ConvPass, Epilogue, Matrix, Phase, Run, Tap};
use crate::pool::{average, average_derivative, with_scratch};
use crate::winograd::{Direction, OUT, Winograd, Workspace};
use pulp::Arch;
use std::sync::OnceLock;

/// The shape of a convolution without its weights: a square kernel, stride 1 or 2, and zero padding.
///
/// As is usual for neural networks, "convolution" means cross-correlation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Number of input channels.
    pub inputs: usize,
    /// Number of output channels.
    pub outputs: usize,
    /// Side of the kernel, in pixels.
    pub kernel: usize,
    /// Stride: pixels between two positions of the kernel, 1 or 2.
    pub stride: usize,
    /// Zeros that are added at each side of the image.
    pub padding: usize,
}

/// A convolution, or its vector-Jacobian product with respect to the input: a linear map between [`BlockedTensor`]s.
#[derive(Debug, Clone)]
pub struct Conv {
    geometry: Geometry,
    transposed: bool,
    bias: Vec<SimdBlock>,
    /// `[output blocks][input blocks][kernel rows][kernel columns]`.
    matrices: Vec<Matrix>,
    phases: Vec<Phase>,
    /// Whether 2x2 average pooling comes before the convolution, which is one of 1x1.
    averages: bool,
    /// The same weights for [`crate::winograd`], made when they are first used.
    winograd: OnceLock<Winograd>,
    /// Memory for these; `None` is fresh memory.
    workspace: Option<Workspace>,
}

impl Geometry {
    /// The number of weights: those of a tensor `[outputs, inputs, kernel, kernel]`.
    #[must_use]
    pub fn weights(&self) -> usize {
        self.outputs * self.inputs * self.kernel * self.kernel
    }

    /// The shape of the output, `[images, outputs, height, width]`, for an input of shape
    /// `[images, inputs, height, width]`.
    #[must_use]
    pub fn output(&self, [images, _, height, width]: [usize; 4]) -> [usize; 4] {
        let side = |length: usize| (length + 2 * self.padding - self.kernel) / self.stride + 1;
        [images, self.outputs, side(height), side(width)]
    }

    fn check(&self) {
        let Self { stride, padding, kernel, .. } = *self;
        assert!((1..=2).contains(&stride) && padding < kernel, "kernel {kernel}, stride {stride}, padding {padding}");
    }

    /// Whether images whose convolution has that shape are convolved by Winograd's algorithm. This must not depend on
    /// their number: images do not influence each other.
    fn is_minimal(&self, [_, _, height, width]: [usize; 4]) -> bool {
        let Self { inputs, outputs, kernel, stride, padding } = *self;
        let filled = 3 * height * width >= 2 * height.next_multiple_of(OUT) * width.next_multiple_of(OUT);
        // With stride 2, transforms take more, and are worth it for more channels.
        let enough = if stride == 1 { LANES } else { 4 * LANES };
        (kernel, padding) == (3, 1) && inputs.min(outputs) >= enough && filled
    }

    /// The same for the gradient with respect to the weights, from inputs of that shape.
    pub(crate) fn has_minimal_gradient(&self, input: [usize; 4]) -> bool {
        self.stride == 1 && self.is_minimal(input)
    }

    /// The taps of the forward pass, which needs one phase.
    pub(crate) fn forwards(&self) -> Phase {
        let along = |k: usize| k as isize - self.padding as isize;
        let tap = |matrix| Tap { dy: along(matrix / self.kernel), dx: along(matrix % self.kernel), matrix };
        Phase { taps: (0..self.kernel * self.kernel).map(tap).collect(), stride: self.stride, step: 1, offset: [0, 0] }
    }

    /// The phases of the backward pass. Input pixel `i` is read by the outputs `(i + padding - k) / stride` that are
    /// whole numbers. Which taps these are depends on `i` modulo the stride, so that there is one phase for each
    /// remainder.
    fn backwards(&self) -> Vec<Phase> {
        let Self { kernel, stride, padding, .. } = *self;
        let along = |offset: usize, k: usize| {
            let distance = (offset + padding) as isize - k as isize;
            (distance.rem_euclid(stride as isize) == 0).then(|| distance.div_euclid(stride as isize))
        };
        let phase = |offset @ [top, left]: [usize; 2]| {
            let tap =
                |matrix| Some(Tap { dy: along(top, matrix / kernel)?, dx: along(left, matrix % kernel)?, matrix });
            Phase { taps: (0..kernel * kernel).filter_map(tap).collect(), stride: 1, step: stride, offset }
        };
        (0..stride * stride).map(|i| phase([i / stride, i % stride])).collect()
    }
}

impl Conv {
    /// The convolution with weights `[outputs, inputs, kernel, kernel]` and one bias per output channel; an empty
    /// `bias` means zero.
    ///
    /// # Panics
    /// If `weights` or `bias` has another length, if the stride is neither 1 nor 2, or if the padding is not smaller
    /// than the kernel.
    #[must_use]
    pub fn new(geometry: Geometry, weights: &[f32], bias: &[f32]) -> Self {
        assert!(bias.is_empty() || bias.len() == geometry.outputs, "a bias of another length");
        let Geometry { outputs, inputs, .. } = geometry;
        Self {
            matrices: matrices(&geometry, weights, [outputs, inputs], |output, input| [output, input]),
            phases: vec![geometry.forwards()],
            bias: bias.chunks(LANES).map(SimdBlock::from_slice).collect(),
            transposed: false,
            averages: false,
            winograd: OnceLock::new(),
            workspace: None,
            geometry,
        }
    }

    /// 2x2 average pooling of stride 2, and then the convolution of 1x1 with weights `[outputs, inputs]` and a bias as
    /// in [`Conv::new`]. Its geometry is that of the equal convolution of 2x2, which takes four times as long.
    ///
    /// # Panics
    /// As [`Conv::new`].
    #[must_use]
    pub fn with_average_pooling([outputs, inputs]: [usize; 2], weights: &[f32], bias: &[f32]) -> Self {
        let one = Geometry { inputs, outputs, kernel: 1, stride: 1, padding: 0 };
        Self { averages: true, geometry: Geometry { kernel: 2, stride: 2, ..one }, ..Self::new(one, weights, bias) }
    }

    /// The vector-Jacobian product with respect to the input: it maps the gradient with respect to the convolution's
    /// output to the gradient with respect to its input.
    ///
    /// # Panics
    /// As [`Conv::new`].
    #[must_use]
    pub fn transposed(geometry: Geometry, weights: &[f32]) -> Self {
        let Geometry { outputs, inputs, .. } = geometry;
        Self {
            matrices: matrices(&geometry, weights, [inputs, outputs], |input, output| [output, input]),
            phases: geometry.backwards(),
            bias: Vec::new(),
            transposed: true,
            averages: false,
            winograd: OnceLock::new(),
            workspace: None,
            geometry,
        }
    }

    /// The vector-Jacobian product of [`Conv::with_average_pooling`] with respect to the input.
    ///
    /// # Panics
    /// As [`Conv::new`].
    #[must_use]
    pub fn transposed_with_average_pooling([outputs, inputs]: [usize; 2], weights: &[f32]) -> Self {
        let one = Geometry { inputs, outputs, kernel: 1, stride: 1, padding: 0 };
        Self { averages: true, geometry: Geometry { kernel: 2, stride: 2, ..one }, ..Self::transposed(one, weights) }
    }

    /// The same convolution, which takes memory from the workspace and gives it back when it is dropped.
    #[must_use]
    pub fn with_workspace(mut self, workspace: &Workspace) -> Self {
        self.workspace = Some(workspace.clone());
        self
    }

    /// Kernel, stride and padding.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The border that an input of [`Conv::apply`] needs, in pixels.
    #[must_use]
    pub fn border(&self) -> usize {
        let taps = self.phases.iter().flat_map(|phase| &phase.taps);
        let taps = taps.flat_map(|tap| [tap.dy, tap.dx]).map(isize::unsigned_abs).max().unwrap_or(0);
        // The last pixels of the wide tensor may be those of no output: then the one that would follow is read.
        let Geometry { kernel, stride, padding, .. } = self.geometry;
        let beyond = if self.transposed { (kernel - 1 - padding).div_ceil(stride) } else { 0 };
        taps.max(beyond)
    }

    /// Writes `finish(start + bias + conv(x))` to `out`.
    ///
    /// # Panics
    /// If the shapes do not fit, or if the border of `x` is smaller than [`Conv::border`].
    pub fn apply(&self, x: &BlockedTensor, start: Accumulate, finish: Epilogue, out: &mut BlockedTensor) {
        self.apply_on(Arch::new(), x, start, finish, out);
    }

    /// How many tensors of that shape [`Conv::apply_all`] should be given at once: enough to read the weights seldom.
    #[must_use]
    pub fn together(&self, shape: [usize; 4]) -> usize {
        let [images, _, height, width] = self.smaller_shape(shape);
        let tiles = images * height.div_ceil(OUT) * width.div_ceil(OUT);
        if self.is_minimal(shape) { self.direction().batch(self.input_blocks()).div_ceil(tiles.max(1)) } else { 1 }
    }

    /// The smaller of the shapes of input and output, given that of the input.
    fn smaller_shape(&self, shape: [usize; 4]) -> [usize; 4] {
        if self.transposed { shape } else { self.geometry.output(shape) }
    }

    /// Whether inputs of that shape are convolved by Winograd's algorithm.
    pub(crate) fn is_minimal(&self, shape: [usize; 4]) -> bool {
        self.geometry.is_minimal(self.smaller_shape(shape))
    }

    fn direction(&self) -> Direction {
        match (self.geometry.stride, self.transposed) {
            (1, false) => Direction::Forward,
            (1, true) => Direction::Backward,
            (_, false) => Direction::StridedForward,
            (_, true) => Direction::StridedBackward,
        }
    }

    /// [`Conv::apply`] for several tensors at once, which reads the weights less often.
    ///
    /// # Panics
    /// As [`Conv::apply`].
    pub fn apply_all(&self, jobs: &mut [ConvPass<'_>]) {
        self.apply_jobs(Arch::new(), jobs);
    }

    pub(crate) fn apply_on(
        &self,
        arch: Arch,
        x: &BlockedTensor,
        start: Accumulate,
        finish: Epilogue,
        out: &mut BlockedTensor,
    ) {
        self.apply_jobs(arch, &mut [ConvPass { x, start, finish, out }]);
    }

    fn apply_jobs(&self, arch: Arch, jobs: &mut [ConvPass<'_>]) {
        jobs.iter().for_each(|job| self.check(job));
        let minimal = jobs.iter().all(|job| self.is_minimal(job.x.shape()));
        if minimal {
            return self.winograd(arch).apply(arch, &self.bias, jobs);
        }
        if self.averages {
            return jobs.iter_mut().for_each(|job| self.apply_with_average_pooling(arch, job));
        }
        for jobs in jobs.chunk_by_mut(|one, other| (one.x.shape(), one.x.border) == (other.x.shape(), other.x.border)) {
            self.sum_over_taps(arch, jobs);
        }
    }

    /// A pass with average pooling.
    fn apply_with_average_pooling(&self, arch: Arch, job: &mut ConvPass<'_>) {
        let [images, channels, height, width] = if self.transposed { job.out.shape() } else { job.x.shape() };
        with_scratch([images, channels, height / 2, width / 2], |half| {
            if self.transposed {
                let (start, finish) = (Accumulate::Zero, Epilogue::Keep);
                self.sum_over_taps(arch, &mut [ConvPass { x: job.x, start, finish, out: &mut *half }]);
                average_derivative(arch, half, job);
            } else {
                average(arch, job.x, half);
                self.sum_over_taps(arch, &mut [ConvPass { x: half, out: &mut *job.out, ..*job }]);
            }
        });
    }

    /// Makes, on the threads of the current rayon pool, what [`Conv::apply`] to tensors of that shape needs and would
    /// otherwise make when it is first called.
    pub fn prepare(&self, shape: [usize; 4]) {
        if self.is_minimal(shape) && self.winograd.get().is_none() {
            let made = Winograd::in_parallel(
                Arch::new(),
                &self.matrices,
                self.input_blocks(),
                self.direction(),
                self.workspace.as_ref(),
            );
            // If another thread was faster, its weights are the same.
            let _ = self.winograd.set(made);
        }
    }

    /// The transformed weights. They are made on this thread alone: while it holds the lock, it must not take a task of
    /// rayon that waits for the same lock.
    fn winograd(&self, arch: Arch) -> &Winograd {
        self.winograd.get_or_init(|| {
            Winograd::new(arch, &self.matrices, self.input_blocks(), self.direction(), self.workspace.as_ref())
        })
    }

    fn input_blocks(&self) -> usize {
        let inputs = if self.transposed { self.geometry.outputs } else { self.geometry.inputs };
        inputs.div_ceil(LANES)
    }

    /// The inputs must have the same shape and border.
    pub(crate) fn sum_over_taps(&self, arch: Arch, jobs: &mut [ConvPass<'_>]) {
        for phase in &self.phases {
            arch.dispatch(Run { phase, matrices: &self.matrices, bias: &self.bias, jobs: &mut *jobs });
        }
    }

    fn check(&self, ConvPass { x, start, finish, out }: &ConvPass<'_>) {
        let (narrow, wide) = if self.transposed { (x.shape(), out.shape()) } else { (out.shape(), x.shape()) };
        assert_eq!(wide[1], self.geometry.inputs, "a tensor with other channels");
        assert_eq!(narrow, self.geometry.output(wide), "tensors of different shapes");
        assert!(x.border >= self.border(), "a border of {} is read to {}", x.border, self.border());
        for tensor in [start.tensor(), finish.tensor()].into_iter().flatten() {
            assert_eq!(tensor.shape(), out.shape(), "tensors of different shapes");
        }
    }
}

/// Packs weights into blocks of 16 rows by 16 columns. `at` is called with a column and a row and returns the output
/// and the input channel of the weight that stands there.
fn matrices(
    geometry: &Geometry,
    weights: &[f32],
    [columns, rows]: [usize; 2],
    at: impl Fn(usize, usize) -> [usize; 2],
) -> Vec<Matrix> {
    geometry.check();
    assert_eq!(weights.len(), geometry.weights(), "weights of another shape");
    let (taps, blocks) = (geometry.kernel * geometry.kernel, rows.div_ceil(LANES));
    let mut matrices = vec![[SimdBlock::default(); LANES]; columns.div_ceil(LANES) * blocks * taps];
    for column in 0..columns {
        for row in 0..rows {
            let [output, input] = at(column, row);
            let from = &weights[(output * geometry.inputs + input) * taps..][..taps];
            let to = &mut matrices[((column / LANES) * blocks + row / LANES) * taps..][..taps];
            for (to, from) in to.iter_mut().zip(from) {
                to[row % LANES].0[column % LANES] = *from;
            }
        }
    }
    matrices
}
