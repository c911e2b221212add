//! Drafts of specs for a folder of images.

use crate::{
    SpecDraft,
    words::{MANY, a_class, budgets, comment, enough_classes, named, quoted, seen_from_data, smallest},
};
use hemlock_data::{ImageSurvey, survey};
use hemlock_models::import::repository::Repository;
use hemlock_stage::{Environment, ErrorKind, StageError, few};
use std::path::Path;

/// Largest number of training images that a first attack takes.
const MOST: usize = 10_000;
/// Number of training images from which batches have 128 images.
const LARGE_BATCHES: usize = 1000;
/// Shorter side, in pixels, from which images of a small dataset are scaled to 64 pixels, which take four times as long
/// as 32.
const DETAILED: u32 = 96;

/// Drafts a spec for a folder of images. The extractor is trained on them or, if `extractor` is the folder of a network
/// (of transformers, timm or OpenCLIP), that network; images are then prepared as the folder says.
///
/// # Errors
/// If the folder is not laid out as an image dataset, if an image cannot be decoded, if there are fewer than two
/// classes, if a class has no image to test on, if the network's folder does not say which network it is and how large
/// its images are, or if a path is not UTF-8.
pub fn images(path: &Path, extractor: Option<&Path>, env: &Environment) -> Result<SpecDraft, StageError> {
    // This comes before the images are read, which takes longer.
    let network = extractor.map(|folder| Network::read(folder, env)).transpose()?;
    let (name, survey) = (named(path)?, survey(path)?);
    enough_classes(path, survey.classes.len())?;
    let sizes = Sizes::of(path, &survey)?;
    let mut found = found(&name, &survey);
    if let Some(network) = &network {
        found += &format!(" {} is a {}.", network.path, network.arch);
    }
    let spec = spec(&name, &found, &sizes, network.as_ref());
    Ok(SpecDraft { found, spec })
}

/// A network in a folder.
struct Network {
    /// The folder, as a spec writes it.
    path: String,
    arch: String,
    /// The lines of `[dataset.downstream]` that prepare images as it expects them.
    dataset: Vec<String>,
}

impl Network {
    fn read(folder: &Path, env: &Environment) -> Result<Self, StageError> {
        let wrong =
            |what: String| StageError::new(ErrorKind::Data, format!("--extractor {}: {what}", folder.display()));
        let repository = Repository::read(folder).map_err(|e| wrong(e.to_string()))?;
        let arch = repository.arch.map_err(|why| wrong(format!("{why}; write [pretrain] by hand")))?;
        let size = repository.image_size.ok_or_else(|| {
            wrong("no JSON file says how large its images are; write [pretrain] and `image_size` by hand".to_owned())
        })?;
        let path = named(&seen_from_data(folder, env)?)?;
        Ok(Self { path, arch: arch.to_string(), dataset: repository.resizing.dataset(size) })
    }
}

/// The numbers in a spec that depend on the folder.
#[derive(Debug, PartialEq)]
struct Sizes {
    /// Number of training images; `None` for all that are left.
    train: Option<usize>,
    /// Number of test images to hold out; `None` if the folder has a test split.
    test: Option<usize>,
    /// Number of images that heads are trained on.
    trained_on: usize,
    /// Height and width that images are scaled to, in pixels.
    side: usize,
}

impl Sizes {
    fn of(path: &Path, survey: &ImageSurvey) -> Result<Self, StageError> {
        let classes = survey.classes.len();
        let mut left = survey.train.clone();
        let test = match &survey.test {
            Some(_) => None,
            None => {
                let share = held_out(path, survey)?;
                left.iter_mut().for_each(|count| *count -= share);
                Some(share * classes)
            }
        };
        let all: usize = left.iter().sum();
        // If classes are unbalanced, a balanced choice may have hardly any images.
        let balanced = classes * smallest(&left);
        let train = Some(balanced.min(MOST)).filter(|chosen| all > MOST && 2 * chosen >= MOST);
        let trained_on = train.unwrap_or(all);
        let median = survey.sides.get(survey.sides.len() / 2).copied().unwrap_or(0);
        let side = if median >= DETAILED && trained_on < MANY { 64 } else { 32 };
        Ok(Self { train, test, trained_on, side })
    }
}

