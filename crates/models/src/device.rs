//! Which burn backends are compiled in, and opening one without a panic.
//!
//! burn's own `Device::default()` prefers GPUs and depends on the features of the build, so it is not used here. A
//! backend is always named.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// A burn backend. Each one is a cargo feature of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// burn-flex: pure Rust on the processor, bit-identical across runs and thread counts.
    Flex,
    /// WebGPU: Vulkan, Metal or DirectX 12 through wgpu.
    Wgpu,
    /// NVIDIA GPUs through CUDA.
    Cuda,
    /// CubeCL's just-in-time compiler for the processor.
    Cpu,
}

/// Why a backend cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name is not that of a backend.
    #[error(
        "unknown backend `{0}`: expected one of {all}{hint}",
        all = names(&Backend::ALL),
        hint = if .0.contains(':') { "; CUDA_VISIBLE_DEVICES chooses one of several GPUs" } else { "" }
    )]
    Unknown(String),
    /// The backend is not compiled in.
    #[error(
        "backend `{wanted}` is not compiled in, only {compiled}: build with \
         `just backend={wanted} build` (cargo feature `{wanted}`)",
        compiled = names(compiled)
    )]
    NotCompiled {
        /// The backend that was asked for.
        wanted: Backend,
        /// The backends of this build.
        compiled: Vec<Backend>,
    },
    /// The backend found no adapter, driver or device.
    #[error("backend `{backend}` found no usable device ({reason}): {advice}", advice = backend.advice())]
    Unavailable {
        /// The backend that was asked for.
        backend: Backend,
        /// The backend's own message.
        reason: String,
    },
}

impl Backend {
    /// Every backend that this crate knows, compiled in or not.
    pub const ALL: [Self; 4] = [Self::Flex, Self::Wgpu, Self::Cuda, Self::Cpu];

    /// The backends of this build, in the order of [`Backend::ALL`].
    #[must_use]
    pub fn compiled() -> Vec<Self> {
        Self::ALL.into_iter().filter(|b| b.is_compiled()).collect()
    }

    /// Whether the same inputs give the same bytes, whatever the number of threads.
    ///
    /// GPUs reduce in an order that varies between devices and drivers.
    #[must_use]
    pub fn is_deterministic(self) -> bool {
        self == Self::Flex
    }

    fn is_compiled(self) -> bool {
        match self {
            Self::Flex => cfg!(feature = "flex"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Cpu => cfg!(feature = "cpu"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Flex | Self::Cpu => "choose the backend `flex`",
            Self::Wgpu => "install a Vulkan driver, or choose the backend `flex`",
            Self::Cuda => "install NVIDIA's driver, or choose the backend `flex`",
        }
    }

    /// The burn device with that number, or the default one, without testing it; `None` if the backend is not compiled
    /// in.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    fn device(self, number: Option<usize>) -> Option<Device> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => Some(Device::flex()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "cuda")]
            Self::Cuda => Some(Device::cuda(number.map_or(burn::tensor::DeviceIndex::Default, Into::into))),
            #[cfg(feature = "cpu")]
            Self::Cpu => Some(Device::cpu()),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }
}

impl Default for Backend {
    /// `flex` if it is compiled in, otherwise the first backend that is.
    fn default() -> Self {
        Self::compiled().first().copied().unwrap_or(Self::Flex)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backend {
    type Err = DeviceError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|b| b.name() == s).ok_or_else(|| DeviceError::Unknown(s.to_owned()))
    }
}

/// Opens the default device of `backend` and tests it with one small operation.
///
/// # Errors
/// - [`DeviceError::NotCompiled`] if the backend is not compiled in;
/// - [`DeviceError::Unavailable`] if the machine has no adapter or driver for it.
pub fn open(backend: Backend) -> Result<Device, DeviceError> {
    open_one(backend, None)
}

/// Names of the devices of a backend, as [`open_named`] reads them: `cuda:0`, `cuda:1` and so on if there are several
/// CUDA devices, and otherwise the backend's name.
#[must_use]
pub fn names_of(backend: Backend) -> Vec<String> {
    #[cfg(feature = "cuda")]
    if backend == Backend::Cuda
        && let Ok(count @ 2..) = cuda::count()
    {
        return (0..count).map(|number| format!("{backend}:{number}")).collect();
    }
    vec![backend.to_string()]
}

/// Opens the device of that name: a backend's name, such as `cuda`, or one of several devices, such as `cuda:1`.
///
/// # Errors
/// As [`open`], and [`DeviceError::Unknown`] if the name is not that of a device.
pub fn open_named(name: &str) -> Result<Device, DeviceError> {
    let Some((backend, number)) = name.split_once(':') else { return open(name.parse()?) };
    let number = number.parse().map_err(|_| DeviceError::Unknown(name.to_owned()))?;
    open_one(backend.parse()?, Some(number))
}

fn open_one(backend: Backend, number: Option<usize>) -> Result<Device, DeviceError> {
    let not_compiled = || DeviceError::NotCompiled { wanted: backend, compiled: Backend::compiled() };
    if !backend.is_compiled() {
        return Err(not_compiled());
    }
    #[cfg(feature = "cuda")]
    if backend == Backend::Cuda {
        cuda::check(number.unwrap_or(0)).map_err(|reason| DeviceError::Unavailable { backend, reason })?;
    }
    if let Some(number @ 1..) = number
        && backend != Backend::Cuda
    {
        let reason = format!("there is no device {number}: `{backend}` has one, which is device 0");
        return Err(DeviceError::Unavailable { backend, reason });
    }
    #[cfg(feature = "compiled")]
    keep_kernels();
    quietly(|| {
        let device = backend.device(number)?;
        let sum = Tensor::<1>::ones([2], &device).sum();
        (sum.into_scalar::<f32>() == 2.0).then_some(device)
    })
    .map_err(|reason| DeviceError::Unavailable { backend, reason })?
    .ok_or_else(|| DeviceError::Unavailable { backend, reason: "1 + 1 was not 2".to_owned() })
}

/// Keeps compiled kernels, and the results of tuning them, for later runs, because both take minutes to make. They are
/// stored in the user's cache folder (`~/.cache/cubecl`), unless a `cubecl.toml` names another one.
#[cfg(feature = "compiled")]
fn keep_kernels() {
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = CacheConfig::Global;
    }
    // The first call sets the configuration; later ones find it set.
    CubeClRuntimeConfig::try_set(config);
}

