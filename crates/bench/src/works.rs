//! The list of works.

mod artifacts;
mod attacks;
mod heads;
mod networks;
mod planning;

use crate::Work;
use artifacts::Artifacts;
use attacks::{Bilevel, Canceling};
use heads::{Training, TrainingOnDevice};
use hemlock_attack::Solver;
use hemlock_training::Method;
use networks::{Decoding, Extraction, Gradient, Matching, Pretraining, Size};
use planning::Planning;

/// Works with their names.
pub type Works = Vec<(&'static str, Box<dyn Work>)>;

/// Returns all works for the processor. A new work is a new line here; if it has a peer, also in
/// `benches/peer/works.py`.
#[must_use]
pub fn works() -> Works {
    let size = |arch, images| Size::new(arch, images, "flex");
    vec![
        ("extraction", Box::new(Extraction(size("resnet20", 256)))),
        ("image-gradient", Box::new(Gradient(size("resnet20", 256)))),
        ("feature-matching", Box::new(Matching { size: size("resnet20", 64), refined: false })),
        ("extraction-resnet18", Box::new(Extraction(size("resnet18", 64)))),
        ("image-gradient-resnet18", Box::new(Gradient(size("resnet18", 64)))),
        ("feature-matching-resnet18", Box::new(Matching { size: size("resnet18", 32), refined: false })),
        ("extraction-vit-small", Box::new(Extraction(size("vit-small-p16", 16).at(224)))),
        ("image-gradient-vit-small", Box::new(Gradient(size("vit-small-p16", 8).at(224)))),
        ("feature-matching-vit-small", Box::new(Matching { size: size("vit-small-p16", 4).at(224), refined: false })),
        ("extraction-vit-base", Box::new(Extraction(size("vit-base-p16", 8).at(224)))),
        ("image-gradient-vit-base", Box::new(Gradient(size("vit-base-p16", 4).at(224)))),
        ("feature-matching-vit-base", Box::new(Matching { size: size("vit-base-p16", 4).at(224), refined: false })),
        ("extraction-convnext-tiny", Box::new(Extraction(size("convnext-tiny", 16).at(224)))),
        ("image-gradient-convnext-tiny", Box::new(Gradient(size("convnext-tiny", 8).at(224)))),
        ("extraction-clip-resnet50", Box::new(Extraction(size("clip-resnet50", 16).at(224)))),
        ("image-gradient-clip-resnet50", Box::new(Gradient(size("clip-resnet50", 8).at(224)))),
        ("simclr-resnet20", Box::new(Pretraining { method: Method::Simclr, size: size("resnet20", 128) })),
        ("simclr-resnet18", Box::new(Pretraining { method: Method::Simclr, size: size("resnet18", 128) })),
        ("moco-resnet20", Box::new(Pretraining { method: Method::MocoV3, size: size("resnet20", 128) })),
        ("moco-resnet18", Box::new(Pretraining { method: Method::MocoV3, size: size("resnet18", 128) })),
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

/// Returns the works that are large enough for a GPU, on the given device. Each has a line in `benches/peer/gpu.py`,
/// too. `images` replaces the numbers of images (512 or 1,024, which keep a GPU busy) and of samples, to try the works
/// on smaller hardware.
#[must_use]
pub fn gpu_works(device: &str, images: Option<usize>) -> Works {
    let size = |arch, many: usize| Size::new(arch, images.unwrap_or(many), device);
    let pretraining = |method, size| Box::new(Pretraining { method, size });
    let matching = |refined| Box::new(Matching { size: size("resnet18", 512), refined });
    let head = Training { samples: images.unwrap_or(200_000), dim: 768 };
    vec![
        ("gpu-extraction-resnet18", Box::new(Extraction(size("resnet18", 1024)))),
        ("gpu-extraction-resnet50", Box::new(Extraction(size("resnet50", 1024)))),
        ("gpu-extraction-vit-small", Box::new(Extraction(size("vit-small-p4", 1024)))),
        ("gpu-extraction-vit-base", Box::new(Extraction(size("vit-base-p4", 1024)))),
        ("gpu-image-gradient-resnet18", Box::new(Gradient(size("resnet18", 512)))),
        ("gpu-image-gradient-resnet50", Box::new(Gradient(size("resnet50", 512)))),
        ("gpu-image-gradient-vit-small", Box::new(Gradient(size("vit-small-p4", 512)))),
        ("gpu-image-gradient-vit-base", Box::new(Gradient(size("vit-base-p4", 512)))),
        ("gpu-simclr-resnet18", pretraining(Method::Simclr, size("resnet18", 512))),
        ("gpu-moco-v3-resnet18", pretraining(Method::MocoV3, size("resnet18", 512))),
        ("gpu-matching-resnet18", matching(false)),
        ("gpu-refinement-resnet18", matching(true)),
        ("gpu-decoder-resnet18", Box::new(Decoding(size("resnet18", 1024)))),
        ("gpu-head", Box::new(TrainingOnDevice { of: head, device: device.to_owned() })),
    ]
}
