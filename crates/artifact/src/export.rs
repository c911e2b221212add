//! Export of artifacts to other tools: named tensors, whole files and pictures.

use crate::{
    Answers, Dataset, DecoderArtifact, Defence, Drawn, Evaluation, ExtractorArtifact, Features, Images, Normalization,
    Outcome, PixelChange, PoisonFeatures, PoisonFit, Poisons, TargetParams, Victim,
};
use hemlock_head::Head;
use ndarray::{Array4, ArrayView, Axis, Dimension};
use std::borrow::Cow;

/// The values of a tensor, C-ordered.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit floats.
    F64(Vec<f64>),
    /// 8-bit unsigned integers.
    U8(Vec<u8>),
    /// Labels and indices as 64-bit integers, the type that other frameworks index with.
    I64(Vec<i64>),
}

/// A named tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Name within its file; unique there.
    pub name: Cow<'static, str>,
    /// Size of every axis.
    pub shape: Vec<usize>,
    /// Values, as many as the shape says.
    pub data: Data,
}

impl Tensor {
    /// A tensor of the shape and values of an array. `data` is the variant of [`Data`] that holds the values.
    pub fn array<T: Clone, D: Dimension>(
        name: &'static str,
        array: ArrayView<'_, T, D>,
        data: fn(Vec<T>) -> Data,
    ) -> Self {
        Self { name: name.into(), shape: array.shape().to_vec(), data: data(array.iter().cloned().collect()) }
    }

    /// A tensor `[n]` of labels or indices.
    #[must_use]
    pub fn indices(name: &'static str, values: &[u32]) -> Self {
        Self {
            name: name.into(),
            shape: vec![values.len()],
            data: Data::I64(values.iter().map(|v| i64::from(*v)).collect()),
        }
    }

    /// A tensor `[n]` of 32-bit floats.
    pub fn floats(name: &'static str, values: impl Iterator<Item = f32>) -> Self {
        let values: Vec<f32> = values.collect();
        Self { name: name.into(), shape: vec![values.len()], data: Data::F32(values) }
    }
}

/// Everything that an artifact exports.
#[derive(Debug, Clone, Default)]
pub struct Exported {
    /// Safetensors files: their names without the ending, and their tensors.
    pub tensors: Vec<(String, Vec<Tensor>)>,
    /// Other files: their names and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// Sets of pictures: the name of the set, pixels `[n, 3, height, width]`, and labels `[n]`.
    pub pictures: Vec<(String, Array4<u8>, Vec<u32>)>,
}

/// An artifact type that can be exported.
pub trait Export {
    /// Converts everything in the artifact to open formats.
    fn export(&self) -> Exported;
}

fn splits<'a, T>(train: &'a T, validation: &'a T, test: &'a T) -> [(&'static str, &'a T); 3] {
    [("train", train), ("validation", validation), ("test", test)]
}

impl Export for Dataset {
    fn export(&self) -> Exported {
        let splits = splits(&self.train, &self.validation, &self.test);
        let tensors = |images: &Images| {
            vec![
                Tensor::array("images", images.pixels.view(), Data::U8),
                Tensor::indices("labels", &images.labels),
                Tensor::indices("source_index", &images.source_index),
            ]
        };
        Exported {
            // `train` and so on are the names that features have, and both may be exported to one folder.
            tensors: splits.iter().map(|(name, s)| (format!("{name}-images"), tensors(s))).collect(),
            files: vec![("classes.txt".to_owned(), (self.classes.join("\n") + "\n").into_bytes())],
            pictures: splits
                .iter()
                .map(|(n, s)| ((*n).to_owned(), s.pixels.view().to_owned(), s.labels.clone()))
                .collect(),
        }
    }
}

impl Export for ExtractorArtifact {
    fn export(&self) -> Exported {
        let info = serde_json::json!({
            "arch": self.arch, "method": self.method, "features": self.dim, "image_size": self.image_size,
            "mean": self.mean, "std": self.std, "curve": self.curve, "verified": self.verified,
        });
        Exported {
            files: vec![
                ("extractor.safetensors".to_owned(), self.weights.clone()),
                ("extractor.json".to_owned(), format!("{info:#}\n").into_bytes()),
            ],
            ..Exported::default()
        }
    }
}

impl Export for Features {
    fn export(&self) -> Exported {
        let splits = splits(&self.train, &self.validation, &self.test);
        let mut tensors: Vec<(String, Vec<Tensor>)> = splits
            .iter()
            .map(|(name, s)| {
                let features = Tensor::array("features", s.features.view(), Data::F32);
                let [labels, index] = [("labels", &s.labels), ("source_index", &s.source_index)]
                    .map(|(name, of)| Tensor::indices(name, of));
                ((*name).to_owned(), vec![features, labels, index])
            })
            .collect();
        let vector = |name, v: &Vec<f32>| Tensor::floats(name, v.iter().copied());
        if let Normalization::Affine { shift, scale } = &self.normalization {
            tensors.push(("normalization".to_owned(), vec![vector("shift", shift), vector("scale", scale)]));
        }
        Exported { tensors, ..Exported::default() }
    }
}

fn head(name: &str, head: &Head) -> (String, Vec<Tensor>) {
    let weight = Tensor::array("weight", head.weight(), Data::F64);
    let bias = Tensor::array("bias", head.bias(), Data::F64);
    (name.to_owned(), vec![weight, bias])
}

