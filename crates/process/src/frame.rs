//! Frames: a header of 36 bytes, and a payload. All numbers are little-endian.
//!
//! | offset | type | field |
//! | --- | --- | --- |
//! | 0 | 4 bytes | `HMLK` |
//! | 4 | u16 | version of the protocol, [`VERSION`] |
//! | 6 | u16 | kind: that of a request ([`Request`]), the same plus [`ANSWER`], or [`FAILED`] |
//! | 8 | u64 | number of the request, which the answer repeats |
//! | 16 | u64 | number of a kept forward pass; 0 for none |
//! | 24 | u32 | number of images |
//! | 28 | u64 | length of the payload in bytes |

use crate::Fault;

/// Version of the protocol.
pub const VERSION: u16 = 1;

/// The first bytes of a frame.
pub const MAGIC: [u8; 4] = *b"HMLK";

/// Length of a header in bytes.
pub const HEADER: usize = 36;

/// What is added to the kind of a request in its answer.
pub const ANSWER: u16 = 0x8000;

/// The kind of an answer whose payload says, in UTF-8, why the request failed.
pub const FAILED: u16 = 0xffff;

/// What a child is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Request {
    /// A description of the extractor, as JSON.
    Describe = 1,
    /// The features of images, and, if the header names a pass, that it is kept under that number.
    Forward = 2,
    /// The gradient with respect to the pixels of a kept pass, which is then forgotten.
    Backward = 3,
    /// The gradient with respect to the pixels of the images in the payload.
    Vjp = 4,
    /// To forget a kept pass. There is no answer.
    Release = 5,
    /// To end. There is no answer.
    Shutdown = 6,
}

impl Request {
    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Vjp => "vjp",
            Self::Release => "release",
            Self::Shutdown => "shutdown",
        }
    }

    /// The kind of the answer.
    #[must_use]
    pub fn answer(self) -> u16 {
        self as u16 | ANSWER
    }
}

/// The header of a frame of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Kind of the frame.
    pub kind: u16,
    /// Number of the request.
    pub request: u64,
    /// Number of a kept pass; 0 for none.
    pub pass: u64,
    /// Number of images.
    pub images: u32,
    /// Length of the payload in bytes.
    pub length: u64,
}

impl FrameHeader {
    /// The header as it is written.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.request.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.pass.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.images.to_le_bytes());
        bytes[28..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// - [`Fault::Printed`] if the bytes do not begin with [`MAGIC`];
    /// - [`Fault::Version`] if the frame is of another version of the protocol.
    pub fn from_bytes(bytes: &[u8; HEADER]) -> Result<Self, Fault> {
        if bytes[..4] != MAGIC {
            return Err(Fault::printed(bytes));
        }
        let version = u16::from_le_bytes(part(bytes, 4));
        if version != VERSION {
            return Err(Fault::Version { found: version });
        }
        Ok(Self {
            kind: u16::from_le_bytes(part(bytes, 6)),
            request: u64::from_le_bytes(part(bytes, 8)),
            pass: u64::from_le_bytes(part(bytes, 16)),
            images: u32::from_le_bytes(part(bytes, 24)),
            length: u64::from_le_bytes(part(bytes, 28)),
        })
    }
}

/// `N` bytes of a header, from `start`.
fn part<const N: usize>(bytes: &[u8; HEADER], start: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[start + i])
}

/// A frame whose payload is the arrays, one after the other. The length in `header` is replaced by theirs.
#[must_use]
pub fn framed(header: FrameHeader, arrays: &[&[f32]]) -> Vec<u8> {
    let length: usize = arrays.iter().map(|values| 4 * values.len()).sum();
    let mut bytes = vec![0; HEADER + length];
    bytes[..HEADER].copy_from_slice(&FrameHeader { length: length as u64, ..header }.to_bytes());
    let places = bytes[HEADER..].as_chunks_mut::<4>().0;
    for (to, value) in places.iter_mut().zip(arrays.iter().copied().flatten()) {
        *to = value.to_le_bytes();
    }
    bytes
}

/// The numbers of a payload. Bytes at its end that are no whole number are left out.
#[must_use]
pub fn numbers(payload: &[u8]) -> Vec<f32> {
    payload.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = FrameHeader> {
        (any::<u16>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>())
            .prop_map(|(kind, request, pass, images, length)| FrameHeader { kind, request, pass, images, length })
    }

    proptest! {
        #[test]
        fn a_header_round_trips(header in header()) {
            prop_assert_eq!(FrameHeader::from_bytes(&header.to_bytes()), Ok(header));
        }

        /// Damage to magic or version is an error, and any other damage is another header.
        #[test]
        fn no_damage_goes_unnoticed(header in header(), place in 0..HEADER, bit in 0..8) {
            let mut bytes = header.to_bytes();
            bytes[place] ^= 1u8 << bit;
            let noticed = match (place, FrameHeader::from_bytes(&bytes)) {
                (0..4, Err(Fault::Printed { .. })) | (4..6, Err(Fault::Version { .. })) => true,
                (6.., Ok(found)) => found != header,
                _ => false,
            };
            prop_assert!(noticed, "byte {}, bit {}", place, bit);
        }
    }

    /// What Python's `struct.pack("<4sHHQQIQ", b"HMLK", 1, 2, 7, 3, 5, 8) + struct.pack("<2f", 1.0, -2.5)` gives.
    #[test]
    fn the_layout_is_the_documented_one() {
        let header = FrameHeader { kind: Request::Forward as u16, request: 7, pass: 3, images: 5, length: 0 };
        let expected = "484d4c4b01000200070000000000000003000000000000000500000008000000000000000000803f000020c0";
        let bytes = framed(header, &[&[1.0], &[-2.5]]);
        assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
        assert_eq!(numbers(&bytes[HEADER..]), [1.0, -2.5]);
        assert_eq!(numbers(&bytes[HEADER..HEADER + 7]), [1.0]);
    }

    #[test]
    fn text_in_the_place_of_a_frame_is_shown() {
        let mut bytes = [b'.'; HEADER];
        bytes[..6].copy_from_slice(b"hello\n");
        let said = FrameHeader::from_bytes(&bytes).unwrap_err().to_string();
        assert!(said.starts_with("wrote \"hello\\n....") && said.contains("print to stderr"), "{said}");
    }
}
