use super::*;
use hemlock_attack::{BilevelObjective, CancelingObjective, Objective, testing::Clouds};
use hemlock_fixtures::{StopAfter, context};
use hemlock_head::Head;
use hemlock_stage::{Cancel, Checkpoints, ErrorKind, Params as _};
use hemlock_threat::Constraint;
use serde_json::json;
use std::sync::Mutex;

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
                    let journal = RefCell::new(Journal::load(ctx));
                    Search { params, clean, count: 12, constraint, ctx, journal }.make(&mut *objective).unwrap()
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

/// The checkpoint of the last run, in memory.
#[derive(Default)]
struct Memory(Mutex<Option<Vec<u8>>>);

impl Checkpoints for Memory {
    fn load(&self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(self.0.lock().unwrap().clone())
    }
    fn save(&self, state: &[u8]) -> Result<(), StageError> {
        *self.0.lock().unwrap() = Some(state.to_vec());
        Ok(())
    }
}

/// With adversarial labels there are three searches, one after the other.
#[test]
fn a_run_that_is_stopped_again_and_again_ends_with_the_same_bits() {
    let setting = Clouds::new();
    let constraint = Constraint::ball(1.5);
    for (attack, solver) in [("bilevel", "adam"), ("bilevel", "lbfgs"), ("gradient-canceling", "adam")] {
        let table = json!({ "attack": attack, "poison_fraction": 0.1, "labels": "adversarial", "solver": solver, "steps": 20, "start": "clean" });
        let params: Params = serde_json::from_value(table).unwrap();
        let target = Head::from_packed(&setting.head.packed() * 0.7).unwrap();
        let run = |checkpoints: &dyn Checkpoints, steps: u64| {
            let (clean, cancel) = (setting.clean(), Cancel::default());
            let mut objective: Box<dyn Objective> = match attack {
                "bilevel" => {
                    let head = setting.head.clone();
                    Box::new(BilevelObjective::new(clean, vec![setting.validation()], head, 1e-2, 0.5).unwrap())
                }
                _ => Box::new(CancelingObjective::new(&target, clean, 1e-2).unwrap()),
            };
            let progress = StopAfter::new(steps, &cancel);
            hemlock_fixtures::in_context("flex", &progress, &cancel, |ctx| {
                let ctx = Context { checkpoints, ..*ctx };
                let (params, constraint, journal) = (&params, &constraint, RefCell::new(Journal::load(&ctx)));
                let search = Search { params, clean: setting.clean(), count: 12, constraint, ctx: &ctx, journal };
                search.make(&mut *objective)
            })
        };
        let whole = run(&Memory::default(), u64::MAX).unwrap();
        let (memory, mut runs) = (Memory::default(), 1);
        let found = loop {
            match run(&memory, 7) {
                Ok(found) => break found,
                Err(e) => assert_eq!(e.kind(), ErrorKind::Interrupted, "{e}"),
            }
            runs += 1;
            assert!(runs < 30, "it never ends");
        };
        assert!(runs > 5, "{runs}");
        assert_eq!(found.start.features, whole.start.features, "{attack}, {solver}");
        assert_eq!(found.start.labels, whole.start.labels);
        assert_eq!(found.value.to_bits(), whole.value.to_bits());
        assert_eq!(found.gap, whole.gap);
        assert_eq!(found.curve, whole.curve);
    }
}
