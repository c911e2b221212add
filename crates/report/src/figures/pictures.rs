//! The figure of pictures: poisons beside their base images.

use super::{Figure, titled};
use crate::{ConfigGroup, ReportError, config_group::quantity, result_set::ResultSet, words};
use base64::{Engine, engine::general_purpose::STANDARD};
use hemlock_artifact::{Dataset, Poisons};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use maud::{Markup, html};
use ndarray::{ArrayView3, Axis};

/// The number of poisons that are shown per configuration.
const SHOWN: usize = 8;
/// Factors by which differences are amplified. The largest is taken that does not clip the largest difference.
const FACTORS: [u32; 5] = [16, 8, 4, 2, 1];

/// Shows some poisons of some configurations: the base image, the poison, and their difference.
pub fn figure(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "pictures",
        "What poisons look like",
        "Each column shows a base image, the poison that is made from it, and their difference around grey, amplified \
         as the title states. Poisons are taken at equal distances from all poisons of the first seed. Below them \
         stand the label and a distance of features, in units of the median distance between nearest neighbours among \
         clean samples: for feature-targeted attacks the distance to the poisoned features before and after inversion, \
         for other attacks the distance that the features moved. A ◆ marks poisons whose features are outliers among \
         clean ones.",
    );
    for experiment in result_set.experiments() {
        for config in chosen(&experiment.configs) {
            let row = &config.rows[0];
            let (poisons, dataset) =
                (result_set.read::<Poisons>(row, "poisons")?, result_set.read::<Dataset>(row, "dataset")?);
            let (Some(poisons), Some(dataset)) = (poisons, dataset) else { continue };
            let title = titled(result_set, &experiment.name, &config.label);
            figure.pictures(strip(config, &title, &poisons, &dataset)?);
        }
    }
    Ok(figure.or("there are no poisoned images, or they are not in the artifact root any more."))
}

/// For every way of making images: the strongest configuration without a limit, and the strongest one within the
/// tightest limit.
fn chosen<'c>(configs: &[&'c ConfigGroup]) -> Vec<&'c ConfigGroup> {
    let mut makings: Vec<&str> = Vec::new();
    for making in configs.iter().filter_map(|c| c.making()) {
        if !makings.contains(&making) {
            makings.push(making);
        }
    }
    let drop = |c: &ConfigGroup| c.mean(quantity::drop_on_images).map_or(f64::NEG_INFINITY, |e| e.mean);
    let mut chosen = Vec::new();
    for making in makings {
        let of = || configs.iter().copied().filter(|c| c.making() == Some(making));
        chosen.extend(of().filter(|c| c.unlimited()).max_by(|a, b| drop(a).total_cmp(&drop(b))));
        let tightest = of().filter_map(ConfigGroup::linf).min_by(f64::total_cmp);
        chosen.extend(
            of().filter(|c| tightest.is_some() && c.linf() == tightest).max_by(|a, b| drop(a).total_cmp(&drop(b))),
        );
    }
    chosen
}

fn strip(config: &ConfigGroup, title: &str, poisons: &Poisons, dataset: &Dataset) -> Result<Markup, ReportError> {
    let count = poisons.labels.len();
    let shown: Vec<usize> = (0..SHOWN.min(count)).map(|i| i * count / SHOWN.min(count)).collect();
    let pixels = dataset.train.pixels.view();
    let pairs: Vec<(usize, ArrayView3<u8>, ArrayView3<u8>)> = shown
        .into_iter()
        .filter_map(|i| {
            let base = *poisons.base_index.get(i)? as usize;
            let clean = (base < pixels.len_of(Axis(0))).then(|| pixels.index_axis(Axis(0), base))?;
            let clean = clean.into_dimensionality().ok()?;
            Some((i, clean, poisons.images.index_axis(Axis(0), i)))
        })
        .collect();
    let change = |clean: &ArrayView3<u8>, poison: &ArrayView3<u8>| {
        clean.iter().zip(poison).map(|(a, b)| u32::from(a.abs_diff(*b))).max().unwrap_or(0)
    };
    let largest = pairs.iter().map(|(_, a, b)| change(a, b)).max().unwrap_or(0);
    let factor = FACTORS.into_iter().find(|f| f * largest <= 127).unwrap_or(1);
    let amplified = if factor == 1 { ", not amplified".to_owned() } else { format!(", {factor} times amplified") };
    let mut triples = Vec::new();
    for (i, clean, poison) in &pairs {
        let label = poisons.labels[*i] as usize;
        let class = dataset.classes.get(label).cloned().unwrap_or_else(|| label.to_string());
        let difference = |at: (usize, usize, usize)| {
            let d = i64::from(poison[at]) - i64::from(clean[at]);
            (128 + d * i64::from(factor)).clamp(0, 255) as u8
        };
        let dim = clean.dim();
        let pictures = [
            (png(dim, |at| clean[at])?, format!("clean image, {class}")),
            (png(dim, |at| poison[at])?, format!("poison made from it, labelled {class}")),
            (png(dim, difference)?, format!("difference of the two{amplified}")),
        ];
        let fit = poisons.fits.get(*i);
        let fit = fit.ok_or_else(|| ReportError::draw(format!("{title}: the poison {i} has no distance")))?;
        let unit = |d: f32| words::number(f64::from(d) / poisons.clean_nearest, 1);
        let distance = if config.on_features() {
            format!("{} → {}", unit(fit.start_distance), unit(fit.distance))
        } else {
            format!("moved {}", unit(fit.start_distance))
        };
        triples.push(html! {
            li {
                @for (data, alt) in &pictures { img src=(data) alt=(alt) width=(dim.2) height=(dim.1); }
                span.class { (class) @if fit.is_outlier() { " " span title="outlier" { "◆" } } }
                span.distance { (distance) }
            }
        });
    }
    Ok(html! {
        div.pictures {
            p.chart-title { (title) " (difference" (amplified) ")" }
            ul { @for triple in &triples { (triple) } }
        }
    })
}

/// Encodes an image as PNG in a data address; `at` returns the value of a pixel at (channel, row, column).
fn png(
    (channels, height, width): (usize, usize, usize),
    at: impl Fn((usize, usize, usize)) -> u8,
) -> Result<String, ReportError> {
    let mut bytes = Vec::with_capacity(3 * height * width);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        bytes.extend((0..3).map(|c| at((c.min(channels - 1), y, x))));
    }
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(&bytes, width as u32, height as u32, ExtendedColorType::Rgb8)
        .map_err(ReportError::draw)?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(file)))
}
