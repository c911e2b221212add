//! Artifacts on disk: keys, manifests, payload files, locks, atomic publishing and garbage collection.
//!
//! ```text
//! <root>/<stage>/<key>/            a published artifact: manifest.json and payload files, never changed
//! <root>/.partial/<stage>-<key>/   scratch of a task: unpublished output, its checkpoint, its pieces
//! <root>/.locks/<stage>-<key>.lock an empty file whose OS lock is held while the task is worked on
//! <root>/.pipelines/               records: what every pipeline reached when it was last run
//! ```
//!
//! The store knows nothing of what stages compute. A task is named by its [`Identity`], whose hash is
//! its [`Key`]. To make an artifact, take its [`Lock`], [`begin`](Lock::begin) a [`Draft`], write an
//! [`Artifact`] and [`publish`](Draft::publish) it.
//!
//! Invariant: a reader sees a whole artifact or none; a crash leaves only [`Garbage`].

mod codec;
mod draft;
mod error;
mod fs;
mod garbage;
mod hash;
pub mod identity;
mod lock;
mod manifest;
mod names;
pub mod payload;
mod record;
mod sealed;
mod store;
mod time;

pub use draft::{Draft, ManifestDraft};
pub use error::{Result, StoreError, StoreErrorKind};
pub use garbage::{Entry, Garbage, Keep, Remains, Removal};
pub use hash::{Digest, Hash, Key, ParseHashError};
pub use identity::{Change, Identity};
pub use lock::{Lock, SharedLock};
pub use manifest::{FileRecord, InputRecord, Manifest};
pub use payload::{Artifact, Block, Element, Mapped, PayloadReader, PayloadWriter, Scratch};
pub use record::{Claim, Record, Sweep};
pub use store::Store;
pub use time::now;
