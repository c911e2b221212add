//! Decides what may be compared: configurations that differ in nothing but what a finding asks about.

use super::traits::{Trait, Traits};
use crate::{ConfigGroup, words};
use hemlock_stage::StageRole;

/// The largest number of differences of two configurations that still count as nearly comparable.
const NEAR: usize = 2;
/// The largest number of pairs that a finding lists as not comparable.
const LISTED: usize = 10;

/// The traits in which the sides of a comparison may differ: by name, and all traits that only stages of some roles can
/// have. A name that ends in a dot stands for all traits whose names begin with it. All other traits have to be equal.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    names: &'static [&'static str],
    stages: &'static [StageRole],
}

/// Names and values of the traits that are not on an axis, sorted by name.
type Rest = Vec<(String, String)>;

impl Axis {
    /// The axis of the traits with some names.
    pub const fn of(names: &'static [&'static str]) -> Self {
        Self { names, stages: &[] }
    }

    /// The axis with all traits, in addition, that only stages of these roles can have.
    pub const fn and_stages(self, stages: &'static [StageRole]) -> Self {
        Self { stages, ..self }
    }

    fn spans(self, of: &Trait) -> bool {
        let named = |name: &str| of.name == name || (name.ends_with('.') && of.name.starts_with(name));
        self.names.iter().any(|name| named(name)) || of.stage.is_some_and(|stage| self.stages.contains(&stage))
    }

    /// The traits that are not on this axis.
    fn rest(self, traits: &Traits) -> Rest {
        traits.iter().filter(|of| !self.spans(of)).map(|of| (of.name.clone(), of.value.clone())).collect()
    }
}

/// A trait in which two configurations differ. A value is `None` if the configuration does not have the trait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraitDifference {
    /// The name of the trait.
    pub of: String,
    /// The value of the left configuration.
    pub left: Option<String>,
    /// The value of the right configuration.
    pub right: Option<String>,
}

/// Two configurations that are not compared because they differ in something that is not on the axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomparablePair {
    /// The name of the left configuration.
    pub left: String,
    /// The name of the right configuration.
    pub right: String,
    /// The traits in which they differ.
    pub differ: Vec<TraitDifference>,
}

impl IncomparablePair {
    /// The differences in words.
    pub fn why(&self) -> String {
        let words = |d: &TraitDifference| {
            let of = |side: &Option<String>| side.clone().unwrap_or_else(|| "none".to_owned());
            format!("{}: {} against {}", d.of, of(&d.left), of(&d.right))
        };
        self.differ.iter().map(words).collect::<Vec<_>>().join("; ")
    }
}

/// Configurations that may be compared: each of the left side with each of the right side.
#[derive(Debug)]
pub struct ComparableGroup<'c> {
    /// The configurations of the left side.
    pub left: Vec<&'c ConfigGroup>,
    /// The configurations of the right side.
    pub right: Vec<&'c ConfigGroup>,
}

/// The configurations that a finding can compare, and those that it cannot.
#[derive(Debug)]
pub struct Pairing<'c> {
    /// Groups with configurations of both sides.
    pub groups: Vec<ComparableGroup<'c>>,
    /// For configurations that have no partner: the most similar configuration of the other side.
    pub apart: Vec<IncomparablePair>,
}

/// Puts the configurations of two sides into groups that are equal in all traits that are not on the axis.
pub fn ask<'c>(left: &[&'c ConfigGroup], right: &[&'c ConfigGroup], axis: Axis) -> Pairing<'c> {
    let mut groups: Vec<(Rest, ComparableGroup)> = Vec::new();
    for (configs, is_left) in [(left, true), (right, false)] {
        for config in configs {
            let rest = axis.rest(&Traits::of(config));
            let at = groups.iter().position(|(key, _)| *key == rest).unwrap_or_else(|| {
                groups.push((rest, ComparableGroup { left: Vec::new(), right: Vec::new() }));
                groups.len() - 1
            });
            let group = &mut groups[at].1;
            if is_left { group.left.push(config) } else { group.right.push(config) }
        }
    }
    let (whole, partial): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|(_, group)| !group.left.is_empty() && !group.right.is_empty());
    let mut apart = Vec::new();
    for (key, group) in &partial {
        let lacks_right = group.right.is_empty();
        let others =
            whole.iter().chain(&partial).filter(|(_, o)| !if lacks_right { &o.right } else { &o.left }.is_empty());
        let (mine, first) =
            (
                if lacks_right { &group.left } else { &group.right },
                |o: &ComparableGroup<'c>| {
                    if lacks_right { o.right[0] } else { o.left[0] }
                },
            );
        let near = others.filter_map(|(other, o)| Some((differences(key, other)?, first(o))));
        let Some((differ, other)) = near.min_by_key(|(differ, _)| differ.len()) else { continue };
        let pair = if lacks_right { (mine[0], other, differ) } else { (other, mine[0], turned(differ)) };
        let pair = IncomparablePair { left: pair.0.name.clone(), right: pair.1.name.clone(), differ: pair.2 };
        if !apart.contains(&pair) {
            apart.push(pair);
        }
    }
    Pairing { groups: whole.into_iter().map(|(_, group)| group).collect(), apart }
}

