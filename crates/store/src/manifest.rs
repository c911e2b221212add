//! Manifests: readable descriptions of artifacts, their origin and their files.
//!
//! `manifest.json` is a [`sealed`](crate::sealed) file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hash::{Digest, Key};
use crate::identity::Identity;
use crate::sealed::{FORMAT, seal, unseal};
use crate::{Result, StoreError};

/// The description of a published artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the manifest, as major.minor.
    pub format: String,
    /// The artifact's name: the key of its identity.
    pub key: Key,
    /// The identity, which decided the content.
    pub identity: Identity,
    /// The artifacts that were read, by role.
    pub inputs: BTreeMap<String, InputRecord>,
    /// The payload files, by name.
    pub files: BTreeMap<String, FileRecord>,
    /// A digest of the names and digests of the files. Equal contents have equal digests, whatever made them.
    pub content: Digest,
    /// The device that computed the artifact, such as `cpu`.
    pub device: String,
    /// Whether that device gives the same bytes every time.
    pub deterministic: bool,
    /// The version of hemlock that computed the artifact.
    pub hemlock_version: String,
    /// The pipeline that asked for the artifact first.
    pub pipeline: String,
    /// The time of publication, RFC 3339 in UTC.
    pub created: String,
    /// The duration of the computation, in seconds.
    pub seconds: f64,
    /// Short facts about the content, for people.
    pub summary: Value,
}

/// An artifact that a task read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputRecord {
    /// The stage that made the artifact.
    pub stage: String,
    /// The artifact's key.
    pub key: Key,
    /// The digest of the content that was read.
    pub content: Digest,
}

/// A payload file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// The length of the whole file, in bytes.
    pub bytes: u64,
    /// The digest in the file's header, which covers the whole file.
    pub digest: Digest,
}

impl Manifest {
    /// The format that this version writes, as major.minor.
    pub(crate) fn format() -> String {
        FORMAT.to_owned()
    }

    /// Computes the digest of a set of files.
    pub(crate) fn content_of(files: &BTreeMap<String, FileRecord>) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for (name, record) in files {
            hasher.update(format!("{name} {}\n", record.digest).as_bytes());
        }
        hasher.finalize().into()
    }

    /// Returns the text of `manifest.json`.
    pub(crate) fn to_text(&self) -> Result<String> {
        let illegal =
            |e: serde_json::Error| StoreError::refused(format!("the manifest of {} is not JSON: {e}", self.key));
        seal(serde_json::to_value(self).map_err(illegal)?).map_err(illegal)
    }

    /// Parses the text of the `manifest.json` at `path`. Any change to the text is an error.
    pub(crate) fn from_text(path: &Path, text: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| StoreError::corrupt(path, what);
        let fields = unseal(path, text)?;
        let manifest: Self = serde_json::from_value(fields).map_err(|e| corrupt(&format!("it is no manifest: {e}")))?;
        if manifest.key != manifest.identity.key() {
            return Err(corrupt("its key is not that of its identity"));
        }
        if manifest.content != Self::content_of(&manifest.files) {
            return Err(corrupt("its content digest is not that of its files"));
        }
        Ok(manifest)
    }
}
