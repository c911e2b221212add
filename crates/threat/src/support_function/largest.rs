//! The largest of many values, for each label.

use super::{FAR, STARTS};

/// For each label the largest values that were offered, and their rows. Of equal values, the first are kept.
pub(super) struct Largest {
    /// How many are kept for each label.
    count: usize,
    /// How many pairs of a label and a row are asked for in the end.
    most: usize,
    /// The values and rows of each label, `count` for one after the other: the largest first, and negative infinity
    /// where fewer were offered.
    kept: Vec<(f64, usize)>,
    /// Values for each label up to which none is asked for in the end.
    least: Vec<f64>,
}

impl Largest {
    /// Nothing is kept yet. In the end, pairs are asked for that make at most `most` starts.
    pub(super) fn new(labels: usize, count: usize, most: usize) -> Self {
        let (kept, least) = (vec![(f64::NEG_INFINITY, 0); labels * count], vec![f64::NEG_INFINITY; labels]);
        // Each clean sample makes two starts.
        Self { count, most: most / (2 * STARTS + FAR) * count, kept, least }
    }

    /// Offers one value for each label, all of the same row.
    pub(super) fn offer(&mut self, row: usize, values: &[f64]) {
        /// Values that are compared before any is looked at, which makes the comparisons fast.
        const TOGETHER: usize = 16;
        for first in (0..values.len()).step_by(TOGETHER) {
            let last = values.len().min(first + TOGETHER);
            let (some, least) = (&values[first..last], &self.least[first..last]);
            if some.iter().zip(least).fold(false, |any, (value, least)| any | (value > least)) {
                (first..last).for_each(|label| self.insert(label, values[label], row));
            }
        }
    }

    fn insert(&mut self, label: usize, value: f64, row: usize) {
        if value > self.least[label] {
            let kept = &mut self.kept[label * self.count..(label + 1) * self.count];
            let mut place = self.count - 1;
            while place > 0 && kept[place - 1].0 < value {
                kept[place] = kept[place - 1];
                place -= 1;
            }
            kept[place] = (value, row);
            self.least[label] = self.least[label].max(kept[self.count - 1].0);
        }
    }

    /// Leaves out, from now on, values that are surely not among those that are asked for. It changes no result.
    pub(super) fn prune(&mut self) {
        if self.kept.len() > self.most {
            let mut values: Vec<f64> = self.kept.iter().map(|(value, _)| *value).collect();
            let (_, floor, _) = values.select_nth_unstable_by(self.most, |a, b| b.total_cmp(a));
            self.least.iter_mut().for_each(|least| *least = least.max(*floor));
        }
    }

    /// What is largest in both. The rows of `other` come later.
    pub(super) fn join(mut self, other: Self) -> Self {
        self.prune();
        for (i, (value, row)) in other.kept.into_iter().enumerate() {
            self.insert(i / self.count, value, row);
        }
        self
    }

    /// The largest of labels, each of which was searched alone.
    pub(super) fn of_all(each: Vec<Self>, most: usize) -> Self {
        let mut all = Self::new(0, FAR, most);
        for one in each {
            all.kept.extend(one.kept);
            all.least.extend(one.least);
        }
        all
    }

    /// The best pairs of a label and a row, as many as are asked for. They are in the order of the labels, and of their
    /// values for one label.
    pub(super) fn pairs(&self, labels: &[u32]) -> Vec<(u32, usize)> {
        let mut places: Vec<usize> = (0..self.kept.len()).filter(|i| self.kept[*i].0 > f64::NEG_INFINITY).collect();
        if places.len() > self.most {
            let larger = |a: &usize, b: &usize| self.kept[*b].0.total_cmp(&self.kept[*a].0).then(a.cmp(b));
            places.select_nth_unstable_by(self.most, larger);
            places.truncate(self.most);
            places.sort_unstable();
        }
        places.into_iter().map(|i| (labels[i / self.count], self.kept[i].1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_those_of_a_sort() {
        let (labels, rows, count) = (21, 50, 3);
        let value = |label: usize, row: usize| ((label * 7 + row * 13) % 11) as f64;
        let offered = |from, to, most| {
            let mut largest = Largest::new(labels, count, most);
            for row in from..to {
                largest.offer(row, &(0..labels).map(|label| value(label, row)).collect::<Vec<_>>());
                largest.prune();
            }
            largest
        };
        let names: Vec<u32> = (100..100 + labels as u32).collect();
        let mut expected = Vec::new();
        for (label, name) in names.iter().enumerate() {
            let mut order: Vec<usize> = (0..rows).collect();
            order.sort_by(|a, b| value(label, *b).total_cmp(&value(label, *a)));
            expected.extend(order[..count].iter().map(|row| (*name, *row)));
        }
        let all = usize::MAX;
        assert_eq!(offered(0, rows, all).pairs(&names), expected);
        assert_eq!(offered(0, 20, all).join(offered(20, rows, all)).pairs(&names), expected);
        let some = 4 * (2 * STARTS + FAR);
        for few in [offered(0, rows, some), offered(0, 20, some).join(offered(20, rows, some))] {
            let few = few.pairs(&names);
            assert!(few.len() == 4 * count && few.is_sorted_by_key(|(label, _)| *label));
            // All of these have the largest value that there is.
            assert!(few.iter().all(|(label, row)| value((label - 100) as usize, *row) == 10.0), "{few:?}");
        }
    }

    #[test]
    fn fewer_rows_than_places_are_all() {
        let mut largest = Largest::new(2, 3, usize::MAX);
        largest.offer(5, &[1.0, f64::NAN]);
        assert_eq!(largest.pairs(&[0, 1]), [(0, 5)]);
    }
}
