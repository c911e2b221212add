//! How many training samples a dataset will have, as far as its parameters say.

use hemlock_stage::ParamError;
use serde_json::Value;

/// The numbers of training samples that the parameters of a dataset give. What they leave open is known only when the
/// dataset is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrainingSize {
    samples: Option<usize>,
    per_class: Option<usize>,
}

impl TrainingSize {
    /// The numbers that the parameters of the stage `dataset` give.
    #[must_use]
    pub fn of(dataset: &Value) -> Self {
        let number = |field: &str| dataset.get(field).and_then(Value::as_u64).map(|number| number as usize);
        let per_class = number("per_class");
        let classes = dataset.get("classes").and_then(Value::as_array).map(Vec::len);
        let samples = match per_class {
            Some(each) => classes.map(|classes| each.saturating_mul(classes)),
            None => number("train"),
        };
        Self { samples, per_class }
    }

    /// Requires that there are at least `needed` samples for a field that has this value.
    ///
    /// # Errors
    /// There are fewer.
    pub fn require(self, path: &str, value: usize, needed: usize) -> Result<(), ParamError> {
        let found = self.samples.filter(|samples| *samples < needed);
        found.map_or(Ok(()), |samples| Err(too_few(path, value, needed, &format!("has {samples}"))))
    }

    /// Requires that every class has at least `needed` samples for a field that has this value.
    ///
    /// # Errors
    /// The classes have fewer. Without `per_class`, their sizes are unknown, and at least two share all samples.
    pub fn require_per_class(self, path: &str, value: usize, needed: usize) -> Result<(), ParamError> {
        match self.per_class.filter(|each| *each < needed) {
            Some(each) => Err(too_few(path, value, needed, &format!("has {each} of every class"))),
            None => self.require(path, value, 2 * needed),
        }
    }

    /// Requires that removing a share leaves something of every class, if a filter removes it `by_class`, or of all
    /// samples. Numbers are rounded as filters round them.
    ///
    /// # Errors
    /// Nothing would be left.
    pub(crate) fn require_rest(self, path: &str, share: f64, by_class: bool) -> Result<(), ParamError> {
        let (whole, what) = if by_class { (self.per_class, "of every class") } else { (self.samples, "in all") };
        let gone = |samples: &usize| crate::filters::count_of(share, *samples) >= *samples;
        whole.filter(gone).map_or(Ok(()), |samples| {
            let message = format!("is {share}, which removes everything: there are {samples} training samples {what}");
            Err(ParamError::new(path, message))
        })
    }
}

fn too_few(path: &str, value: usize, needed: usize, has: &str) -> ParamError {
    let message = format!("is {value}, which takes at least {needed} training samples; [dataset.downstream] {has}");
    ParamError::new(path, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_dataset_says_is_held_against_what_is_needed() {
        let train = TrainingSize::of(&json!({ "train": 100 }));
        assert!(train.require("parts", 100, 100).is_ok() && train.require_per_class("trim", 24, 49).is_ok());
        let message = train.require("parts", 101, 101).unwrap_err().to_string();
        assert_eq!(message, "`parts`: is 101, which takes at least 101 training samples; [dataset.downstream] has 100");
        assert!(train.require_per_class("trim", 25, 51).is_err());

        let few = TrainingSize::of(&json!({ "train": 100, "per_class": 5, "classes": ["a", "b", "c"] }));
        assert!(few.require("parts", 15, 15).is_ok() && few.require("parts", 16, 16).is_err());
        assert!(few.require_per_class("trim", 2, 5).is_ok());
        let message = few.require_per_class("trim", 3, 7).unwrap_err().to_string();
        assert!(message.ends_with("has 5 of every class"), "{message}");
        assert!(few.require_rest("remove", 0.89, true).is_ok() && few.require_rest("remove", 0.95, false).is_ok());
        assert!(few.require_rest("remove", 0.9, true).is_err() && few.require_rest("remove", 0.97, false).is_err());

        // All of a source.
        let open = TrainingSize::of(&json!({ "train": null }));
        assert!(open.require("parts", 1 << 20, 1 << 20).is_ok() && open.require_rest("remove", 0.999, true).is_ok());
    }
}
