//! The works.

mod artifacts;
mod attacks;
mod heads;
mod networks;
mod planning;

use crate::Work;
use artifacts::Artifacts;
use attacks::{Bilevel, Canceling};
use heads::Training;
use hemlock_poison_features::Solver;
use networks::{Extraction, Gradient, Matching, Simclr};
use planning::Planning;

/// All works by name. A new one is a new line here; one that has a peer has its line in `benches/peer/works.py`, too.
#[must_use]
pub fn works() -> Vec<(&'static str, Box<dyn Work>)> {
    vec![
        ("extraction", Box::new(Extraction)),
        ("image-gradient", Box::new(Gradient)),
        ("feature-matching", Box::new(Matching)),
        ("simclr-resnet20", Box::new(Simclr("resnet20"))),
        ("simclr-resnet18", Box::new(Simclr("resnet18"))),
        ("head", Box::new(Training { samples: 10_000, dim: 64 })),
        ("head-large", Box::new(Training { samples: 50_000, dim: 512 })),
        ("gradient-canceling", Box::new(Canceling(Solver::Lbfgs))),
        ("gradient-canceling-adam", Box::new(Canceling(Solver::Adam))),
        ("bilevel", Box::new(Bilevel)),
        ("artifact-write", Box::new(Artifacts::Write)),
        ("artifact-read", Box::new(Artifacts::Read)),
        ("artifact-digest", Box::new(Artifacts::Digest)),
        ("planning", Box::new(Planning)),
    ]
}
