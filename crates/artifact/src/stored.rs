//! Arrays that may be larger than memory.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use hemlock_store::{Element, Mapped, PayloadReader, PayloadWriter, Scratch, StoreError};
use ndarray::{Array, ArrayView, ArrayViewMut, Dimension, Ix2, Ix4};

/// An array in memory, or in a file that is mapped into memory.
#[derive(Debug)]
pub struct Stored<T, D: Dimension>(Place<T, D>);

/// A matrix of features, `[n, d]`: one row per sample.
pub type Matrix = Stored<f32, Ix2>;

/// 8-bit RGB images, `[n, 3, height, width]`.
pub type Pixels = Stored<u8, Ix4>;

#[derive(Debug)]
enum Place<T, D: Dimension> {
    Memory(Array<T, D>),
    /// A file of an artifact, whose array has as many axes as `D`.
    File(Arc<Mapped<T>>),
    /// A file without a name, whose array has as many axes as `D`.
    Scratch(Scratch<T>),
    /// Memory that belongs to somebody else, and is read only.
    Lent(Arc<dyn Lent<T>>, D),
}

/// Memory of an array that somebody else owns, such as the host language of a library.
pub trait Lent<T>: AsRef<[T]> + fmt::Debug + Send + Sync {}

impl<T, A: AsRef<[T]> + fmt::Debug + Send + Sync> Lent<T> for A {}

impl<T: Element, D: Dimension> Stored<T, D> {
    /// Makes an array of zeros in a file without a name, in the folder `dir`.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file cannot be made, for example because the disk is full.
    pub fn scratch(dir: &Path, shape: D) -> Result<Self, StoreError> {
        Ok(Self(Place::Scratch(Scratch::zeros(dir, shape.slice())?)))
    }

    /// An array that stays where it is, in C order. Returns `None` if the memory is not that of an array of this shape.
    #[must_use]
    pub fn lent(memory: Arc<dyn Lent<T>>, shape: D) -> Option<Self> {
        let volume = shape.slice().iter().try_fold(1usize, |volume, axis| volume.checked_mul(*axis));
        let fits = volume == Some((*memory).as_ref().len());
        fits.then_some(Self(Place::Lent(memory, shape)))
    }

    /// A view of the array.
    #[must_use]
    pub fn view(&self) -> ArrayView<'_, T, D> {
        let (shape, data) = match &self.0 {
            Place::Memory(array) => return array.view(),
            Place::File(mapped) => (mapped.shape(), mapped.data()),
            Place::Scratch(scratch) => (scratch.shape(), scratch.data()),
            Place::Lent(memory, shape) => (shape.slice(), (**memory).as_ref()),
        };
        match ArrayView::from_shape(dimension::<D>(shape), data) {
            Ok(view) => view,
            Err(e) => unreachable!("a mapped array fills its shape: {e}"),
        }
    }

    /// A mutable view of the array. An array in an artifact's file, or in memory that is lent, is copied into memory
    /// first.
    pub fn view_mut(&mut self) -> ArrayViewMut<'_, T, D> {
        if let Place::File(_) | Place::Lent(..) = self.0 {
            self.0 = Place::Memory(self.view().to_owned());
        }
        match &mut self.0 {
            Place::Memory(array) => array.view_mut(),
            Place::Scratch(scratch) => {
                let shape = dimension::<D>(scratch.shape());
                match ArrayViewMut::from_shape(shape, scratch.data_mut()) {
                    Ok(view) => view,
                    Err(e) => unreachable!("a mapped array fills its shape: {e}"),
                }
            }
            Place::File(_) | Place::Lent(..) => unreachable!("it was copied"),
        }
    }

    /// Maps a block of an artifact into memory.
    pub(crate) fn read(r: &PayloadReader, name: &str) -> Result<Self, StoreError> {
        let mapped = r.map::<T>(name)?;
        let (found, expected) = (mapped.shape().len(), D::NDIM.expect("stored arrays have a fixed number of axes"));
        if found != expected {
            return Err(r.corrupt(name, format!("has {found} axes; expected {expected}")));
        }
        Ok(Self(Place::File(Arc::new(mapped))))
    }

    /// Writes the array as a C-ordered block.
    pub(crate) fn write(&self, w: &mut PayloadWriter, name: &str) -> Result<(), StoreError> {
        let view = self.view();
        let ordered = view.as_standard_layout();
        w.array(name, view.shape(), ordered.as_slice().expect("an array in standard layout is contiguous"))
    }
}

