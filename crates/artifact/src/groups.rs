//! Groups of test images, whose accuracies are compared.

use crate::{Answers, Measured, arrays};
use hemlock_store::{PayloadReader, PayloadWriter, StoreError};

/// The groups that the images of a test split belong to, such as the combinations of a class and a background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestGroups {
    /// Names of the groups.
    pub names: Vec<String>,
    /// The group of every image, as a position in `names`, in the order of the split.
    pub of: Vec<u32>,
}

/// The files of an artifact with groups. Others have neither.
const NAMES: &str = "groups";
const OF: &str = "groups.of";

impl TestGroups {
    pub(crate) fn write(groups: Option<&Self>, w: &mut PayloadWriter) -> Result<(), StoreError> {
        let Some(Self { names, of }) = groups else { return Ok(()) };
        w.value(NAMES, names)?;
        arrays::write_vec(w, OF, of)
    }

    pub(crate) fn read(r: &PayloadReader) -> Result<Option<Self>, StoreError> {
        if !r.files().contains_key(NAMES) {
            return Ok(None);
        }
        let (names, of): (Vec<String>, Vec<u32>) = (r.value(NAMES)?, arrays::read_vec(r, OF)?);
        match of.iter().find(|group| **group as usize >= names.len()) {
            None => Ok(Some(Self { names, of })),
            Some(group) => Err(r.corrupt(OF, format!("has the group {group}; there are {}", names.len()))),
        }
    }

    /// Returns the share of the images of each group that are classified correctly, in `[0, 1]`; `None` for a group
    /// without images. `right` says which images are, in the order of the split.
    #[must_use]
    pub fn accuracy(&self, right: &[bool]) -> Vec<Option<f64>> {
        let mut counts = vec![(0u32, 0u32); self.names.len()];
        for (group, right) in self.of.iter().zip(right) {
            let (correct, all) = &mut counts[*group as usize];
            *correct += u32::from(*right);
            *all += 1;
        }
        counts.into_iter().map(|(right, all)| (all > 0).then(|| f64::from(right) / f64::from(all))).collect()
    }

    /// Reads the accuracy of the group that is classified worst, for every training set of an
    /// [`Evaluation`](crate::Evaluation); `None` if its data has no groups.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn read_worst<T>(r: &PayloadReader, sets: &Measured<T>) -> Result<Option<Measured<f64>>, StoreError> {
        let Some(groups) = Self::read(r)? else { return Ok(None) };
        let right = Answers::read_right(r, sets)?;
        let worst = |right: &Vec<bool>| groups.accuracy(right).into_iter().flatten().reduce(f64::min).ok_or(());
        Ok(right.try_map(|_, right| worst(right)).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_by_hand() {
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let groups = TestGroups { names, of: vec![0, 1, 1, 0, 1, 1] };
        let right = [true, true, false, true, false, false];
        assert_eq!(groups.accuracy(&right), [Some(1.0), Some(0.25), None]);
    }

    #[test]
    fn groups_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let groups = TestGroups { names: vec!["a".to_owned(), "b".to_owned()], of: vec![1, 0, 1] };
        for (name, written) in [("with", Some(groups)), ("without", None)] {
            let dir = dir.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            let mut writer = PayloadWriter::new(&dir, "test");
            TestGroups::write(written.as_ref(), &mut writer).unwrap();
            let reader = PayloadReader::new(&dir, "test", writer.files().clone());
            assert_eq!(TestGroups::read(&reader).unwrap(), written);
        }
    }
}
