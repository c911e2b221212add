//! Neural networks, their weights, and the devices that they run on.
//!
//! - [`device`]: which burn backends are compiled in, and opening one without a panic.
//! - [`network`]: any of the networks, by the name of its architecture.
//! - [`resnet`]: CIFAR ResNets and ResNet-18/34/50, with the parameter names of PyTorch.
//! - [`clip_resnet`]: the ResNets of CLIP, with the parameter names of OpenAI.
//! - [`convnext`]: ConvNeXt, with the parameter names of timm.
//! - [`vit`]: small vision transformers, with the parameter names of timm.
//! - [`weights`]: named tensors of a module, and their safetensors bytes.
//! - [`extractor`]: a frozen network with its input normalisation: images in, features out.
//! - [`BackbonePrefix`]: the first blocks of a frozen network.
//! - [`import`]: extractors from files of other tools: PyTorch checkpoints and safetensors.
//! - [`tiles`]: work split into tiles, so that results don't depend on the thread count.

mod backbone_prefix;
pub mod clip_resnet;
pub mod convnext;
pub mod device;
pub mod extractor;
mod frozen;
pub mod import;
pub mod initial;
mod linear;
pub mod network;
pub mod resnet;
mod stage;
pub mod tiles;
#[cfg(feature = "flex")]
mod training;
pub mod travel;
pub mod vit;
pub mod weights;

#[cfg(test)]
mod family_tests;
#[cfg(test)]
mod head_tests;
#[cfg(test)]
mod reference_tests;

pub use backbone_prefix::BackbonePrefix;
pub use device::{Backend, DeviceError};
pub use extractor::{
    ExtractError, Extractor, ExtractorFunctions, ExtractorSpec, ForwardCache, FunctionError, KeptBackward, Needs,
    Passed,
};
pub use hemlock_process::{Description, Fault, ProcessError, ProcessExtractor};
pub use import::{ImportError, Imported, WeightsChoice};
pub use network::{Arch, ArchError, ImageSizeError, Network};
pub use stage::{
    extract, extract_into, extracted, has_network, open_device, open_devices, open_extractor, open_network,
    open_process,
};
pub use weights::{Weights, WeightsError};
