//! Drafts of specs for a file of features.

use crate::{
    SpecDraft,
    words::{MANY, a_class, budgets, comment, enough_classes, named, quoted, seen_from_data, smallest},
};
use hemlock_features::{FeatureSurvey, survey};
use hemlock_stage::{Environment, StageError, few};
use std::path::Path;

/// Largest number of training samples that are held out for validation.
const MOST_HELD_OUT: usize = 5000;

/// Drafts a spec for a file of features or a folder of arrays. `path` is relative to the working directory.
///
/// # Errors
/// If the file does not exist, is damaged, has arrays that do not fit each other, or has a path that is not UTF-8.
pub fn features(path: &Path, env: &Environment) -> Result<SpecDraft, StageError> {
    let survey = survey(path, "--features")?;
    enough_classes(path, survey.train.len())?;
    let found = found(&named(path)?, &survey);
    let spec = spec(&named(&seen_from_data(path, env)?)?, &found, &survey);
    Ok(SpecDraft { found, spec })
}

/// Number of training samples to hold out for validation: a fifth of the smallest class from each class. 0 if the file
/// has a validation split, or if classes are too small.
fn held_out(survey: &FeatureSurvey) -> usize {
    if survey.validation.is_some() {
        return 0;
    }
    let classes = survey.train.len();
    classes * (smallest(&survey.train) / 5).min(MOST_HELD_OUT / classes)
}

fn found(name: &str, survey: &FeatureSurvey) -> String {
    let FeatureSurvey { train, validation, test, dim, unread } = survey;
    let mut parts = vec![format!(
        "{} classes, {} training samples ({}) of {dim} features",
        train.len(),
        train.iter().sum::<usize>(),
        a_class(train)
    )];
    parts.extend(validation.map(|count| format!("{count} validation samples")));
    parts.push(format!("{test} test samples"));
    if !unread.is_empty() {
        parts.push(format!("and beside these {}, which nothing reads", few(unread)));
    }
    format!("{name} has {}.", parts.join(", "))
}

fn spec(path: &str, found: &str, survey: &FeatureSurvey) -> String {
    let held_out = held_out(survey);
    let trained_on = survey.train.iter().sum::<usize>() - held_out;
    let validation = match held_out {
        0 => String::new(),
        n => format!(
            "# Held out of train, class-balanced; every seed of the pipeline holds out samples of its own.\n\
             validation = {n}\nseed = \"run\"\n"
        ),
    };
    format!(
        r#"# A first attack on features of our own. There are no images to make poisons of, so the attack ends at features.
#
{found}
description = {description}
seeds = [0, 1, 2]

[features]
method = "import"
# A relative path starts at data/, or where --data says.
path = {path}
{validation}normalization = "standardize"  # or l2, as CLIP's features are often used; or none

[target-params]
radius = 0.3                     # stepped back by itself where that is too far
calibration = "scale-and-bias"
constraint = "ball"
weight_decay = {decay}

# Poisons as a share of the {trained_on} training samples: at least one of them.
[[poison-features]]
attack = ["bilevel", "gradient-canceling"]
poison_fraction = {budgets}
constraint = ["ball", "ball+box"]

[evaluate]
"#,
        found = comment(found).trim_end(),
        description = quoted(&format!("A first attack on the features in {path}.")),
        path = quoted(path),
        decay = if trained_on < MANY { "1e-3" } else { "1e-4" },
        budgets = budgets(trained_on),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_held_out_where_all_classes_have_some_to_spare() {
        let held = |train: &[usize], validation| {
            held_out(&FeatureSurvey { train: train.to_vec(), validation, test: 9, dim: 2, unread: Vec::new() })
        };
        assert_eq!(held(&[5000; 10], None), 5000);
        assert_eq!(held(&[100, 50], None), 20);
        assert_eq!(held(&[100, 4], None), 0);
        assert_eq!(held(&[100; 6000], None), 0);
        assert_eq!(held(&[100, 50], Some(7)), 0);
    }
}
