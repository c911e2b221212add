//! Named tensors of a module, under the names and layouts of PyTorch, and their safetensors bytes.

use crate::ExtractError;
use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::import::short;

/// Named f32 tensors, sorted by name.
///
/// Names and layouts are PyTorch's: batch norm has `weight` and `bias`, a linear layer's weight is
/// `[out, in]`. PyTorch's `num_batches_tracked` counters, which nothing reads, are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights(pub BTreeMap<String, Weight>);

/// One tensor: its shape and its values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Vec<f32>,
}

/// Why weights cannot be read or do not fit a network.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The bytes are not a safetensors file.
    #[error("the weights are not a valid safetensors file: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// The extractor has no weights that could be read.
    #[error(transparent)]
    NoNetwork(#[from] ExtractError),
    /// A tensor has another element type than f32.
    #[error("tensor `{name}` has elements of type {dtype:?}: expected F32")]
    Dtype {
        /// The tensor's name.
        name: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// The tensors are not exactly those of the network.
    #[error("the weights don't fit the network: {}", misfits(missing, unexpected, misshaped))]
    Misfit {
        /// Tensors of the network that the weights lack.
        missing: Vec<String>,
        /// Tensors of the weights that the network lacks.
        unexpected: Vec<String>,
        /// Tensors of another shape: name, shape in the weights, shape in the network.
        misshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
}

impl Weights {
    /// The parameters and buffers of `module`.
    #[must_use]
    pub fn collect<M: Module>(module: &M) -> Self {
        let mut visitor = Collect::default();
        // A running statistic may lag one update behind until `valid` synchronises it.
        module.valid().visit(&mut visitor);
        Self(visitor.weights)
    }

    /// `module` with these values. They must have exactly the names and shapes of its tensors.
    ///
    /// `module` must be freshly built, because burn's batch norm shares its running statistics with every clone.
    ///
    /// # Errors
    /// [`WeightsError::Misfit`] with every tensor that does not fit.
    pub fn load<M: Module>(self, module: M) -> Result<M, WeightsError> {
        let mut own = Shapes::default();
        module.visit(&mut own);
        let found = self.0.iter().map(|(name, weight)| (name.as_str(), weight.shape.clone()));
        compare(&own.shapes, &found.collect())?;
        Ok(module.map(&mut Load { path: Path::default(), weights: self.0 }))
    }

    /// Compares the names and shapes of tensors with these.
    ///
    /// # Errors
    /// [`WeightsError::Misfit`] with every tensor that does not fit.
    pub(crate) fn expect(&self, found: BTreeMap<&str, Vec<usize>>) -> Result<(), WeightsError> {
        compare(&self.0.iter().map(|(name, weight)| (name.clone(), weight.shape.clone())).collect(), &found)
    }

    /// The bytes of a safetensors file; equal weights give equal bytes.
    ///
    /// # Errors
    /// [`WeightsError::Format`] if the values of a tensor do not fill its shape.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        let bytes: Vec<(&str, &[usize], Vec<u8>)> = (self.0.iter())
            .map(|(name, weight)| {
                let bytes = weight.values.iter().flat_map(|v| v.to_le_bytes()).collect();
                (name.as_str(), weight.shape.as_slice(), bytes)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        Ok(safetensors::serialize(views, None)?)
    }

    /// Reads a safetensors file of f32 tensors; PyTorch's `num_batches_tracked` counters are skipped.
    ///
    /// # Errors
    /// - [`WeightsError::Format`] if the bytes are not a safetensors file;
    /// - [`WeightsError::Dtype`] if a tensor is not f32.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, WeightsError> {
        let mut weights = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
            if name.ends_with("num_batches_tracked") {
                continue;
            }
            if view.dtype() != Dtype::F32 {
                return Err(WeightsError::Dtype { name: name.to_owned(), dtype: view.dtype() });
            }
            let (values, _) = view.data().as_chunks::<4>();
            let weight = Weight {
                shape: view.shape().to_vec(),
                values: values.iter().map(|&v| f32::from_le_bytes(v)).collect(),
            };
            weights.insert(name.to_owned(), weight);
        }
        Ok(Self(weights))
    }

    /// The tensors whose names begin with `prefix`, under their names without it.
    #[must_use]
    pub fn under(&self, prefix: &str) -> Self {
        let stripped =
            self.0.iter().filter_map(|(name, weight)| Some((name.strip_prefix(prefix)?.to_owned(), weight.clone())));
        Self(stripped.collect())
    }

    /// Adds the tensors of `other`, with `prefix` before each name.
    pub fn put_under(&mut self, prefix: &str, other: Self) {
        let named = other.0.into_iter();
        self.0.extend(named.map(|(name, weight)| (format!("{prefix}{name}"), weight)));
    }
}

/// The position of a module visitor, from which it derives PyTorch's name of the current tensor.
#[derive(Default)]
pub struct Path(Vec<(String, String)>);

impl Path {
    /// Enters a submodule; call it from `enter_module`.
    pub fn enter(&mut self, name: &str, container: &str) {
        self.0.push((name.to_owned(), container.to_owned()));
    }

    /// Leaves a submodule; call it from `exit_module`.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// The current tensor's name in PyTorch.
    #[must_use]
    pub fn name(&self) -> String {
        // The variant of the enum `Network` is no part of PyTorch's names.
        let names: Vec<&str> = (self.0.iter().filter(|(_, container)| !container.starts_with("Enum:")))
            .map(|(name, container)| match (name.as_str(), container.as_str()) {
                ("gamma", "Struct:BatchNorm" | "Struct:LayerNorm") => "weight",
                ("beta", "Struct:BatchNorm" | "Struct:LayerNorm") => "bias",
                (name, _) => name,
            })
            .collect();
        names.join(".")
    }

    /// Whether PyTorch stores the current tensor transposed.
    fn is_transposed(&self) -> bool {
        (self.0.last()).is_some_and(|(name, of)| name == "weight" && of == "Struct:Linear")
    }
}

/// Compares the names and shapes of found tensors with those of a network.
fn compare(own: &BTreeMap<String, Vec<usize>>, found: &BTreeMap<&str, Vec<usize>>) -> Result<(), WeightsError> {
    let missing: Vec<String> = own.keys().filter(|name| !found.contains_key(name.as_str())).cloned().collect();
    let unexpected = found.keys().filter(|name| !own.contains_key(**name));
    let unexpected: Vec<String> = unexpected.map(|name| (*name).to_owned()).collect();
    let both = own.iter().filter_map(|(name, own)| Some((name, found.get(name.as_str())?, own)));
    let other = both.filter(|(_, found, own)| found != own);
    let misshaped: Vec<_> = other.map(|(name, found, own)| (name.clone(), found.clone(), own.clone())).collect();
    if missing.is_empty() && unexpected.is_empty() && misshaped.is_empty() {
        return Ok(());
    }
    Err(WeightsError::Misfit { missing, unexpected, misshaped })
}

/// Collects the shapes of a module's tensors, without their values.
#[derive(Default)]
struct Shapes {
    path: Path,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let mut shape = param.dims().to_vec();
        if self.path.is_transposed() {
            shape.swap(0, 1);
        }
        self.shapes.insert(self.path.name(), shape);
    }
}

