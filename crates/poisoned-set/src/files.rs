//! Image files in one folder per class.

use crate::{MANIFEST, Part, Sample, SetError, SetFiles, SetSamples, manifest};
use image::{ImageBuffer, ImageFormat, Rgb};
use ndarray::{ArrayView3, Axis};
use std::collections::BTreeSet;
use std::io::Cursor;

/// An image `[3, height, width]` as a PNG file.
///
/// # Errors
/// The encoder's words.
pub fn png(image: ArrayView3<'_, u8>) -> Result<Vec<u8>, String> {
    let (_, height, width) = image.dim();
    let picture = ImageBuffer::from_fn(width as u32, height as u32, |x, y| {
        let (x, y) = (x as usize, y as usize);
        Rgb([image[[0, y, x]], image[[1, y, x]], image[[2, y, x]]])
    });
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).map_err(|e| e.to_string())?;
    Ok(bytes.into_inner())
}

/// The image of a sample, as a PNG file of that name.
pub(crate) fn picture(part: &Part<'_>, sample: &Sample, file: &str) -> Result<Vec<u8>, SetError> {
    let failed = |what: String| SetError::Encode { file: file.to_owned(), what };
    match if sample.poison { part.poisons } else { part.clean } {
        SetSamples::Images(images) => png(images.index_axis(Axis(0), sample.place)).map_err(failed),
        SetSamples::Features(_) => Err(failed("it has features".to_owned())),
    }
}

/// Names of folders for classes: their own, if all of them can be names of folders, and otherwise with the label
/// before them, and `_` for characters that may not be in a name.
fn folders(classes: &[String]) -> Vec<String> {
    let allowed = |c: char| c.is_alphanumeric() || "-_. ,()".contains(c);
    let plain = |class: &String| !class.is_empty() && !class.starts_with(['.', ' ']) && class.chars().all(allowed);
    let different: BTreeSet<String> = classes.iter().map(|class| class.to_lowercase()).collect();
    if different.len() == classes.len() && classes.iter().all(plain) {
        return classes.to_vec();
    }
    let replaced = |class: &String| class.chars().map(|c| if allowed(c) { c } else { '_' }).collect::<String>();
    classes.iter().enumerate().map(|(label, class)| format!("{label:04}-{}", replaced(class))).collect()
}

/// `SPLIT/CLASS/ROW.png` for every sample, and the manifest.
pub(crate) fn folder<'a>(classes: &'a [String], parts: Vec<Part<'a>>) -> SetFiles<'a> {
    let folders = folders(classes);
    let name = move |part: &Part<'_>, row: usize, sample: &Sample| {
        format!("{}/{}/{row:06}.png", part.name, folders[sample.label as usize])
    };
    let all: Vec<(usize, usize)> =
        parts.iter().enumerate().flat_map(|(i, part)| (0..part.samples.len()).map(move |row| (i, row))).collect();
    let mut names: Vec<String> =
        all.iter().map(|(part, row)| name(&parts[*part], *row, &parts[*part].samples[*row])).collect();
    names.push(MANIFEST.to_owned());
    let make = move |number: usize| match all.get(number) {
        Some((part, row)) => {
            let (part, sample) = (&parts[*part], &parts[*part].samples[*row]);
            picture(part, sample, &name(part, *row, sample))
        }
        None => manifest(classes, &parts, &name),
    };
    SetFiles { names, make: Box::new(make) }
}
