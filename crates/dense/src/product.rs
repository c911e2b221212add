//! Products of matrices.

use pulp::{Arch, Simd, WithSimd};

/// Columns of a panel.
const PANEL: usize = 64;
/// Steps of the inner dimension that are taken without a test of bounds.
const STEPS: usize = 8;

/// Rows of the blocks at the end, where no larger block fits.
const REST: usize = 4;

/// A row of a panel.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Row([f32; PANEL]);

/// The right factor of a product, `[inner, columns]`.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    inner: usize,
    columns: usize,
    /// `[panels][inner]`. Columns beyond the last one are zero.
    rows: Vec<Row>,
}

impl Packed {
    /// A matrix `[inner, columns]`, of which `row(i)` is row `i`.
    #[must_use]
    pub fn new<'a>(shape: [usize; 2], row: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut packed = Self::default();
        packed.set(shape, row);
        packed
    }

    /// The transpose of a matrix `[columns, inner]`, of which `row(i)` is row `i`; the shape is that of the result.
    #[must_use]
    pub fn transpose<'a>(shape: [usize; 2], row: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut packed = Self::default();
        packed.set_transposed(shape, row);
        packed
    }

    /// Overwrites the matrix as [`Packed::new`] makes it, and reuses its memory.
    pub fn set<'a>(&mut self, shape: [usize; 2], row: impl Fn(usize) -> &'a [f32]) {
        self.resize(shape);
        for i in 0..self.inner {
            let row = &row(i)[..self.columns];
            for (panel, columns) in row.chunks(PANEL).enumerate() {
                self.rows[panel * self.inner + i].0[..columns.len()].copy_from_slice(columns);
            }
        }
    }

    /// Overwrites the matrix as [`Packed::transpose`] makes it, and reuses its memory.
    pub fn set_transposed<'a>(&mut self, shape: [usize; 2], row: impl Fn(usize) -> &'a [f32]) {
        self.resize(shape);
        for column in 0..self.columns {
            let panel = &mut self.rows[column / PANEL * self.inner..][..self.inner];
            for (to, value) in panel.iter_mut().zip(&row(column)[..self.inner]) {
                to.0[column % PANEL] = *value;
            }
        }
    }

    fn resize(&mut self, [inner, columns]: [usize; 2]) {
        if [self.inner, self.columns] != [inner, columns] {
            (self.inner, self.columns) = (inner, columns);
            self.rows.clear();
            self.rows.resize(inner * columns.div_ceil(PANEL), Row([0.0; PANEL]));
        }
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// The left factor of a product, `[rows, inner]`, or the transpose of `[inner, rows]`.
#[derive(Debug, Clone, Copy)]
pub struct Left<'a> {
    values: &'a [f32],
    /// Values from one row of the stored matrix to the next.
    stride: usize,
    transposed: bool,
}

impl<'a> Left<'a> {
    /// A matrix whose rows begin `stride` values apart.
    #[must_use]
    pub fn rows(values: &'a [f32], stride: usize) -> Self {
        Self { values, stride, transposed: false }
    }