#[derive(Default)]
struct Collect {
    path: Path,
    weights: BTreeMap<String, Weight>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let mut tensor = param.val();
        if self.path.is_transposed() {
            tensor = tensor.swap_dims(0, 1);
        }
        let weight = Weight { shape: tensor.dims().to_vec(), values: tensor.into_data().iter::<f32>().collect() };
        self.weights.insert(self.path.name(), weight);
    }
}

struct Load {
    path: Path,
    /// The tensors that are not loaded yet.
    weights: BTreeMap<String, Weight>,
}

impl ModuleMapper for Load {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(Weight { shape, values }) = self.weights.remove(&self.path.name()) else { return param };
        let data = if self.path.is_transposed() {
            // Moved in memory, not viewed: another layout is another order of summation.
            let [rows, columns] = [shape[0], shape[1]];
            let transposed = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c));
            let values: Vec<f32> = transposed.map(|i| values[i]).collect();
            TensorData::new(values, [columns, rows])
        } else {
            TensorData::new(values, shape)
        };
        param.map(|old| Tensor::from_data(data, &old.device()))
    }
}

fn misfits(missing: &[String], unexpected: &[String], misshaped: &[(String, Vec<usize>, Vec<usize>)]) -> String {
    let quoted = |names: &[String]| names.iter().map(|name| format!("`{}`", short(name))).collect();
    let misshaped = misshaped.iter().map(|(name, found, own)| format!("`{name}` {}, not {own:?}", axes(found)));
    [
        ("missing", quoted(missing)),
        ("unexpected", quoted(unexpected)),
        ("of another shape", misshaped.collect::<Vec<_>>()),
    ]
    .into_iter()
    .filter(|(_, tensors)| !tensors.is_empty())
    .map(|(what, tensors)| format!("{} {what}: {}", tensors.len(), shorten(&tensors)))
    .collect::<Vec<_>>()
    .join("; ")
}