/// Converts a shape that has as many axes as `D`.
fn dimension<D: Dimension>(shape: &[usize]) -> D {
    let mut dimension = D::zeros(shape.len());
    dimension.slice_mut().copy_from_slice(shape);
    dimension
}

impl<T, D: Dimension> From<Array<T, D>> for Stored<T, D> {
    fn from(array: Array<T, D>) -> Self {
        Self(Place::Memory(array))
    }
}

/// An array in an artifact's file, or in memory that is lent, is shared. Any other is copied into memory.
impl<T: Element, D: Dimension> Clone for Stored<T, D> {
    fn clone(&self) -> Self {
        match &self.0 {
            Place::File(mapped) => Self(Place::File(Arc::clone(mapped))),
            Place::Lent(memory, shape) => Self(Place::Lent(Arc::clone(memory), shape.clone())),
            Place::Memory(_) | Place::Scratch(_) => self.view().to_owned().into(),
        }
    }
}

impl<T: Element + PartialEq, D: Dimension> PartialEq for Stored<T, D> {
    fn eq(&self, other: &Self) -> bool {
        self.view() == other.view()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, Dim};

    fn numbers() -> Array2<f32> {
        Array2::from_shape_fn((3, 4), |(i, j)| (i * 10 + j) as f32)
    }

    /// An array in each of its places, with the bytes that are written for it.
    #[test]
    fn every_place_holds_the_same_array() {
        let dir = tempfile::tempdir().unwrap();
        let mut scratch = Matrix::scratch(dir.path(), Dim([3, 4])).unwrap();
        assert_eq!(scratch.view(), Array2::<f32>::zeros((3, 4)));
        scratch.view_mut().assign(&numbers());
        let mut writer = PayloadWriter::new(dir.path(), "test");
        scratch.write(&mut writer, "scratch").unwrap();
        // Stored by columns, and written by rows.
        let memory = Matrix::from(numbers().reversed_axes().as_standard_layout().into_owned().reversed_axes());
        memory.write(&mut writer, "memory").unwrap();
        let reader = PayloadReader::new(dir.path(), "test", writer.files().clone());
        for name in ["scratch", "memory"] {
            let mut read = Matrix::read(&reader, name).unwrap();
            assert_eq!(read.view(), numbers());
            assert_eq!((read.clone(), scratch.clone()), (memory.clone(), memory.clone()));
            // A change stays in memory, and does not reach the file.
            read.view_mut()[[0, 0]] = 7.0;
            assert_ne!(read, scratch);
            assert_eq!(Matrix::read(&reader, name).unwrap(), scratch);
            let error = Stored::<f32, Ix4>::read(&reader, name).unwrap_err().to_string();
            assert!(error.contains("has 2 axes; expected 4"), "{error}");
        }
    }

    #[test]
    fn lent_memory_is_viewed_where_it_is() {
        let memory: Arc<dyn Lent<f32>> = Arc::new(numbers().into_raw_vec_and_offset().0);
        let place = (*memory).as_ref().as_ptr();
        let mut lent = Matrix::lent(Arc::clone(&memory), Dim([3, 4])).unwrap();
        assert_eq!((lent.view(), lent.view().as_ptr()), (numbers().view(), place));
        assert_eq!(lent.clone().view().as_ptr(), place);
        lent.view_mut()[[0, 0]] = 7.0;
        assert_eq!(((*memory).as_ref()[0], lent.view()[[0, 0]]), (0.0, 7.0), "a change stays in a copy");
        for shape in [[4, 4], [usize::MAX, 2], [0, 0]] {
            assert!(Matrix::lent(Arc::clone(&memory), Dim(shape)).is_none());
        }
    }

    #[test]
    fn arrays_may_be_empty_and_have_to_fit_somewhere() {
        let dir = tempfile::tempdir().unwrap();
        let mut empty = Matrix::scratch(dir.path(), Dim([0, 4])).unwrap();
        assert_eq!(empty.view().dim(), (0, 4));
        assert_eq!(empty.view_mut().dim(), (0, 4));
        let error = Matrix::scratch(dir.path(), Dim([usize::MAX, 2])).unwrap_err().to_string();
        assert!(error.contains("too large"), "{error}");
        let nowhere = Matrix::scratch(&dir.path().join("nowhere"), Dim([1, 1])).unwrap_err().to_string();
        assert!(nowhere.contains("nowhere"), "{nowhere}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a scratch file has no name");
    }
}
