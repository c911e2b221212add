//! Arrays that stay on disk and are read through memory.

use std::fs::File;
use std::io;
use std::marker::PhantomData;

use memmap2::Mmap;

use super::element::Element;
use super::header::HEADER_LEN;

/// An array of an artifact, mapped into memory: the system reads parts of it when they are used, and drops them when
/// memory is short. So it may be larger than memory.
#[derive(Debug)]
pub struct Mapped<T> {
    shape: Vec<usize>,
    map: Mmap,
    element: PhantomData<T>,
}

impl<T: Element> Mapped<T> {
    /// Maps a payload file whose length and element type were checked against its header.
    pub(super) fn new(file: &File, shape: Vec<usize>) -> io::Result<Self> {
        // SAFETY: the mapped memory changes if somebody changes the file. Artifacts are published whole, by a rename, and never
        // written again; what else may touch files below the artifact root is as little our business as what writes to our
        // process's memory.
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
        // Maps begin at a page, and the header's length is a multiple of every element's alignment.
        bytemuck::cast_slice(&self.map[HEADER_LEN..])
    }

    /// The body as bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map[HEADER_LEN..]
    }
}