/// Puts configurations into groups that are equal in all traits that are not on the axis. Returns these traits with
/// each group.
fn classes<'c>(configs: &[&'c ConfigGroup], axis: Axis) -> Vec<(Rest, Vec<&'c ConfigGroup>)> {
    let mut groups: Vec<(Rest, Vec<&ConfigGroup>)> = Vec::new();
    for config in configs {
        let rest = axis.rest(&Traits::of(config));
        match groups.iter_mut().find(|(key, _)| *key == rest) {
            Some((_, group)) => group.push(config),
            None => groups.push((rest, vec![config])),
        }
    }
    groups
}

/// Puts configurations into groups that are equal in all traits that are not on the axis.
pub fn grouped<'c>(configs: &[&'c ConfigGroup], axis: Axis) -> Vec<Vec<&'c ConfigGroup>> {
    classes(configs, axis).into_iter().map(|(_, group)| group).collect()
}

/// Puts configurations into groups of at least two that differ along the axis alone. For configurations without a
/// group, also returns the most similar other configuration.
pub fn sweeps<'c>(configs: &[&'c ConfigGroup], axis: Axis) -> (Vec<Vec<&'c ConfigGroup>>, Vec<IncomparablePair>) {
    let groups = classes(configs, axis);
    let mut apart: Vec<IncomparablePair> = Vec::new();
    for (i, (key, group)) in groups.iter().enumerate().filter(|(_, (_, group))| group.len() == 1) {
        let others = groups.iter().enumerate().filter(|(j, _)| *j != i);
        let near = others.filter_map(|(j, (other, o))| Some((differences(key, other)?, j, o[0])));
        let Some((differ, j, other)) = near.min_by_key(|(differ, ..)| differ.len()) else { continue };
        // Two configurations that are each other's most similar one are listed once.
        if !(j < i && groups[j].1.len() == 1 && apart.iter().any(|a| a.left == other.name && a.right == group[0].name))
        {
            apart.push(IncomparablePair { left: group[0].name.clone(), right: other.name.clone(), differ });
        }
    }
    (groups.into_iter().map(|(_, group)| group).filter(|group| group.len() > 1).collect(), apart)
}

/// The differences of two sorted lists of traits; `None` if there are more than [`NEAR`].
fn differences(a: &[(String, String)], b: &[(String, String)]) -> Option<Vec<TraitDifference>> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut found = Vec::new();
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return Some(found),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.0.cmp(&b.0),
        };
        let left = if order.is_le() { a.next() } else { None };
        let right = if order.is_ge() { b.next() } else { None };
        if left != right {
            let of = left.or(right).map(|(name, _)| name.clone()).unwrap_or_default();
            let value = |side: Option<&(String, String)>| side.map(|(_, value)| value.clone());
            found.push(TraitDifference { of, left: value(left), right: value(right) });
            if found.len() > NEAR {
                return None;
            }
        }
    }
}

fn turned(differ: Vec<TraitDifference>) -> Vec<TraitDifference> {
    differ
        .into_iter()
        .map(|TraitDifference { of, left, right }| TraitDifference { of, left: right, right: left })
        .collect()
}

/// The first pairs that are not comparable, and the number of the others.
pub fn listed(mut apart: Vec<IncomparablePair>) -> (Vec<IncomparablePair>, usize) {
    let more = apart.len().saturating_sub(LISTED);
    apart.truncate(LISTED);
    (apart, more)
}

