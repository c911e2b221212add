use super::*;
use hemlock_attack::{BilevelObjective, CancelingObjective, Objective, testing::Clouds};
use hemlock_fixtures::context;
use hemlock_head::Head;
use hemlock_stage::Params as _;
use hemlock_threat::Constraint;
use serde_json::json;

/// Adversarial labels include clean labels as a special case, so for every attack and solver their result is no worse.
#[test]
fn adversarial_labels_contain_clean_ones() {
    let setting = Clouds::new();
    let target = Head::from_packed(&setting.head.packed() * 0.7).unwrap();
    let constraint = Constraint::ball(1.5);
    let (mut behind, mut gaps) = (0, 0);
    for (attack, solver) in [
        ("bilevel", "adam"),
        ("bilevel", "lbfgs"),
        ("bilevel-cross-entropy", "adam"),
        ("gradient-canceling", "adam"),
        ("gradient-canceling", "lbfgs"),
        ("gradient-canceling", "conditional-gradient"),
    ] {
        for seed in 0..3 {
            let made = |labels: &str| {
                let mut table = json!({ "attack": attack, "poison_fraction": 0.1, "labels": labels, "solver": solver });
                if solver != "conditional-gradient" {
                    table["steps"] = 30.into();
                    table["start"] = "clean".into();
                }
                let params: Params = serde_json::from_value(table).unwrap();
                let (clean, held_out, head) = (setting.clean(), vec![setting.validation()], setting.head.clone());
                let mut objective: Box<dyn Objective> = match attack {
                    "bilevel" => Box::new(BilevelObjective::new(clean, held_out, head, 1e-2, 0.5).unwrap()),
                    "gradient-canceling" => Box::new(CancelingObjective::new(&target, clean, 1e-2).unwrap()),
                    _ => Box::new(BilevelObjective::cross_entropy(clean, held_out, head, 1e-2).unwrap()),
                };
                context(seed, |ctx| {
                    let (params, clean, constraint) = (&params, setting.clean(), &constraint);
                    Search { params, clean, count: 12, constraint, ctx }.make(&mut *objective).unwrap()
                })
            };
            let (kept, adversarial) = (made("clean"), made("adversarial"));
            assert_eq!(kept.gap, None);
            let gap = adversarial.gap.unwrap();
            // The inner training starts from the last head and stops within a tolerance, so values differ slightly.
            assert!(
                adversarial.value <= kept.value + 1e-5,
                "{attack}, {solver}: {} after {}",
                adversarial.value,
                kept.value
            );
            behind += usize::from(adversarial.value < kept.value - 1e-4);
            gaps += usize::from(gap > 0.0);
        }
    }
    assert!(
        behind > 3 && gaps > 0,
        "adversarial labels were better {behind} times, and the search alone behind {gaps} times"
    );
}

#[test]
fn all_fields_are_known() {
    let mut table = json!({
        "attack": "bilevel", "poison_fraction": 0.1, "label_update_interval": 1, "start": "clean", "base": "start", "steps": 1, "step": 1.0,
        "patience": 1, "max_seconds": 1.0, "adaptive": true,
    });
    let params: Params = serde_json::from_value(table.clone()).unwrap();
    params.check().unwrap();
    let own = params.own.clone().into_table();
    table = serde_json::to_value(params).unwrap();
    let mut fields: Vec<&str> = table.as_object().unwrap().keys().map(String::as_str).collect();
    fields.retain(|field| !own.contains_key(*field));
    let mut known = Params::FIELDS;
    known.sort_unstable();
    assert_eq!(fields, known);
}
