//! Names of nodes that results and reports know, because they describe the setting of every result by the parameters
//! of these nodes. All other stages are known by their roles. A test checks that the graph has these nodes.

/// The images that the extractor is pre-trained on. Without this node, it is pre-trained on [`DOWNSTREAM_IMAGES`].
pub const PRETRAINING_IMAGES: &str = "dataset.pretrain";
/// The images that heads are trained and tested on.
pub const DOWNSTREAM_IMAGES: &str = "dataset.downstream";
/// The attacker's extractor, which is also that of victims unless they have another one.
pub const EXTRACTOR: &str = "pretrain";
/// The extractor that victims use, if it is not the attacker's.
pub const VICTIM_EXTRACTOR: &str = "victim-extractor.pretrain";
/// The features of the downstream images under the attacker's extractor.
pub const FEATURES: &str = "features";
/// The clean head and the target head.
pub const TARGET: &str = "target-params";

/// All of them.
pub const ALL: [&str; 6] = [PRETRAINING_IMAGES, DOWNSTREAM_IMAGES, EXTRACTOR, VICTIM_EXTRACTOR, FEATURES, TARGET];
