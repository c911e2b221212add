//! NumPy's arrays, seen where they are.
#![allow(unsafe_code, reason = "memory that Python owns is read without a copy")]

use crate::failure::Failed;
use hemlock_artifact::Matrix;
use ndarray::{ArrayView2, Dim};
use numpy::{Element, PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use std::sync::Arc;

/// The elements of an array of Python's in C order, which keeps the array.
pub(crate) struct Lent<T> {
    start: *const T,
    elements: usize,
    shape: [usize; 2],
    _owner: Py<PyArray2<T>>,
}

// SAFETY: the memory belongs to an array that `_owner` keeps alive, and NumPy does not move the memory of an array. It
// is only read. If another thread of Python writes into the array meanwhile, what is read may be old or new, as with
// NumPy's own functions, which release the lock, too.
unsafe impl<T: Sync> Send for Lent<T> {}
unsafe impl<T: Sync> Sync for Lent<T> {}

impl<T: Element> Lent<T> {
    /// The array, if it is in C order.
    fn of(array: &Bound<'_, PyArray2<T>>) -> PyResult<Self> {
        if !array.is_c_contiguous() {
            return Err(PyTypeError::new_err("expected an array in C order"));
        }
        let shape = [array.shape()[0], array.shape()[1]];
        Ok(Self { start: array.data(), elements: array.len(), shape, _owner: array.clone().unbind() })
    }
}

impl<T> Lent<T> {
    pub(crate) fn view(&self) -> ArrayView2<'_, T> {
        match ArrayView2::from_shape(self.shape, self.as_ref()) {
            Ok(view) => view,
            Err(e) => unreachable!("the elements of an array fill its shape: {e}"),
        }
    }
}

impl<T> AsRef<[T]> for Lent<T> {
    fn as_ref(&self) -> &[T] {
        if self.elements == 0 {
            return &[];
        }
        // SAFETY: `start` points to as many elements, which are aligned: `rust-numpy` casts no other arrays. `_owner`
        // keeps them.
        unsafe { std::slice::from_raw_parts(self.start, self.elements) }
    }
}

impl<T> std::fmt::Debug for Lent<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an array of Python's of shape {:?}", self.shape)
    }
}

/// A matrix of 32-bit or of 64-bit floats.
#[derive(Debug)]
pub(crate) enum Floats {
    F32(Lent<f32>),
    F64(Lent<f64>),
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
    let lent = Lent::of(array)?;
    let shape = Dim(lent.shape);
    Matrix::lent(Arc::new(lent), shape).ok_or_else(|| Failed::internal("a matrix does not fill its shape").into())
}

/// The labels of some samples.
pub(crate) fn labels(array: &Bound<'_, PyArray1<u32>>) -> Vec<u32> {
    array.to_owned_array().into_raw_vec_and_offset().0
}