/// Number of images of each class to hold out for testing, if the folder has no test split: a fifth of the mean class
/// size, but at most half of the smallest class.
fn held_out(path: &Path, survey: &ImageSurvey) -> Result<usize, StageError> {
    if let Some(class) = survey.train.iter().position(|count| *count < 2) {
        let message = format!(
            "{} has one image of the class `{}`, and no test/; expected at least 2, one of which is tested on",
            path.display(),
            survey.classes[class]
        );
        return Err(StageError::new(ErrorKind::Data, message));
    }
    let mean = survey.train.iter().sum::<usize>() / survey.classes.len();
    Ok((mean / 5).clamp(1, smallest(&survey.train) / 2))
}

fn found(name: &str, survey: &ImageSurvey) -> String {
    let ImageSurvey { classes, train, validation, test, sides, skipped } = survey;
    let split = |counts: &Vec<usize>, what: &str| {
        format!("{} {what} images ({})", counts.iter().sum::<usize>(), a_class(counts))
    };
    let mut parts = vec![format!("{} classes ({})", classes.len(), few(classes))];
    parts.push(split(train, if test.is_some() { "training" } else { "unsplit" }));
    parts.extend(validation.as_ref().map(|counts| split(counts, "validation")));
    parts.extend(test.as_ref().map(|counts| split(counts, "test")));
    if let (Some(least), Some(most)) = (sides.first(), sides.last()) {
        let range = if least == most { least.to_string() } else { format!("{least} to {most}") };
        parts.push(format!("shorter sides of {range} pixels (of {} that were decoded)", sides.len()));
    }
    if !skipped.is_empty() {
        parts.push(format!("and beside these {}, which are no part of it", few(skipped)));
    }
    format!("{name} has {}.", parts.join(", "))
}

/// The lines that prepare images.
fn preparation(side: usize, network: Option<&Network>) -> String {
    match network {
        Some(network) => {
            format!("# Pictures are prepared as the network's folder says.\n{}\n", network.dataset.join("\n"))
        }
        None => format!("size = {side}\n"),
    }
}

/// The table of the extractor.
fn pretrain(trained_on: usize, network: Option<&Network>) -> String {
    if let Some(Network { path, .. }) = network {
        return format!(
            "# The extractor: the network of that folder, which has its architecture and normalisation, too. With a \
             `probe`\n# the import is verified: docs/import-extractor.md.\n[pretrain]\nmethod = \"import\"\n# A relative path \
             starts at data/, or where --data says.\npath = {}\n",
            quoted(path)
        );
    }
    let few = trained_on < MANY;
    let batch = if trained_on < LARGE_BATCHES { trained_on.min(32) } else { 128 };
    format!(
        r#"# The extractor: trained on the training images themselves, without their labels. Of few images it is a weak one. Better
# is a checkpoint that was trained on many images, where you have one: docs/pretraining.md says which ones fit.
[pretrain]
method = "simclr"
arch = "{arch}"
epochs = {epochs}
batch = {batch}      # at most as many as there are images
"#,
        arch = if few { "resnet8" } else { "resnet20" },
        epochs = if few { 20 } else { 16 },
    )
}

