//! Arrays in files that are mapped into memory.

use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::path::Path;

use memmap2::{Mmap, MmapMut};

use super::element::Element;
use super::header::{self, HEADER_LEN};
use crate::{Result, StoreError};

/// An array of an artifact, mapped into memory. The system reads parts of it when they are used, and drops them when
/// memory is short, so that the array may be larger than memory.
#[derive(Debug)]
pub struct Mapped<T> {
    shape: Vec<usize>,
    map: Mmap,
    element: PhantomData<T>,
}

impl<T: Element> Mapped<T> {
    /// Maps a payload file whose length and element type have been checked against its header.
    pub(super) fn new(file: &File, shape: Vec<usize>) -> io::Result<Self> {
        // SAFETY: the mapped memory changes if somebody changes the file. Artifacts are published whole, by a rename,
        // and never written again. Guarding against other programs that write below the artifact root is not our task,
        // just as guarding against those that write to our process's memory.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(file)? };
        Ok(Self { shape, map, element: PhantomData })
    }

    /// The length of each axis, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements in C order.
    #[must_use]
    pub fn data(&self) -> &[T] {
        // Maps begin at a page, and the length of the header is a multiple of every element's alignment.
        bytemuck::cast_slice(&self.map[HEADER_LEN..])
    }

    /// The body as bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map[HEADER_LEN..]
    }
}

/// An array that is being made, in a file without a name that is mapped into memory. The system writes parts of it to
/// the disk when memory is short, so that the array may be larger than memory. The space on the disk is reserved from
/// the beginning.
#[derive(Debug)]
pub struct Scratch<T> {
    shape: Vec<usize>,
    map: MmapMut,
    element: PhantomData<T>,
}

impl<T: Element> Scratch<T> {
    /// Makes an array of zeros on the file system of the folder `dir`.
    ///
    /// # Errors
    /// - [`StoreError::Io`] if the file cannot be written, for example because the disk is full.
    /// - [`StoreError::Refused`] if the array's size in bytes overflows.
    pub fn zeros(dir: &Path, shape: &[usize]) -> Result<Self> {
        let bytes = header::volume(shape).and_then(|n| n.checked_mul(size_of::<T>()));
        let bytes = bytes.ok_or_else(|| StoreError::refused(format!("an array of shape {shape:?} is too large")))?;
        let made = tempfile::tempfile_in(dir).and_then(|mut file| {
            // The zeros are written because a map into a sparse file fails where no error can be returned if the disk
            // is full.
            io::copy(&mut io::repeat(0).take(bytes as u64), &mut file)?;
            // SAFETY: the mapped memory changes if somebody changes the file, which has no name by which it could be
            // opened.
            #[allow(unsafe_code)]
            unsafe {
                MmapMut::map_mut(&file)
            }
        });
        let map = made.map_err(StoreError::io(dir, "make a scratch file in"))?;
        Ok(Self { shape: shape.to_vec(), map, element: PhantomData })
    }

    /// The length of each axis, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements in C order.
    #[must_use]
    pub fn data(&self) -> &[T] {
        // Maps begin at a page.
        bytemuck::cast_slice(&self.map)
    }

    /// The elements in C order, mutable.
    pub fn data_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map)
    }
}
