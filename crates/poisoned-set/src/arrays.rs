//! One `.npz` file.

use crate::{MANIFEST, Part, SetError, SetFiles, SetSamples, manifest};
use ndarray::{ArrayView, Axis, Dimension};
use npyz::WriterBuilder;
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Name of the file.
const FILE: &str = "data.npz";

/// Name of the file of class names.
const CLASSES: &str = "classes.txt";

/// The `.npz` file, the names of the classes, and the manifest.
pub(crate) fn npz<'a>(classes: &'a [String], parts: Vec<Part<'a>>) -> SetFiles<'a> {
    let names = [FILE, CLASSES, MANIFEST].map(str::to_owned).to_vec();
    let make = move |number: usize| match number {
        0 => archive(&parts).map_err(|e| SetError::Encode { file: FILE.to_owned(), what: e.to_string() }),
        1 => Ok((classes.join("\n") + "\n").into_bytes()),
        _ => manifest(classes, &parts, &|_, _, _| FILE.to_owned()),
    };
    SetFiles { names, make: Box::new(make) }
}

/// An archive that is being written.
type Archive = ZipWriter<Cursor<Vec<u8>>>;

/// The names of the arrays are those that `source.kind = "npz"` and an import of features read: `train_images` or
/// `train`, `train_labels` and so on. `train_poison` says which training samples are poisons, and `train_source` of
/// which training sample a poison was made (-1 for the others).
fn archive(parts: &[Part<'_>]) -> std::io::Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for part in parts {
        let features = matches!(part.clean, SetSamples::Features(_));
        let name = if features && part.name == "val" { "validation" } else { part.name };
        match (part.clean, part.poisons) {
            (SetSamples::Images(clean), SetSamples::Images(poisons)) => {
                // Other tools expect colours as the last axis.
                let rows = || part.samples.iter().map(|sample| if sample.poison { &poisons } else { &clean });
                let shape = [part.samples.len(), clean.dim().2, clean.dim().3, 3];
                let values = rows().zip(&part.samples).flat_map(|(of, sample)| {
                    let image = of.index_axis(Axis(0), sample.place);
                    image.permuted_axes([1, 2, 0]).iter().copied().collect::<Vec<u8>>()
                });
                add(&mut archive, &format!("{name}_images"), &shape, values)?;
            }
            (SetSamples::Features(clean), SetSamples::Features(poisons)) => {
                let row = |poison: bool, place: usize| values(if poison { poisons } else { clean }, place);
                let values = part.samples.iter().flat_map(|sample| row(sample.poison, sample.place));
                add(&mut archive, name, &[part.samples.len(), clean.ncols()], values)?;
            }
            _ => return Err(std::io::Error::other("the poisons are images, or the clean samples, and the others not")),
        }
        let samples = || part.samples.iter();
        let shape = [part.samples.len()];
        add(&mut archive, &format!("{name}_labels"), &shape, samples().map(|s| i64::from(s.label)))?;
        if part.name == "train" {
            add(&mut archive, "train_poison", &shape, samples().map(|s| s.poison))?;
            add(&mut archive, "train_source", &shape, samples().map(|s| s.source.map_or(-1, i64::from)))?;
        }
    }
    Ok(archive.finish().map_err(std::io::Error::other)?.into_inner())
}

/// The values of a row.
fn values<T: Copy, D: Dimension + ndarray::RemoveAxis>(array: ArrayView<'_, T, D>, row: usize) -> Vec<T> {
    array.index_axis(Axis(0), row).iter().copied().collect()
}

/// Adds an array.
fn add<T: npyz::AutoSerialize>(
    archive: &mut Archive,
    name: &str,
    shape: &[usize],
    values: impl Iterator<Item = T>,
) -> std::io::Result<()> {
    // A fixed time, so that equal data sets give equal bytes.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default())
        .large_file(true);
    archive.start_file(format!("{name}.npy"), options).map_err(std::io::Error::other)?;
    let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut bytes).begin_nd()?;
    writer.extend(values)?;
    writer.finish()?;
    archive.write_all(&bytes)
}