impl Export for TargetParams {
    fn export(&self) -> Exported {
        Exported { tensors: vec![head("clean", &self.clean), head("target", &self.target)], ..Exported::default() }
    }
}

impl Export for PoisonFeatures {
    fn export(&self) -> Exported {
        let tensors = vec![
            Tensor::array("features", self.features.view(), Data::F32),
            Tensor::indices("labels", &self.labels),
            Tensor::indices("base_index", &self.base_index),
        ];
        Exported { tensors: vec![("poison-features".to_owned(), tensors)], ..Exported::default() }
    }
}

impl Export for DecoderArtifact {
    fn export(&self) -> Exported {
        let info = serde_json::json!({
            "features": self.dim, "width": self.width, "image_size": self.image_size, "norm": self.norm,
            "held_out": self.held_out, "curve": self.curve,
        });
        Exported {
            files: vec![
                ("decoder.safetensors".to_owned(), self.weights.clone()),
                ("decoder.json".to_owned(), format!("{info:#}\n").into_bytes()),
            ],
            ..Exported::default()
        }
    }
}

impl Export for Poisons {
    fn export(&self) -> Exported {
        let mut tensors = vec![
            Tensor::array("images", self.images.view(), Data::U8),
            Tensor::indices("labels", &self.labels),
            Tensor::indices("base_index", &self.base_index),
        ];
        tensors.extend(self.pixels.iter().map(|pixels| Tensor::array("pixels", pixels.view(), Data::F32)));
        for (i, name) in PoisonFit::NUMBERS.into_iter().enumerate() {
            tensors.push(Tensor::floats(name, self.fits.iter().map(|f| f.numbers()[i])));
        }
        tensors.push(Tensor::indices("passes", &self.fits.iter().map(|f| f.passes).collect::<Vec<_>>()));
        let odd: Vec<usize> = (0..self.fits.len()).filter(|i| self.fits[*i].is_outlier()).collect();
        let labels = odd.iter().map(|i| self.labels[*i]).collect();
        Exported {
            tensors: vec![("poisons".to_owned(), tensors)],
            files: vec![("poisons.csv".to_owned(), poisons_csv(self).into_bytes())],
            pictures: vec![
                ("poisons".to_owned(), self.images.clone(), self.labels.clone()),
                ("outliers".to_owned(), self.images.select(Axis(0), &odd), labels),
            ],
        }
    }
}

/// Formats the measures of all poisons as CSV, one line per poison.
fn poisons_csv(poisons: &Poisons) -> String {
    let mut csv =
        format!("poison,label,base_index,{},relative_distance,passes,outlier\n", PoisonFit::NUMBERS.join(","));
    for (i, fit) in poisons.fits.iter().enumerate() {
        let numbers = fit.numbers().map(|x| x.to_string()).join(",");
        let relative = f64::from(fit.distance) / poisons.clean_nearest;
        let (label, base, outlier) = (poisons.labels[i], poisons.base_index[i], fit.is_outlier());
        csv += &format!("{i},{label},{base},{numbers},{relative},{},{outlier}\n", fit.passes);
    }
    csv
}

impl Export for Victim {
    fn export(&self) -> Exported {
        on_clean_data(&self.clean)
    }
}

impl Export for Defence {
    fn export(&self) -> Exported {
        on_clean_data(&self.clean)
    }
}

/// The head that was trained on clean data, if there is one, and the predictions of the victim.
fn on_clean_data(clean: &Outcome) -> Exported {
    let mut tensors: Vec<(String, Vec<Tensor>)> = clean.head.iter().map(|h| head("clean", h)).collect();
    tensors.push(answers([("clean", clean)].into_iter()));
    Exported { tensors, ..Exported::default() }
}

/// Returns the predictions for every test image, as two tensors per training set: whether each image was classified
/// correctly, and its margin.
fn answers<'a>(outcomes: impl Iterator<Item = (&'a str, &'a Outcome)>) -> (String, Vec<Tensor>) {
    let mut tensors = Vec::new();
    for (name, Outcome { answers: Answers { right, margins }, .. }) in outcomes {
        let shape = vec![right.len()];
        let bits = Data::U8(right.iter().map(|right| u8::from(*right)).collect());
        tensors.push(Tensor { name: format!("{name}.right").into(), shape: shape.clone(), data: bits });
        tensors.push(Tensor { name: format!("{name}.margin").into(), shape, data: Data::F32(margins.clone()) });
    }
    ("answers".to_owned(), tensors)
}

impl Export for Evaluation {
    fn export(&self) -> Exported {
        let heads = self.outcomes.named().filter_map(|(name, outcome)| Some(head(name, outcome.head.as_ref()?)));
        let mut tensors: Vec<(String, Vec<Tensor>)> = heads.collect();
        tensors.push(answers(self.outcomes.named()));
        let Drawn { test, train, validation } = &self.drawn;
        let index = [("test", test), ("train", train), ("validation", validation)];
        tensors.push(("drawn".to_owned(), index.map(|(name, index)| Tensor::indices(name, index)).to_vec()));
        if !self.changes.is_empty() {
            let column = |(i, name)| Tensor::floats(name, self.changes.iter().map(move |c| c.numbers()[i]));
            tensors.push(("visibility".to_owned(), PixelChange::NUMBERS.into_iter().enumerate().map(column).collect()));
        }
        Exported { tensors, ..Exported::default() }
    }
}
