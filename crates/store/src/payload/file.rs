//! One payload file: written as a whole, or opened and read with its digest checked.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::element::Element;
use super::header::{self, Encoding, HEADER_LEN, Header};
use super::mapped::Mapped;
use crate::fs::open;
use crate::manifest::FileRecord;
use crate::{Result, StoreError};

/// Number of bytes that are read and hashed at a time: enough to share between threads, and few enough for their
/// caches.
const CHUNK: usize = 4 << 20;

/// An open payload file with a valid header and the length that the header gives.
#[derive(Debug)]
pub struct PayloadFile {
    path: PathBuf,
    file: File,
    raw: [u8; HEADER_LEN],
    header: Header,
}

impl PayloadFile {
    /// Writes a new file and waits until it is on the disk.
    pub fn create(path: &Path, label: &str, encoding: Encoding, shape: &[usize], body: &[u8]) -> Result<FileRecord> {
        let (raw, digest) = header::encode(encoding, shape, label, body)?;
        File::create(path)
            .and_then(|mut file| {
                file.write_all(&raw)?;
                file.write_all(body)?;
                file.sync_all()
            })
            .map_err(StoreError::io(path, "write"))?;
        Ok(FileRecord { bytes: (HEADER_LEN + body.len()) as u64, digest })
    }

    /// Opens a file, and checks everything except the digest.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open(path)?.ok_or_else(|| StoreError::missing(path, "payload file"))?;
        let found = file.metadata().map_err(StoreError::io(path, "read"))?.len();
        let mut raw = [0; HEADER_LEN];
        file.read_exact(&mut raw).map_err(|e| read_error(path, e))?;
        let header = header::parse(path, &raw)?;
        let promised = HEADER_LEN as u64 + header.body_len as u64;
        if found != promised {
            return Err(StoreError::corrupt(
                path,
                format!("it is {found} bytes long, and its header promises {promised}"),
            ));
        }
        Ok(Self { path: path.to_owned(), file, raw, header })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Refuses a file whose label or encoding is another.
    pub fn expect(&self, label: &str, encoding: Encoding) -> Result<()> {
        let mismatch = |expected: &str, found: &str| {
            Err(StoreError::Mismatch { path: self.path.clone(), expected: expected.into(), found: found.into() })
        };
        if self.header.label != label {
            return mismatch(&format!("`{label}`"), &format!("`{}`", self.header.label));
        }
        if self.header.encoding != encoding {
            return mismatch(encoding.describe(), self.header.encoding.describe());
        }
        Ok(())
    }

    /// Refuses a file that is not the one that the manifest lists.
    pub fn expect_record(&self, record: &FileRecord) -> Result<()> {
        if self.header.digest != record.digest {
            return Err(StoreError::corrupt(&self.path, "it is not the file that its manifest lists"));
        }
        Ok(())
    }

    /// Reads the body into `body`, whose length must be the body's, and checks the digest.
    pub fn read_into(mut self, body: &mut [u8]) -> Result<()> {
        let mut hasher = header::hasher(&self.raw);
        for chunk in body.chunks_mut(CHUNK) {
            self.file.read_exact(chunk).map_err(|e| read_error(&self.path, e))?;
            hasher.update_rayon(chunk);
        }
        self.check(&hasher)
    }

    /// Maps the body into memory, and checks the digest.
    pub fn map<T: Element>(self) -> Result<Mapped<T>> {
        let mapped =
            Mapped::new(&self.file, self.header.shape.clone()).map_err(|e| StoreError::io(&self.path, "map")(e))?;
        let mut hasher = header::hasher(&self.raw);
        for chunk in mapped.bytes().chunks(CHUNK) {
            hasher.update_rayon(chunk);
        }
        self.check(&hasher)?;
        Ok(mapped)
    }

    /// Checks the digest without keeping the body in memory.
    pub fn verify(mut self) -> Result<()> {
        let mut hasher = header::hasher(&self.raw);
        let mut buffer = vec![0; CHUNK.min(self.header.body_len)];
        let mut left = self.header.body_len;
        while left > 0 {
            let chunk = &mut buffer[..CHUNK.min(left)];
            self.file.read_exact(chunk).map_err(|e| read_error(&self.path, e))?;
            hasher.update_rayon(chunk);
            left -= chunk.len();
        }
        self.check(&hasher)
    }

    /// Reads a part of the body, beginning at byte `from`, without checking the digest.
    #[cfg(unix)]
    pub fn read_at(&self, part: &mut [u8], from: usize) -> Result<()> {
        use std::os::unix::fs::FileExt;
        self.file.read_exact_at(part, (HEADER_LEN + from) as u64).map_err(|e| read_error(&self.path, e))
    }

    /// Reads a part of the body, beginning at byte `from`, without checking the digest.
    #[cfg(not(unix))]
    pub fn read_at(&self, part: &mut [u8], from: usize) -> Result<()> {
        use std::io::{Seek, SeekFrom};
        let mut file = &self.file;
        file.seek(SeekFrom::Start((HEADER_LEN + from) as u64))
            .and_then(|_| file.read_exact(part))
            .map_err(|e| read_error(&self.path, e))
    }

    fn check(&self, hasher: &blake3::Hasher) -> Result<()> {
        if *hasher.finalize().as_bytes() != *self.header.digest.as_bytes() {
            return Err(StoreError::corrupt(&self.path, "its content does not match its digest"));
        }
        Ok(())
    }
}

fn read_error(path: &Path, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => StoreError::corrupt(path, "it is cut short"),
        _ => StoreError::io(path, "read")(error),
    }
}
