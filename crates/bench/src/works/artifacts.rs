//! Works on an artifact of 256 MiB: writing it, reading it, and checking its digests.

use crate::{Amount, Limit, PeerInputs, Run, Work};
use anyhow::Result;
use hemlock_artifact::{FeatureSplit, Features, Normalization};
use hemlock_store::{Identity, Manifest, ManifestDraft, Store};
use ndarray::Array2;
use serde_json::{Value, json};
use std::{collections::BTreeMap, hint::black_box};

const SAMPLES: usize = 1 << 17;
const DIM: usize = 512;
const BYTES: usize = SAMPLES * DIM * size_of::<f32>();

/// The operation on the artifact.
#[derive(Clone, Copy)]
pub(super) enum Artifacts {
    /// Writes it with its digests, synchronises it, and publishes it in place of the last one.
    Write,
    /// Maps it into memory, and checks its digests.
    Read,
    /// Checks its digests without keeping it.
    Digest,
}

fn features() -> Features {
    let split = |samples| {
        let features = Array2::from_shape_fn((samples, DIM), |(i, j)| (i ^ j) as f32);
        FeatureSplit::all(features.into(), vec![0; samples])
    };
    Features {
        classes: vec!["one".to_owned(), "other".to_owned()],
        normalization: Normalization::identity(DIM),
        train: split(SAMPLES),
        validation: split(0),
        test: split(0),
        test_groups: None,
    }
}

fn publish(store: &Store, features: &Features) -> Result<Manifest> {
    let identity = Identity {
        stage: "features".to_owned(),
        stage_version: 1,
        params: Value::Null,
        seed: None,
        source: None,
        inputs: BTreeMap::new(),
    };
    let lock = store.lock(&identity.stage, &identity.key(), || ())?;
    let mut draft = lock.begin()?;
    draft.write(features)?;
    Ok(draft.publish(ManifestDraft {
        identity,
        inputs: BTreeMap::new(),
        device: "none".to_owned(),
        deterministic: true,
        hemlock_version: env!("CARGO_PKG_VERSION").to_owned(),
        pipeline: "bench".to_owned(),
        seconds: 0.0,
        summary: Value::Null,
    })?)
}

impl Work for Artifacts {
    fn what(&self) -> String {
        let what = match self {
            Self::Write => "write and publish",
            Self::Read => "map and check",
            Self::Digest => "check",
        };
        format!("{what} an artifact of {} MiB", BYTES >> 20)
    }

    fn amount(&self) -> Result<Option<Amount>> {
        let limit = if matches!(self, Self::Write) { Limit::Disk } else { Limit::Copy };
        Ok(Some(Amount { limit, count: BYTES as f64 }))
    }

    fn prepare(&self) -> Result<Run> {
        let root = tempfile::tempdir()?;
        let features = features();
        let Manifest { identity, key, .. } = publish(&Store::new(root.path()), &features)?;
        let work = *self;
        Ok(Box::new(move || {
            let store = Store::new(root.path());
            match work {
                Self::Write => drop(publish(&store, &features)?),
                Self::Read => {
                    let found = store.lookup(&identity.stage, &key)?;
                    black_box(found.map(|manifest| store.read::<Features>(&manifest)).transpose()?);
                }
                Self::Digest => drop(store.verify(&identity.stage, &key)?),
            }
            Ok(())
        }))
    }

    fn given(&self) -> Result<PeerInputs> {
        Ok(PeerInputs { numbers: json!({ "samples": SAMPLES, "dim": DIM }), ..PeerInputs::default() })
    }
}
