//! Selecting branches by what they are made with: `seed=0,poison_fraction=0.03,invert.beta=0`.

use crate::{Branch, Plan, spec::nearest, telling};
use hemlock_stage::{VALUE, few, short};
use serde_json::Value;
use std::collections::BTreeSet;

/// Conditions on a branch, which all have to hold.
///
/// A field is one of these:
///
/// - `seed`,
/// - `node.field`, a parameter of a node,
/// - `field` alone, if only one node of a branch has that parameter.
///
/// A field inside a table has further names: `dataset.downstream.source.kind`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection(Vec<Condition>);

#[derive(Debug, Clone, PartialEq)]
struct Condition {
    field: String,
    wanted: Value,
    text: String,
}

impl std::str::FromStr for Selection {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let condition = |text: &str| {
            let (field, value) = text.split_once('=').ok_or_else(|| {
                let text = short(text, VALUE);
                format!("'{text}' is no condition; expected `field=value` or `stage.field=value`, such as `seed=0`")
            })?;
            let (field, value) = (field.trim().to_owned(), value.trim());
            let wanted = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            let text = short(&format!("{field}={value}"), VALUE).into_owned();
            Ok(Condition { text, field, wanted })
        };
        text.split(',').filter(|s| !s.trim().is_empty()).map(condition).collect::<Result<_, _>>().map(Self)
    }
}

impl Condition {
    /// The values of the field on a branch, with full names. There are several if the field is ambiguous.
    fn values(&self, plan: &Plan, branch: &Branch) -> Vec<(String, Value)> {
        if self.field == "seed" {
            return branch.seed.map(|seed| ("seed".to_owned(), seed.into())).into_iter().collect();
        }
        let inside = |params: &Value, field: &str| params.pointer(&format!("/{}", field.replace('.', "/"))).cloned();
        let params = |node: &str| branch.tasks.get(node).map(|task| &plan.tasks[*task].params);
        let in_full = |node: &str| self.field.strip_prefix(node)?.strip_prefix('.');
        let named = branch.tasks.keys().filter_map(|node| Some((*node, in_full(node)?)));
        if let Some((node, field)) = named.max_by_key(|(node, _)| node.len()) {
            let value = params(node).and_then(|params| inside(params, field));
            return value.map(|value| (self.field.clone(), value)).into_iter().collect();
        }
        let value = |node: &&str| Some((format!("{node}.{}", self.field), inside(params(node)?, &self.field)?));
        branch.tasks.keys().filter_map(value).collect()
    }

    fn holds(&self, plan: &Plan, branch: &Branch) -> bool {
        self.values(plan, branch).iter().any(|(_, value)| equal(value, &self.wanted))
    }
}

impl Selection {
    /// Whether there are no conditions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The branches of a plan on which every condition holds, at least one. Without conditions, these are all branches.
    ///
    /// # Errors
    /// The message says what there is instead.
    ///
    /// - No branch has the field of a condition, or the field is ambiguous.
    /// - No branch has the value of a condition.
    /// - No branch meets all conditions together.
    pub fn of<'p>(&self, plan: &'p Plan) -> Result<Vec<&'p Branch>, String> {
        for condition in &self.0 {
            check(condition, plan)?;
        }
        let selected: Vec<&Branch> =
            plan.branches.iter().filter(|branch| self.0.iter().all(|c| c.holds(plan, branch))).collect();
        if selected.is_empty() {
            let all = few(self.0.iter().map(|c| &c.text));
            return Err(format!("no branch has all of {all} together"));
        }
        Ok(selected)
    }
}

fn check(condition: &Condition, plan: &Plan) -> Result<(), String> {
    let Condition { field, wanted, text } = condition;
    let told = short(field, VALUE);
    let mut there: Vec<Value> = Vec::new();
    for branch in &plan.branches {
        let values = condition.values(plan, branch);
        if let [_, _, ..] = &values[..] {
            let names = few(values.iter().map(|(name, _)| format!("`{name}`")));
            return Err(format!("'{told}' may be any of {names}; write one of them in full"));
        }
        for (_, value) in values {
            if !there.iter().any(|known| equal(known, &value)) {
                there.push(value);
            }
        }
    }
    if there.is_empty() {
        return Err(format!("there is no field '{told}' to select by; {}", instead(field, plan)));
    }
    if there.iter().any(|value| equal(value, wanted)) {
        return Ok(());
    }
    let values: Vec<String> = there.iter().map(shown).collect();
    let names: Vec<&str> = values.iter().map(String::as_str).collect();
    let hint = nearest(&shown(wanted), &names).map(|near| format!("; did you mean `{told}={near}`?"));
    Err(format!("no branch has {text}; of '{told}' there is {}{}", few(names), hint.unwrap_or_default()))
}

/// Suggests what to write instead of a field that does not exist: the most similar one, or else the fields in which
/// branches differ.
fn instead(field: &str, plan: &Plan) -> String {
    let mut known = BTreeSet::from(["seed".to_owned()]);
    for task in &plan.tasks {
        for field in task.params.as_object().into_iter().flat_map(|fields| fields.keys()) {
            known.insert(field.clone());
            known.insert(format!("{}.{field}", task.node));
        }
    }
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    if let Some(near) = nearest(field, &names) {
        return format!("did you mean `{near}`?");
    }
    let apart = telling(plan.tasks.iter().map(|task| (task.node, &task.params)));
    let apart = apart.iter().map(|(node, field)| format!("{node}.{field}"));
    format!("branches differ in {}", few(["seed".to_owned()].into_iter().chain(apart)))
}

/// A value as one would write it in a selection.
pub(crate) fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether two values are equal. `1` and `1.0` are the same number.
fn equal(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a))
}