fn spec(name: &str, found: &str, sizes: &Sizes, network: Option<&Network>) -> String {
    let Sizes { train, test, trained_on, side } = *sizes;
    let few = trained_on < MANY;
    let count = |field: &str, count: Option<usize>, why: &str| {
        count.map(|n| format!("{field} = {n}{why}\n")).unwrap_or_default()
    };
    format!(
        r#"# A first attack on images of our own. An arrow marks what else to change.
#
{found}
description = {description}
seeds = [0]           # -> [0, 1, 2]: with several, the report has error bars and tests

[dataset.downstream]
# A relative path starts where you run. -> size: pictures are resized and cropped to so many pixels; time grows with its
# square.
source = {{ kind = "image-folder", path = {path} }}
{preparation}{train}{test}
{pretrain}
[features]
normalization = "standardize"

[target-params]
radius = 0.3                     # stepped back by itself where that is too far
calibration = "scale-and-bias"
constraint = "ball"
weight_decay = {decay}

# Poisons as a share of the {trained_on} training images: at least one of them.
[[poison-features]]
attack = ["bilevel", "gradient-canceling"]
poison_fraction = {budgets}
constraint = "ball"

[[invert]]
method = "feature-matching"
beta = 0.0            # -> 1.0 and more: poisons that look more like the images that they are made of
steps = 30
refine = {refine}           # then all images together, on the attack's own objective

[evaluate]
"#,
        found = comment(found).trim_end(),
        description = quoted(&format!("A first attack on the images in {name}.")),
        path = quoted(name),
        train = count("train", train, "         # -> without this line: all"),
        test = count("test", test, "             # held out of the images, class-balanced"),
        preparation = preparation(side, network),
        pretrain = pretrain(trained_on, network),
        decay = if few { "1e-3" } else { "1e-4" },
        budgets = budgets(trained_on),
        refine = if few { 30 } else { 100 },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(train: &[usize], test: Option<Vec<usize>>, side: u32) -> Result<Sizes, String> {
        let classes = (0..train.len()).map(|class| format!("c{class}")).collect();
        let train = train.to_vec();
        let survey =
            ImageSurvey { classes, train, validation: None, test, sides: vec![8, side, 5000], skipped: Vec::new() };
        Sizes::of(Path::new("own"), &survey).map_err(|e| e.to_string())
    }

    #[test]
    fn sizes_follow_what_is_there() {
        let all = |trained_on, side| Sizes { train: None, test: None, trained_on, side };
        assert_eq!(sizes(&[60, 100], Some(vec![9, 9]), 500).unwrap(), all(160, 64));
        assert_eq!(sizes(&[60, 100], Some(vec![9, 9]), 95).unwrap(), all(160, 32));
        assert_eq!(sizes(&[1500, 1500], Some(vec![9, 9]), 500).unwrap(), all(3000, 32));
        assert_eq!(
            sizes(&[9000, 9000], Some(vec![9, 9]), 32).unwrap(),
            Sizes { train: Some(10_000), ..all(10_000, 32) }
        );
        assert_eq!(sizes(&[3000, 9000], Some(vec![9, 9]), 32).unwrap(), Sizes { train: Some(6000), ..all(6000, 32) });
        assert_eq!(sizes(&[30, 19_000], Some(vec![9, 9]), 32).unwrap(), all(19_030, 32));
    }

    #[test]
    fn a_network_decides_how_images_are_prepared() {
        let folder = tempfile::tempdir().unwrap();
        let env = Environment { data: Some(folder.path().into()), ..Environment::default() };
        let own = folder.path().join("dinov2");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("model.safetensors"), "").unwrap();
        let missing = Network::read(&own, &env).err().unwrap().to_string();
        assert!(
            missing.contains("dinov2: no config.json or open_clip_config.json says which architecture"),
            "{missing}"
        );
        let config = r#"{"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6, "patch_size": 14}"#;
        std::fs::write(own.join("config.json"), config).unwrap();
        let missing = Network::read(&own, &env).err().unwrap().to_string();
        assert!(missing.contains("no JSON file says how large its images are"), "{missing}");
        let config = r#"{"crop_size": 224, "do_center_crop": true, "resample": 3, "size": {"shortest_edge": 256}}"#;
        std::fs::write(own.join("preprocessor_config.json"), config).unwrap();
        let network = Network::read(&own, &env).unwrap();
        let sizes = Sizes { train: None, test: None, trained_on: 160, side: 32 };
        let spec = spec("own", "Found.", &sizes, Some(&network));
        let lines = "size = 224\ninterpolation = \"bicubic\"\ncrop = 0.875\n";
        assert!(spec.contains(lines) && !spec.contains("size = 32"), "{spec}");
        assert!(spec.contains("method = \"import\"") && spec.contains("path = \"dinov2\""), "{spec}");
        toml::from_str::<toml::Table>(&spec).unwrap();
    }

    #[test]
    fn a_folder_without_a_test_split_holds_some_out() {
        let held = |test, trained_on| Sizes { train: None, test: Some(test), trained_on, side: 32 };
        assert_eq!(sizes(&[50, 50], None, 32).unwrap(), held(20, 80));
        assert_eq!(sizes(&[5, 95], None, 32).unwrap(), held(4, 96));
        assert_eq!(sizes(&[2, 2], None, 32).unwrap(), held(2, 2));
        assert_eq!(
            sizes(&[9, 1], None, 32).unwrap_err(),
            "own has one image of the class `c1`, and no test/; expected at least 2, one of which is tested on"
        );
    }
}