/// Asks the NVIDIA driver before burn does, because burn's threads panic if there is no driver, with messages that do
/// not say so.
#[cfg(feature = "cuda")]
mod cuda {
    use super::quietly;
    use cudarc::driver::{DriverError, result};

    /// Number of GPUs, at least 1.
    pub(super) fn count() -> Result<usize, String> {
        // This panics if the driver's library is missing.
        let count = quietly(|| result::init().and_then(|()| result::device::get_count()))
            .map_err(|_| "there is no NVIDIA driver: its library libcuda is not found".to_owned())?
            .map_err(|e| said(&e))?;
        match usize::try_from(count) {
            Ok(count @ 1..) => Ok(count),
            _ => Err("the NVIDIA driver sees no GPU".to_owned()),
        }
    }

    /// Checks that there is a GPU with that number.
    pub(super) fn check(number: usize) -> Result<(), String> {
        match count()? {
            count if number < count => Ok(()),
            count => Err(format!("there is no GPU {number}: the driver sees {count}, counted from 0")),
        }
    }

    fn said(e: &DriverError) -> String {
        let words = quietly(|| e.error_string().ok().map(|words| words.to_string_lossy().into_owned()));
        let words = words.ok().flatten().unwrap_or_else(|| format!("{:?}", e.0));
        format!("the NVIDIA driver says: {words}")
    }
}

/// Whether `device` computes with rayon on the processor. Then tiles that run in parallel on one thread each are faster
/// than one operation at a time on all threads (by about 40 % for small convolutions).
#[must_use]
pub fn runs_on_rayon(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Runs `probe` and turns a panic into an error with the panic's message, without the report of the panic hook.
///
/// burn's backends panic if they find no adapter or driver, and offer no other way to ask. Readers of damaged files may
/// panic, too.
pub(crate) fn quietly<T>(probe: impl FnOnce() -> T) -> Result<T, String> {
    /// The panic hook is global: two probes must not restore each other's hook.
    static HOOK: Mutex<()> = Mutex::new(());
    let _guard = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(AssertUnwindSafe(probe));
    panic::set_hook(hook);
    outcome.map_err(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| payload.downcast_ref::<String>().cloned());
        match message.as_deref().and_then(|m| m.lines().next()) {
            Some(line) => line.to_owned(),
            None => "no reason given".to_owned(),
        }
    })
}

fn names(backends: &[Backend]) -> String {
    if backends.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<_> = backends.iter().map(|b| format!("`{b}`")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for backend in Backend::ALL {
            assert_eq!(backend.to_string().parse::<Backend>().unwrap(), backend);
        }
        let error = "tpu".parse::<Backend>().unwrap_err().to_string();
        assert_eq!(error, "unknown backend `tpu`: expected one of `flex`, `wgpu`, `cuda`, `cpu`");
        let error = "cuda:7".parse::<Backend>().unwrap_err().to_string();
        assert!(error.ends_with("`cpu`; CUDA_VISIBLE_DEVICES chooses one of several GPUs"), "{error}");
    }

    #[test]
    fn the_default_backend_opens() {
        let device = open(Backend::default()).unwrap();
        let names = names_of(Backend::default());
        assert_eq!(open_named(&names[0]).unwrap(), device);
        assert!(matches!(open_named("cuda:first"), Err(DeviceError::Unknown(name)) if name == "cuda:first"));
        if Backend::default() == Backend::Flex {
            assert!(matches!(open_named("flex:7"), Err(DeviceError::Unavailable { .. })));
            assert!(crate::open_devices("flex:7", 1).is_err());
            assert_eq!(crate::open_devices("flex", 1).unwrap(), std::slice::from_ref(&device));
        }
        assert_eq!(runs_on_rayon(&device.autodiff()), Backend::default() == Backend::Flex);
    }

    #[test]
    fn a_missing_backend_names_the_feature() {
        let missing = DeviceError::NotCompiled { wanted: Backend::Cuda, compiled: vec![Backend::Flex] }.to_string();
        assert!(missing.contains("`cuda` is not compiled in, only `flex`"), "{missing}");
        assert!(missing.contains("just backend=cuda build"), "{missing}");
        for backend in Backend::ALL.into_iter().filter(|backend| !backend.is_compiled()) {
            assert!(matches!(open(backend), Err(DeviceError::NotCompiled { wanted, .. }) if wanted == backend));
        }
    }

    #[test]
    fn a_panic_becomes_its_message() {
        let outcome = quietly(|| -> () { panic!("no adapter\nbacktrace") });
        assert_eq!(outcome.unwrap_err(), "no adapter");
    }
}
