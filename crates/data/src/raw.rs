//! Pools of images that are stored as arrays of bytes, one image after another.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use image::{Rgb, RgbImage};

use crate::pool::PoolImages;

/// The order of an image's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[height, width, channels]`.
    Pixels,
    /// `[channels, height, width]`.
    Planes,
    /// `[channels, width, height]`: planes, column by column.
    Columns,
}

/// The shape of every image of a pool, and the order of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub order: Order,
}

impl Shape {
    /// Number of bytes of an image.
    pub fn bytes(self) -> usize {
        self.channels * self.height * self.width
    }

    /// The side of the images, if they are square.
    pub fn side(self) -> Option<usize> {
        (self.height == self.width).then_some(self.height)
    }

    /// Refuses images without pixels, and other numbers of channels than those of grey levels, of colours, and of
    /// colours with transparency.
    pub fn check(self) -> Result<Self, String> {
        let Self { channels, height, width, .. } = self;
        if !matches!(channels, 1 | 3 | 4) || height == 0 || width == 0 {
            return Err(format!("holds images of {height} x {width} pixels with {channels} channels; expected 1 or 3"));
        }
        Ok(self)
    }

    fn at(self, channel: usize, y: usize, x: usize) -> usize {
        // Grey levels are all colours; transparency is dropped.
        let channel = if self.channels == 1 { 0 } else { channel };
        match self.order {
            Order::Pixels => (y * self.width + x) * self.channels + channel,
            Order::Planes => (channel * self.height + y) * self.width + x,
            Order::Columns => (channel * self.width + x) * self.height + y,
        }
    }
}

/// Where the bytes are.
enum Bytes {
    Memory(Vec<u8>),
    /// A file, and the offset of the first image.
    File(Mutex<File>, u64),
}

/// Images that lie one after another.
pub(crate) struct RawImages {
    shape: Shape,
    bytes: Bytes,
    place: PathBuf,
}

impl RawImages {
    /// Images in memory, which were read from `place`.
    pub fn new(shape: Shape, bytes: Vec<u8>, place: &Path) -> Self {
        Self { shape, bytes: Bytes::Memory(bytes), place: place.to_path_buf() }
    }

    /// Images that are read from a file when they are asked for. The first begins at `offset`.
    pub fn in_file(shape: Shape, file: File, offset: u64, place: &Path) -> Self {
        Self { shape, bytes: Bytes::File(Mutex::new(file), offset), place: place.to_path_buf() }
    }

    fn image(&self, index: u32) -> io::Result<Cow<'_, [u8]>> {
        let (size, index) = (self.shape.bytes(), index as usize);
        match &self.bytes {
            Bytes::Memory(bytes) => Ok(Cow::Borrowed(&bytes[index * size..(index + 1) * size])),
            Bytes::File(file, offset) => {
                let mut bytes = vec![0; size];
                // The file has no state but its position, which is set each time.
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset + (index * size) as u64))?;
                file.read_exact(&mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

impl PoolImages for RawImages {
    fn picture(&self, index: u32) -> Result<RgbImage, String> {
        let (bytes, shape) = (self.image(index).map_err(|error| error.to_string())?, self.shape);
        Ok(RgbImage::from_fn(shape.width as u32, shape.height as u32, |x, y| {
            Rgb([0, 1, 2].map(|channel| bytes[shape.at(channel, y as usize, x as usize)]))
        }))
    }

    fn copy(&self, index: u32, chw: &mut [u8]) -> bool {
        let Ok(bytes) = self.image(index) else { return false };
        let Shape { channels, height, width, order } = self.shape;
        if order == Order::Planes && channels == 3 {
            chw.copy_from_slice(&bytes);
            return true;
        }
        let mut levels = chw.iter_mut();
        for channel in 0..3 {
            for y in 0..height {
                for x in 0..width {
                    if let Some(level) = levels.next() {
                        *level = bytes[self.shape.at(channel, y, x)];
                    }
                }
            }
        }
        true
    }

    fn place(&self, index: u32) -> PathBuf {
        self.place.join(format!("image {index}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every order holds the same picture, whose level says where a pixel lies.
    #[test]
    fn every_order_gives_the_same_picture() {
        let level = |channel: usize, y: usize, x: usize| (100 * channel + 10 * y + x) as u8;
        let bytes = |order: Order| -> Vec<u8> {
            match order {
                Order::Pixels => (0..18).map(|i| level(i % 3, i / 9, i / 3 % 3)).collect(),
                Order::Planes => (0..18).map(|i| level(i / 6, i / 3 % 2, i % 3)).collect(),
                Order::Columns => (0..18).map(|i| level(i / 6, i % 2, i / 2 % 3)).collect(),
            }
        };
        let expected = RgbImage::from_fn(3, 2, |x, y| Rgb([0, 1, 2].map(|c| level(c, y as usize, x as usize))));
        let planes = bytes(Order::Planes);
        for order in [Order::Pixels, Order::Planes, Order::Columns] {
            let shape = Shape { channels: 3, height: 2, width: 3, order };
            let two = [vec![7; 18], bytes(order)].concat();
            let images = RawImages::new(shape, two.clone(), Path::new("x"));
            assert_eq!(images.picture(1), Ok(expected.clone()), "{order:?}");
            let mut chw = vec![0; 18];
            assert!(images.copy(1, &mut chw));
            assert_eq!(chw, planes, "{order:?}");
            let mut file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut file, &[&[1, 2, 3][..], &two].concat()).unwrap();
            assert_eq!(RawImages::in_file(shape, file, 3, Path::new("x")).picture(1), Ok(expected.clone()));
        }
    }

    #[test]
    fn grey_levels_are_all_colours_and_transparency_is_dropped() {
        let shape = Shape { channels: 1, height: 1, width: 2, order: Order::Pixels };
        let grey = RawImages::new(shape, vec![3, 4], Path::new("x"));
        assert_eq!(grey.picture(0).unwrap().into_raw(), [3, 3, 3, 4, 4, 4]);
        let clear = RawImages::new(Shape { channels: 4, ..shape }, vec![1, 2, 3, 0, 5, 6, 7, 9], Path::new("x"));
        assert_eq!(clear.picture(0).unwrap().into_raw(), [1, 2, 3, 5, 6, 7]);
        assert!(Shape { channels: 2, ..shape }.check().is_err() && Shape { width: 0, ..shape }.check().is_err());
    }
}
