//! The typed contents of artifacts, which stages pass to each other.
//!
//! Every type here implements [`hemlock_store::Artifact`], which says in which files of an artifact its arrays and
//! values are stored. Arrays are C-ordered. Pixels are 8-bit RGB, `[n, 3, height, width]`.

mod arrays;
mod attack_id;
mod attack_spec;
mod dataset;
mod decoder;
mod defence;
mod evaluation;
mod export;
mod extractor;
mod features;
mod groups;
mod measured;
mod poisons;
mod stored;
mod target;

pub use attack_id::AttackId;
pub use attack_spec::{AttackSpec, SimulatedFilter};
pub use dataset::{Dataset, Images};
pub use decoder::{DecoderArtifact, Reconstruction};
pub use defence::{Defence, Detection};
pub use evaluation::{Accuracy, Answers, Certificate, Drawn, Evaluation, Outcome, PixelChange, Victim, Visibility};
pub use export::{Data, Export, Exported, Tensor};
pub use extractor::{DescribedProcess, Epoch, ExtractorArtifact, Verified};
pub use features::{FeatureSplit, Features, Normalization};
pub use groups::TestGroups;
pub use measured::{Measured, Role, TrainingSet};
pub use poisons::{CurvePoint, LearnerState, OUTLIER, PoisonFeatures, PoisonFit, Poisons, Stopped, median};
pub use stored::{Lent, Matrix, Pixels, Stored};
pub use target::{Bounds, PathPoint, SteppedBack, TargetParams};