/// A shape, of which a file may give any number of axes.
fn axes(shape: &[usize]) -> String {
    if shape.len() > 8 { format!("of {} axes", shape.len()) } else { format!("{shape:?}") }
}

/// The first few, and the number of all others.
fn shorten(tensors: &[String]) -> String {
    let shown = tensors.len().min(4);
    match tensors.len() - shown {
        0 => tensors.join(", "),
        more => format!("{} and {more} more", tensors[..shown].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use burn::nn::LinearConfig;

    fn weight(shape: &[usize], values: &[f32]) -> Weight {
        Weight { shape: shape.to_vec(), values: values.to_vec() }
    }

    fn linear() -> Weights {
        Weights(BTreeMap::from([
            ("weight".to_owned(), weight(&[3, 2], &[1., 2., 3., 4., 5., 6.])),
            ("bias".to_owned(), weight(&[3], &[0.5, 0., -0.5])),
        ]))
    }

    #[test]
    fn a_linear_layer_uses_the_layout_of_pytorch() {
        let device = device::open(Backend::default()).unwrap();
        let layer = linear().load(LinearConfig::new(2, 3).init(&device)).unwrap();
        let y = layer.forward(Tensor::<2>::from_floats([[1., 10.]], &device));
        assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [21.5, 43., 64.5], "y = W x + b, with W [out, in]");
        assert_eq!(Weights::collect(&layer), linear());
    }

    #[test]
    fn safetensors_round_trips_and_refuses_what_it_cannot_read() {
        let bytes = linear().to_safetensors().unwrap();
        assert_eq!(Weights::from_safetensors(&bytes).unwrap(), linear());
        for cut in [0, 7, bytes.len() - 1] {
            let error = Weights::from_safetensors(&bytes[..cut]).unwrap_err();
            assert!(matches!(error, WeightsError::Format(_)), "{error}");
        }
        let short = Weights(BTreeMap::from([("x".to_owned(), weight(&[2], &[1.]))]));
        assert!(matches!(short.to_safetensors(), Err(WeightsError::Format(_))));
    }

    #[test]
    fn misfits_are_named() {
        let device = device::open(Backend::default()).unwrap();
        let layer = || LinearConfig::new(2, 3).init(&device);
        let mut renamed = linear();
        let bias = renamed.0.remove("bias").unwrap();
        renamed.0.insert("shift".to_owned(), bias);
        assert_eq!(
            renamed.load(layer()).unwrap_err().to_string(),
            "the weights don't fit the network: 1 missing: `bias`; 1 unexpected: `shift`"
        );
        let mut reshaped = linear();
        reshaped.0.insert("bias".to_owned(), weight(&[1], &[0.]));
        reshaped.0.extend(["a", "b", "c", "d", "e", "f"].map(|name| (name.to_owned(), weight(&[1], &[0.]))));
        assert_eq!(
            reshaped.load(layer()).unwrap_err().to_string(),
            "the weights don't fit the network: 6 unexpected: `a`, `b`, `c`, `d` and 2 more; \
             1 of another shape: `bias` [1], not [3]"
        );
    }

    #[test]
    fn prefixes_join_and_part_weights() {
        let mut all = Weights::default();
        all.put_under("a.", linear());
        all.put_under("b.", linear());
        assert_eq!(all.0.len(), 4);
        assert_eq!(all.under("b."), linear());
    }
}
