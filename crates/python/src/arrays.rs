//! NumPy's arrays, seen where they are.
#![allow(unsafe_code, reason = "memory that Python owns is read without a copy")]

use crate::failure::Failed;
use hemlock_artifact::{Matrix, Pixels, Stored};
use ndarray::{ArrayView, Dimension, Ix2};
use numpy::{Element, PyArray, PyArray1, PyArray2, PyArray4, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use std::sync::Arc;

/// The elements of an array of Python's in C order, which keeps the array.
pub(crate) struct Lent<T, D: Dimension> {
    start: *const T,
    elements: usize,
    shape: D,
    _owner: Py<PyArray<T, D>>,
}

// SAFETY: the memory belongs to an array that `_owner` keeps alive, and NumPy does not move the memory of an array. It
// is only read. If another thread of Python writes into the array meanwhile, what is read may be old or new, as with
// NumPy's own functions, which release the lock, too.
unsafe impl<T: Sync, D: Dimension> Send for Lent<T, D> {}
unsafe impl<T: Sync, D: Dimension> Sync for Lent<T, D> {}

impl<T: Element, D: Dimension> Lent<T, D> {
    /// The array, if it is in C order.
    fn of(array: &Bound<'_, PyArray<T, D>>) -> PyResult<Self> {
        if !array.is_c_contiguous() {
            return Err(PyTypeError::new_err("expected an array in C order"));
        }
        let shape = array.dims();
        Ok(Self { start: array.data(), elements: array.len(), shape, _owner: array.clone().unbind() })
    }
}

impl<T, D: Dimension> Lent<T, D> {
    pub(crate) fn view(&self) -> ArrayView<'_, T, D> {
        match ArrayView::from_shape(self.shape.clone(), self.as_ref()) {
            Ok(view) => view,
            Err(e) => unreachable!("the elements of an array fill its shape: {e}"),
        }
    }
}

impl<T, D: Dimension> AsRef<[T]> for Lent<T, D> {
    fn as_ref(&self) -> &[T] {
        if self.elements == 0 {
            return &[];
        }
        // SAFETY: `start` points to as many elements, which are aligned: `rust-numpy` casts no other arrays. `_owner`
        // keeps them.
        unsafe { std::slice::from_raw_parts(self.start, self.elements) }
    }
}

impl<T, D: Dimension> std::fmt::Debug for Lent<T, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an array of Python's of shape {:?}", self.shape)
    }
}

/// A matrix of 32-bit or of 64-bit floats.
#[derive(Debug)]
pub(crate) enum Floats {
    F32(Lent<f32, Ix2>),
    F64(Lent<f64, Ix2>),
}

impl Floats {
    /// The matrix, as a view.
    pub(crate) fn of(array: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(array) = array.cast::<PyArray2<f32>>() {
            return Ok(Self::F32(Lent::of(array)?));
        }
        match array.cast::<PyArray2<f64>>() {
            Ok(array) => Ok(Self::F64(Lent::of(array)?)),
            Err(_) => Err(PyTypeError::new_err("expected a matrix of floats")),
        }
    }

    /// The samples of the rows.
    pub(crate) fn samples<'a>(
        &'a self,
        labels: &'a [u32],
        classes: usize,
    ) -> Result<hemlock_head::Samples<'a>, Failed> {
        let samples = match self {
            Self::F32(lent) => hemlock_head::Samples::from_f32(lent.view(), labels, classes),
            Self::F64(lent) => hemlock_head::Samples::new(lent.view(), labels, classes),
        };
        samples.map_err(crate::failure::failed)
    }
}

/// A matrix of 32-bit floats, which stays where it is.
pub(crate) fn matrix(array: &Bound<'_, PyArray2<f32>>) -> PyResult<Matrix> {
    stored(array)
}

/// 8-bit images `[n, 3, height, width]`, which stay where they are.
pub(crate) fn pixels(array: &Bound<'_, PyArray4<u8>>) -> PyResult<Pixels> {
    stored(array)
}

fn stored<T, D>(array: &Bound<'_, PyArray<T, D>>) -> PyResult<Stored<T, D>>
where
    T: Element + hemlock_store::Element,
    D: Dimension + 'static,
{
    let lent = Lent::of(array)?;
    let shape = lent.shape.clone();
    Stored::lent(Arc::new(lent), shape).ok_or_else(|| Failed::internal("an array does not fill its shape").into())
}

/// The labels of some samples.
pub(crate) fn labels(array: &Bound<'_, PyArray1<u32>>) -> Vec<u32> {
    array.to_owned_array().into_raw_vec_and_offset().0
}
