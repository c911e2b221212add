//! The elements and shapes of arrays.

use super::header::Encoding;

mod sealed {
    pub trait Sealed {}
}

/// A type of numbers that arrays on disk consist of: `f32`, `f64`, `u8` or `u32`.
pub trait Element: bytemuck::Pod + sealed::Sealed {
    /// The encoding by which a file's header names the type.
    #[doc(hidden)]
    const ENCODING: Encoding;
}

macro_rules! element {
    ($($type:ty => $encoding:ident),*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const ENCODING: Encoding = Encoding::$encoding;
        }
    )*};
}

element!(f32 => F32, f64 => F64, u8 => U8, u32 => U32);

/// An array with its shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Block<T> {
    /// The length of each axis, outermost first. There are at most four axes, and a length may be 0.
    pub shape: Vec<usize>,
    /// The elements in C order: the last axis varies fastest.
    pub data: Vec<T>,
}
