//! Drafts: artifacts that are not published yet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::identity::Identity;
use crate::lock::Lock;
use crate::manifest::{InputRecord, Manifest};
use crate::payload::{Artifact, PayloadWriter};
use crate::{Result, StoreError, fs, time};

/// An artifact's output before it is published, which no reader sees. It is removed when it is dropped.
#[derive(Debug)]
pub struct Draft<'a> {
    lock: &'a Lock,
    writer: PayloadWriter,
}

/// The facts about an artifact that go into its manifest, except its files.
#[derive(Debug, Clone)]
pub struct ManifestDraft {
    /// The identity, which decided the content.
    pub identity: Identity,
    /// The artifacts that were read, by role.
    pub inputs: BTreeMap<String, InputRecord>,
    /// The device that computed the artifact, such as `cpu`.
    pub device: String,
    /// Whether that device gives the same bytes every time.
    pub deterministic: bool,
    /// The version of hemlock that computed the artifact.
    pub hemlock_version: String,
    /// The pipeline that asked for the artifact.
    pub pipeline: String,
    /// The duration of the computation, in seconds.
    pub seconds: f64,
    /// Short facts about the content: [`Artifact::summary`].
    pub summary: Value,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(lock: &'a Lock, output: PathBuf) -> Self {
        Self { lock, writer: PayloadWriter::new(output, lock.stage()) }
    }

    /// Returns the writer of the output's files, for artifacts of the given [`Artifact::KIND`].
    pub fn writer(&mut self, kind: &str) -> &mut PayloadWriter {
        self.writer.set_kind(kind);
        &mut self.writer
    }

    /// Writes an artifact to the output.
    ///
    /// # Errors
    /// The errors of [`PayloadWriter`].
    pub fn write<A: Artifact>(&mut self, artifact: &A) -> Result<()> {
        artifact.write(self.writer(A::KIND))
    }

    /// Publishes the output as the task's artifact, replacing an older one, and removes the task's checkpoint.
    ///
    /// The folder gets its final name in one step, after every file and the manifest are on the disk. A crash while an
    /// older artifact is being replaced may lose the older one, but never shows a mixture of both.
    ///
    /// # Errors
    /// - [`StoreError::Refused`] if `about` names another task than the locked one, inputs that differ from those of
    ///   its identity, or a duration that is not finite.
    /// - [`StoreError::Io`] if the file system fails.
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
    /// Removes output that was not published. After publishing there is none left.
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir(self.writer.dir()) {
            tracing::warn!("unpublished output stays behind: {e}");
        }
    }
}
