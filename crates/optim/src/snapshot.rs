//! The state of an unfinished search, as bytes.

use std::collections::BTreeMap;

use ndarray::Array2;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Values and matrices by name: the state of something that a later process continues. All numbers come back with the
/// same bits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    values: BTreeMap<String, Value>,
    matrices: BTreeMap<String, Array2<f64>>,
}

/// The entry of the file's metadata that holds all values.
const VALUES: &str = "values";

impl Snapshot {
    /// Keeps a value under a name.
    ///
    /// # Panics
    /// Panics if the value has no form in JSON, such as a map whose keys are no strings.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        self.values.insert(name.to_owned(), serde_json::to_value(value).expect("a value has a form in JSON"));
        self
    }

    /// Keeps a matrix under a name.
    #[must_use]
    pub fn with_matrix(mut self, name: &str, matrix: &Array2<f64>) -> Self {
        self.matrices.insert(name.to_owned(), matrix.as_standard_layout().into_owned());
        self
    }

    /// Keeps another state under a name.
    #[must_use]
    pub fn with_all(mut self, name: &str, other: Self) -> Self {
        let under = |key: String| format!("{name}.{key}");
        self.values.extend(other.values.into_iter().map(|(key, value)| (under(key), value)));
        self.matrices.extend(other.matrices.into_iter().map(|(key, matrix)| (under(key), matrix)));
        self
    }

    /// The state that was kept under a name; empty if there is none.
    #[must_use]
    pub fn under(&self, name: &str) -> Self {
        let prefix = format!("{name}.");
        let own = |key: &String| key.strip_prefix(&prefix).map(str::to_owned);
        Self {
            values: self.values.iter().filter_map(|(key, value)| Some((own(key)?, value.clone()))).collect(),
            matrices: self.matrices.iter().filter_map(|(key, matrix)| Some((own(key)?, matrix.clone()))).collect(),
        }
    }

    /// A value.
    ///
    /// # Errors
    /// Returns what is missing or has another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, String> {
        let value = self.values.get(name).ok_or_else(|| format!("it has no `{name}`"))?;
        serde_json::from_value(value.clone()).map_err(|e| format!("its `{name}`: {e}"))
    }

    /// A matrix.
    ///
    /// # Errors
    /// Returns what is missing.
    pub fn matrix(&self, name: &str) -> Result<Array2<f64>, String> {
        self.find_matrix(name).ok_or_else(|| format!("it has no `{name}`"))
    }

    /// A matrix, if there is one of this name.
    #[must_use]
    pub fn find_matrix(&self, name: &str) -> Option<Array2<f64>> {
        self.matrices.get(name).cloned()
    }

    /// The bytes of a safetensors file.
    ///
    /// # Errors
    /// Returns why they cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let bytes: Vec<(&String, Vec<usize>, Vec<u8>)> = self
            .matrices
            .iter()
            .map(|(name, matrix)| {
                let numbers = matrix.iter().flat_map(|x| x.to_le_bytes()).collect();
                (name, matrix.shape().to_vec(), numbers)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, numbers)| {
            Ok((name, TensorView::new(Dtype::F64, shape.clone(), numbers).map_err(|e| e.to_string())?))
        });
        let views = views.collect::<Result<Vec<_>, String>>()?;
        let values = serde_json::to_string(&self.values).map_err(|e| e.to_string())?;
        safetensors::serialize(views, Some([(VALUES.to_owned(), values)].into())).map_err(|e| e.to_string())
    }

    /// The state that [`Snapshot::to_bytes`] wrote.
    ///
    /// # Errors
    /// Returns what is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let values = metadata.metadata().as_ref().and_then(|all| all.get(VALUES)).ok_or("it has no values")?;
        let values = serde_json::from_str(values).map_err(|e| e.to_string())?;
        let mut matrices = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?.iter() {
            let (&[rows, columns], Dtype::F64) = (view.shape(), view.dtype()) else {
                return Err(format!("its `{name}` is no matrix of 64-bit numbers"));
            };
            let numbers = view.data().as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
            let matrix = Array2::from_shape_vec((rows, columns), numbers).map_err(|e| e.to_string())?;
            matrices.insert(name.to_owned(), matrix);
        }
        Ok(Self { values, matrices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn what_is_kept_comes_back_bit_for_bit() {
        let odd = array![[0.1, -0.0], [f64::INFINITY, f64::MIN_POSITIVE / 3.0]];
        let inner =
            Snapshot::default().with("step", 7).with("value", 0.1 + 0.2).with_matrix("odd", &odd.t().to_owned());
        let kept = Snapshot::default().with_all("inner", inner.clone()).with_matrix("none", &Array2::zeros((0, 3)));
        let read = Snapshot::from_bytes(&kept.to_bytes().unwrap()).unwrap();
        assert_eq!(read, kept);
        assert_eq!(read.under("inner"), inner);
        assert_eq!(read.under("inner").get::<f64>("value"), Ok(0.1 + 0.2));
        assert_eq!(read.matrix("inner.odd").unwrap()[(0, 1)], f64::INFINITY);
        assert!(read.matrix("inner.odd").unwrap()[(1, 0)].is_sign_negative());
        assert_eq!(read.matrix("none").unwrap().dim(), (0, 3));
        assert!(read.get::<u32>("inner.value").unwrap_err().contains("inner.value"));
        assert!(read.matrix("other").is_err() && read.find_matrix("other").is_none());
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let bytes = Snapshot::default().with("a", 1).with_matrix("m", &Array2::ones((2, 2))).to_bytes().unwrap();
        for bytes in [&bytes[..bytes.len() - 1], &bytes[..5], &[]] {
            assert!(Snapshot::from_bytes(bytes).is_err());
        }
    }
}
