//! An artifact in the making.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::identity::Identity;
use crate::lock::Lock;
use crate::manifest::{InputRecord, Manifest};
use crate::payload::{Artifact, PayloadWriter};
use crate::{Result, StoreError, fs, time};

/// Output that nobody sees before it is published. Dropped, it is removed.
#[derive(Debug)]
pub struct Draft<'a> {
    lock: &'a Lock,
    writer: PayloadWriter,
}

/// What a publisher knows of an artifact beyond its files.
#[derive(Debug, Clone)]
pub struct ManifestDraft {
    /// What decided the content.
    pub identity: Identity,
    /// The artifacts that were read, by role.
    pub inputs: BTreeMap<String, InputRecord>,
    /// The device that computed it, such as `cpu`.
    pub device: String,
    /// Whether that device gives the same bytes every time.
    pub deterministic: bool,
    /// The version of hemlock that computed it.
    pub hemlock_version: String,
    /// The pipeline that asked for it.
    pub pipeline: String,
    /// How long it took to compute, in seconds.
    pub seconds: f64,
    /// Short facts about the content: [`Artifact::summary`].
    pub summary: Value,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(lock: &'a Lock, output: PathBuf) -> Self {
        Self { lock, writer: PayloadWriter::new(output, lock.stage()) }
    }

    /// A writer of files of the given [`Artifact::KIND`].
    pub fn writer(&mut self, kind: &str) -> &mut PayloadWriter {
        self.writer.set_kind(kind);
        &mut self.writer
    }

    /// Writes an artifact.
    ///
    /// # Errors
    /// Those of [`PayloadWriter`].
    pub fn write<A: Artifact>(&mut self, artifact: &A) -> Result<()> {
        artifact.write(self.writer(A::KIND))
    }

    /// Makes the output the task's artifact, in place of an older one, and removes the task's checkpoint.
    ///
    /// Every file and the manifest are on the disk before the folder gets its name in one step. A crash
    /// while an older artifact is being replaced can lose the older one, but never shows a mixture.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if the identity is not the locked task's or its inputs are not those
    /// recorded; [`StoreError::Io`].
    pub fn publish(self, about: ManifestDraft) -> Result<Manifest> {
        let ManifestDraft { identity, inputs, device, deterministic, hemlock_version, pipeline, seconds, summary } =
            about;
        let key = identity.key();
        if identity.stage != self.lock.stage() || key != *self.lock.key() {
            return Err(StoreError::refused(format!(
                "{}/{key} cannot be published under the lock of {}/{}",
                identity.stage,
                self.lock.stage(),
                self.lock.key()
            )));
        }
        if !identity.inputs.iter().eq(inputs.iter().map(|(role, input)| (role, &input.key))) {
            return Err(StoreError::refused(format!(
                "the inputs recorded for {}/{key} are not those of its identity",
                identity.stage
            )));
        }
        if !seconds.is_finite() {
            return Err(StoreError::refused(format!("{}/{key} cannot have taken {seconds} seconds", identity.stage)));
        }
        let files = self.writer.files().clone();
        let manifest = Manifest {
            format: Manifest::format(),
            key,
            content: Manifest::content_of(&files),
            identity,
            inputs,
            files,
            device,
            deterministic,
            hemlock_version,
            pipeline,
            created: time::now(),
            seconds,
            summary,
        };
        self.lock.publish(&manifest.to_text()?)?;
        Ok(manifest)
    }
}

impl Drop for Draft<'_> {
    /// Frees the space of output that was not published; there is none left of output that was.
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir(self.writer.dir()) {
            tracing::warn!("unpublished output stays behind: {e}");
        }
    }
}
