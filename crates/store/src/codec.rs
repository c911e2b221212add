//! Encoding of values as bytes and back: bincode 2 behind two functions.
//!
//! bincode is no longer maintained: 2.0.1 is its last release that works. It is small, does what is needed, and is only
//! given bytes whose digest was checked. No other module names it, so another codec can replace it here, under a new
//! number in [`Encoding`](crate::payload::Encoding).

use bincode::config::{Configuration, Limit, LittleEndian, Varint, standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest size of an encoded value, in bytes. Arrays have no such limit and hold most of the data.
pub const MAX_BYTES: usize = 256 << 20;

const CONFIG: Configuration<LittleEndian, Varint, Limit<MAX_BYTES>> = standard().with_limit::<MAX_BYTES>();

/// Encodes a value, or returns why it cannot be encoded.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let bytes = bincode::serde::encode_to_vec(value, CONFIG).map_err(|e| e.to_string())?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("it takes {} bytes, more than {MAX_BYTES}", bytes.len()));
    }
    Ok(bytes)
}

/// Decodes a value from all of the bytes, or returns why they do not encode one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|e| e.to_string())?;
    if used != bytes.len() {
        return Err(format!("{} bytes are left over", bytes.len() - used));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_over_bytes_are_an_error() {
        let mut bytes = encode(&(7_u32, "seven".to_owned())).unwrap();
        assert_eq!(decode::<(u32, String)>(&bytes).unwrap(), (7, "seven".to_owned()));
        bytes.push(0);
        assert!(decode::<(u32, String)>(&bytes).unwrap_err().contains("left over"));
    }

    #[test]
    fn a_promised_length_is_not_believed() {
        let bytes = encode(&u64::MAX).unwrap();
        assert!(decode::<Vec<u8>>(&bytes).is_err());
    }
}
