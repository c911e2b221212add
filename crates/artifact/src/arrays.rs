//! Reading and writing of `ndarray` arrays as payload blocks.

use hemlock_store::{Element, PayloadReader, PayloadWriter, StoreError};
use ndarray::{Array, Dimension};

type Result<T> = std::result::Result<T, StoreError>;

/// Writes an array as a C-ordered block, whatever its memory layout.
pub(crate) fn write<T: Element, D: Dimension>(w: &mut PayloadWriter, name: &str, array: &Array<T, D>) -> Result<()> {
    let array = array.as_standard_layout();
    w.array(name, array.shape(), array.as_slice().expect("an array in standard layout is contiguous"))
}

/// Reads a block as an array of `D` dimensions.
pub(crate) fn read<T: Element, D: Dimension>(r: &PayloadReader, name: &str) -> Result<Array<T, D>> {
    let block = r.array::<T>(name)?;
    let shape = block.shape.clone();
    ndarray::ArrayD::from_shape_vec(shape.clone(), block.data)
        .and_then(Array::into_dimensionality)
        .map_err(|_| r.corrupt(name, format!("has shape {shape:?}; expected {} dimensions", D::NDIM.unwrap_or(0))))
}

/// Reads a block of one dimension.
pub(crate) fn read_vec<T: Element>(r: &PayloadReader, name: &str) -> Result<Vec<T>> {
    Ok(r.array::<T>(name)?.data)
}

/// Writes a block of one dimension.
pub(crate) fn write_vec<T: Element>(w: &mut PayloadWriter, name: &str, data: &[T]) -> Result<()> {
    w.array(name, &[data.len()], data)
}