/// A sentence about why there is nothing to compare. `sides` are the names of the sides and their numbers of
/// configurations.
pub fn missing(sides: &[(&str, usize)], needs: &str) -> String {
    let named = |none: bool| -> Vec<String> {
        let of = sides.iter().filter(|(_, n)| (*n == 0) == none);
        of.map(|(name, n)| if none { (*name).to_owned() } else { format!("{n} × {name}") }).collect()
    };
    let (lacking, there) = (named(true), named(false));
    match (lacking.is_empty(), there.is_empty()) {
        (true, true) => format!("There is nothing to compare: the test needs {needs}."),
        (true, false) => format!(
            "There is nothing to compare: no two of these results ({}) are equal in everything else. The test \
             needs {needs}.",
            words::list(&there)
        ),
        (false, true) => {
            format!("There is nothing to compare; missing: {}. The test needs {needs}.", words::list(&lacking))
        }
        (false, false) => format!(
            "There is nothing to compare; missing: {}; found: {}. The test needs {needs}.",
            words::list(&lacking),
            words::list(&there)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::made_up;
    use super::*;
    use serde_json::json;

    const ROUTES: Axis = Axis::of(&["images"]).and_stages(&[StageRole::FeatureAttack, StageRole::Inversion]);

    fn pixels(constraint: &str, poison_fraction: f64) -> ConfigGroup {
        made_up("bilevel + pixels")
            .with(
                "poison-images",
                json!({ "attack": "bilevel", "poison_fraction": poison_fraction, "linf": "8/255", "steps": 80,
                                           "constraint": constraint, "quantile": 0.95 }),
            )
            .config()
    }

    fn matched(constraint: &str, poison_fraction: f64, steps: u32) -> ConfigGroup {
        made_up("bilevel + feature-matching")
            .with(
                "poison-features",
                json!({ "attack": "bilevel", "poison_fraction": poison_fraction, "constraint": constraint,
                                             "quantile": 0.95, "solver": "adam" }),
            )
            .with(
                "invert",
                json!({ "method": "feature-matching", "linf": "8/255", "steps": steps, "optimizer": "lbfgs" }),
            )
            .config()
    }

    #[test]
    fn only_what_is_equal_beside_the_axis_is_compared() {
        let (p, f) = (pixels("ball", 0.03), matched("ball", 0.03, 80));
        let asked = ask(&[&p], &[&f], ROUTES);
        assert_eq!((asked.groups.len(), asked.apart.len()), (1, 0));
    }

    #[test]
    fn a_near_miss_is_told_with_what_differs() {
        let (p, f) = (pixels("none", 0.03), matched("ball", 0.03, 80));
        let asked = ask(&[&p], &[&f], ROUTES);
        assert!(asked.groups.is_empty());
        let [apart] = asked.apart.as_slice() else { panic!("{:?}", asked.apart) };
        assert_eq!(apart.why(), "constraint: none against ball at 0.95");
        let (p, f) = (pixels("none", 0.03), matched("none", 0.03, 20));
        assert_eq!(ask(&[&p], &[&f], ROUTES).apart[0].why(), "passes: 80 against 20");
    }

    #[test]
    fn the_nearest_is_told_and_strangers_are_not() {
        let p = pixels("none", 0.03);
        let (near, far) = (matched("ball", 0.03, 80), matched("ball", 0.1, 80));
        let asked = ask(&[&p], &[&far, &near], ROUTES);
        // First the most similar one to the attack on pixels, then the most similar one to the other feature-targeted
        // attack.
        let whys: Vec<String> = asked.apart.iter().map(IncomparablePair::why).collect();
        assert_eq!(whys[0], "constraint: none against ball at 0.95");
        assert_eq!(whys[1], "constraint: none against ball at 0.95; poison_fraction: 0.03 against 0.1");
        let stranger = matched("ball", 0.1, 20);
        assert!(ask(&[&p], &[&stranger], ROUTES).apart.is_empty(), "three differences are no near miss");
    }

    #[test]
    fn sweeps_are_told_apart_alike() {
        let at = |beta: f64, constraint: &str| {
            made_up("bilevel + feature-matching")
                .with("poison-features", json!({ "attack": "bilevel", "constraint": constraint }))
                .with("invert", json!({ "beta": beta }))
                .config()
        };
        let all = [at(0.0, "ball"), at(1.0, "ball"), at(10.0, "none")];
        let (groups, apart) = sweeps(&all.iter().collect::<Vec<_>>(), Axis::of(&["beta"]));
        assert_eq!((groups.len(), groups[0].len(), apart.len()), (1, 2, 1));
        assert_eq!(apart[0].why(), "constraint: none against ball");
    }

    #[test]
    fn what_is_missing_is_said() {
        let said = missing(&[("attack on pixels", 3), ("decoder", 0)], "both");
        assert_eq!(
            said,
            "There is nothing to compare; missing: decoder; found: 3 × attack on pixels. The test needs both."
        );
        assert!(missing(&[("a", 1), ("b", 2)], "both").contains("no two of these results (1 × a and 2 × b)"));
    }
}