    /// The transpose of a matrix whose rows begin `stride` values apart.
    #[must_use]
    pub fn columns(values: &'a [f32], stride: usize) -> Self {
        Self { values, stride, transposed: true }
    }
}

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub enum Addend<'a> {
    /// Nothing: the result is overwritten.
    Zero,
    /// The same row for every row of the result, which is overwritten.
    Bias(&'a [f32]),
    /// The values that the result already holds.
    Result,
    /// The values that the result already holds, and the same row for every row.
    ResultAndBias(&'a [f32]),
}

/// Writes `left` times `right`, `[rows, right.columns()]`, to `out`, whose rows begin `stride` values apart.
///
/// # Panics
/// If a slice is too short for its shape.
pub fn product(rows: usize, left: Left<'_>, right: &Packed, out: &mut [f32], stride: usize, start: Addend<'_>) {
    if right.inner == 0 || rows == 0 {
        return;
    }
    Arch::new().dispatch(Product { rows, left, right, out, stride, start });
}

struct Product<'a> {
    rows: usize,
    left: Left<'a>,
    right: &'a Packed,
    out: &'a mut [f32],
    stride: usize,
    start: Addend<'a>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The sums that are held in registers must be at least as many as the processor can have in flight, and fewer
        // than its registers. The parameters are the rows of a block, and its vectors.
        match S::F32_LANES {
            16 => self.panels::<S, 6, 4>(simd),
            _ => self.panels::<S, 4, 2>(simd),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn panels<S: Simd, const R: usize, const V: usize>(mut self, simd: S) {
        let right = self.right;
        for (number, panel) in right.rows.chunks_exact(right.inner).enumerate() {
            let mut at = 0;
            let columns = (right.columns - number * PANEL).min(PANEL);
            while at < columns {
                let from = number * PANEL;
                if columns - at > (V - 1) * S::F32_LANES {
                    self.column::<S, R, V>(simd, panel, from, at, columns);
                    at += V * S::F32_LANES;
                } else {
                    self.column::<S, R, 1>(simd, panel, from, at, columns);
                    at += S::F32_LANES;
                }
            }
        }
    }

    /// All rows of the columns `at` to `at + V * lanes` of a panel, of which `columns` are not padding.
    #[inline(always)]
    fn column<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        panel: &[Row],
        from: usize,
        at: usize,
        columns: usize,
    ) {
        let mut row = 0;
        let span = (from + at, columns - at);
        while row + R <= self.rows {
            let sums = self.sums::<S, R, V>(simd, panel, row, at);
            self.store(simd, row, span, sums);
            row += R;
        }
        while row + REST <= self.rows {
            let sums = self.sums::<S, REST, V>(simd, panel, row, at);
            self.store(simd, row, span, sums);
            row += REST;
        }
        while row < self.rows {
            let sums = self.sums::<S, 1, V>(simd, panel, row, at);
            self.store(simd, row, span, sums);
            row += 1;
        }
    }

    /// `R` rows from `row` on, of `V` vectors of columns from `at` on.
    #[inline(always)]
    fn sums<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        panel: &[Row],
        row: usize,
        at: usize,
    ) -> [[S::f32s; V]; R] {
        let Left { values, stride, transposed } = self.left;
        let width = V * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        if transposed {
            for (k, right) in panel.iter().enumerate() {
                let left = &values[k * stride + row..][..R];
                step(simd, &mut sums, |i| left[i], &right.0[at..at + width]);
            }
            return sums;
        }
        let mut left: [&[f32]; R] = [&[]; R];
        for (i, left) in left.iter_mut().enumerate() {
            *left = &values[(row + i) * stride..][..panel.len()];
        }
        let (chunks, rest) = panel.as_chunks::<STEPS>();
        for (c, rights) in chunks.iter().enumerate() {
            let mut lefts = [&[0.0; STEPS]; R];
            for (to, left) in lefts.iter_mut().zip(left) {
                *to = &left.as_chunks::<STEPS>().0[c];
            }
            for (k, right) in rights.iter().enumerate() {
                step(simd, &mut sums, |i| lefts[i][k], &right.0[at..at + width]);
            }
        }
        for (k, right) in rest.iter().enumerate() {
            step(simd, &mut sums, |i| left[i][STEPS * chunks.len() + k], &right.0[at..at + width]);
        }
        sums
    }

    /// Writes sums to rows from `row` on, and columns from the first number of `span` on, at most as many as the
    /// second.
    #[inline(always)]
    fn store<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        (from, count): (usize, usize),
        sums: [[S::f32s; V]; R],
    ) {
        let count = count.min(V * S::F32_LANES);
        let (adds, bias) = match self.start {
            Addend::Zero => (false, None),
            Addend::Bias(bias) => (false, Some(bias)),
            Addend::Result => (true, None),
            Addend::ResultAndBias(bias) => (true, Some(bias)),
        };
        let bias = bias.map(|bias| &bias[from..from + count]);
        for (i, sums) in sums.into_iter().enumerate() {
            let out = &mut self.out[(row + i) * self.stride + from..][..count];
            for (v, (to, sum)) in out.chunks_mut(S::F32_LANES).zip(sums).enumerate() {
                let mut sum = sum;
                if let Some(bias) = bias {
                    let bias = &bias[v * S::F32_LANES..][..to.len()];
                    sum = simd.add_f32s(sum, simd.partial_load_f32s(bias));
                }
                if adds {
                    sum = simd.add_f32s(sum, simd.partial_load_f32s(to));
                }
                simd.partial_store_f32s(to, sum);
            }
        }
    }
}

/// Adds the outer product of a column and a row to the sums.
#[inline(always)]
fn step<S: Simd, const R: usize, const V: usize>(
    simd: S,
    sums: &mut [[S::f32s; V]; R],
    left: impl Fn(usize) -> f32,
    right: &[f32],
) {
    let (vectors, _) = S::as_simd_f32s(right);
    let mut row = [simd.splat_f32s(0.0); V];
    for (to, from) in row.iter_mut().zip(vectors) {
        *to = *from;
    }
    for (i, sums) in sums.iter_mut().enumerate() {
        let value = simd.splat_f32s(left(i));
        for (sum, right) in sums.iter_mut().zip(row) {
            *sum = simd.mul_add_e_f32s(value, right, *sum);
        }
    }
}
