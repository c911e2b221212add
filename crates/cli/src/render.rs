//! Text for people: tables of tasks, reasons and results.

use anyhow::Result;
use comfy_table::{Cell as TableCell, CellAlignment, Table, presets};
use hemlock_pipeline::{
    Both, Cell, Comparison, Decision, DirtyReason, Group, Plan, Spec, StageDifference, StageTotal, Task, telling,
    totals,
};
use hemlock_poison_features::attacks::ATTACKS;
use hemlock_store::Change;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

/// The table without the padding around it.
fn text(table: &Table) -> String {
    table.lines().map(|l| l.strip_prefix(' ').unwrap_or(&l).trim_end().to_owned() + "\n").collect()
}

/// A value as it would stand in a spec.
fn value(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// A task in a few words: node, seed, and the start of its key.
pub fn task(task: &Task) -> String {
    let seed = task.identity.seed.map(|s| format!(" seed {s}")).unwrap_or_default();
    format!("{}{seed} {}", task.node, task.key.short())
}

/// A reason in a few words.
pub fn brief(reason: &DirtyReason) -> String {
    match reason {
        DirtyReason::Changed { changes, .. } => {
            let changes = changes.iter().map(|change| match change {
                Change::Input { role, .. } => format!("input {role}"),
                other => other.to_string(),
            });
            changes.collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}

/// The tasks of a plan in a few words, with the parameters that tell tasks of one node apart.
fn labels(plan: &Plan) -> Vec<String> {
    let telling = telling(plan.tasks.iter().map(|t| (t.node, &t.params)));
    let label = |t: &Task| {
        let fields =
            t.params.as_object().into_iter().flatten().filter(|(f, _)| telling.contains(&(t.node, f.as_str())));
        fields.fold(task(t), |label, (field, v)| format!("{label} {field}={}", value(v)))
    };
    plan.tasks.iter().map(label).collect()
}

/// What is to be done about a task, in a word.
pub fn state(decision: &Decision) -> &'static str {
    match decision {
        Decision::Cached(_) => "cached",
        Decision::Run(_) => "run",
        Decision::Refuse(_) => "damaged",
    }
}

fn tally(plan: &Plan, decisions: &[Decision]) -> String {
    let cached = decisions.iter().filter(|d| matches!(d, Decision::Cached(_))).count();
    let (branches, tasks) = (plan.branches.len(), plan.tasks.len());
    let branches = if branches == 1 { "1 branch".to_owned() } else { format!("{branches} branches") };
    format!("{tasks} tasks in {branches}: {cached} cached, {} to run\n", tasks - cached)
}

/// The tasks of a plan, what is to be done about each, and the parameters that tell them apart.
pub fn plan(plan: &Plan, decisions: &[Decision]) -> String {
    let mut rows = table(&["", "task", "reason"]);
    for (label, decision) in labels(plan).into_iter().zip(decisions) {
        let reason = match decision {
            Decision::Cached(_) => String::new(),
            Decision::Run(reason) => brief(reason),
            Decision::Refuse(e) => e.to_string(),
        };
        rows.add_row([state(decision).to_owned(), label, reason]);
    }
    text(&rows) + &tally(plan, decisions)
}

/// The artifacts of a plan that are there, and what is in them.
pub fn status(spec: &Spec, plan: &Plan, decisions: &[Decision]) -> String {
    let mut rows = table(&["task", "made", "on", "seconds", "size", "content"]);
    for (label, decision) in labels(plan).into_iter().zip(decisions) {
        match decision {
            Decision::Cached(m) => {
                let size = bytes(m.files.values().map(|f| f.bytes).sum());
                rows.add_row([
                    label,
                    m.created.clone(),
                    m.device.clone(),
                    format!("{:.1}", m.seconds),
                    size,
                    facts(&m.summary),
                ])
            }
            other => rows.add_row([label, format!("({})", state(other))]),
        };
    }
    format!("{}: {}\n\n", spec.name, spec.description) + &text(&rows) + &tally(plan, decisions)
}

/// Why each task would run, or that it would not.
pub fn why<'a>(tasks: impl Iterator<Item = (&'a Task, &'a Decision)>) -> String {
    let mut out = String::new();
    for (t, decision) in tasks {
        match decision {
            Decision::Cached(m) => out += &format!("{}: up to date, made {}\n", task(t), m.created),
            Decision::Refuse(e) => out += &format!("{}: {e}\n", task(t)),
            Decision::Run(DirtyReason::Changed { nearest, changes }) => {
                out +=
                    &format!("{}: runs, because it differs from the nearest artifact {}\n", task(t), nearest.short());
                for change in changes {
                    out += &format!("    {change}\n");
                }
            }
            Decision::Run(reason) => out += &format!("{}: runs, because it {reason}\n", task(t)),
        }
    }
    out
}

/// The same as JSON, an object a task.
pub fn why_json<'a>(tasks: impl Iterator<Item = (&'a Task, &'a Decision)>) -> Result<String> {
    let mut out = String::new();
    for (t, decision) in tasks {
        let detail = match decision {
            Decision::Cached(_) => Value::Null,
            Decision::Run(reason) => serde_json::to_value(reason)?,
            Decision::Refuse(e) => Value::String(e.to_string()),
        };
        let seed = t.identity.seed;
        let line =
            serde_json::json!({ "node": t.node, "key": t.key, "seed": seed, "state": state(decision), "why": detail });
        out += &format!("{line}\n");
    }
    Ok(out)
}

/// A summary on one line.
pub fn facts(summary: &Value) -> String {
    let Value::Object(facts) = summary else { return String::new() };
    let fact = |(k, v): (&String, &Value)| match v.as_f64() {
        Some(x) if x.fract() != 0.0 => format!("{k} {x:.4}"),
        _ => format!("{k} {}", value(v)),
    };
    facts.iter().filter(|(_, v)| !v.is_null()).map(fact).collect::<Vec<_>>().join(", ")
}

/// How an extractor was made, from the stages' parameters: `simclr`, or `import (supervised)`. Imported features are named after
/// their file.
fn extractor(params: &BTreeMap<&'static str, Value>) -> String {
    let field = |node, name| params.get(node)?.get(name)?.as_str();
    if let Some(path) = field("features", "path") {
        return Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    }
    let field = |name| field("pretrain", name);
    let trained = field("trained").map(|trained| format!(" ({trained})"));
    field("method").unwrap_or_default().to_owned() + &trained.unwrap_or_default()
}

/// The attacker's extractor, and the one that is deployed where that is another.
fn extractors(params: &BTreeMap<&'static str, Value>) -> String {
    match params.get("deployed.pretrain").and_then(|deployed| deployed.get("method")) {
        Some(deployed) => format!("{}, deployed: {}", extractor(params), value(deployed)),
        None => extractor(params),
    }
}

/// The result table: means over seeds.
pub fn results(groups: &[Group]) -> String {
    let mut telling = telling(groups.iter().flat_map(|g| &g.params).map(|(node, params)| (*node, params)));
    // These have columns: attack and extractor are named after their tags.
    let columns = [
        ("poison-features", "attack"),
        ("poison-features", "labels"),
        ("poison-features", "eps_d"),
        ("invert", "method"),
        ("poison-images", "attack"),
        ("poison-images", "labels"),
        ("poison-images", "eps_d"),
        ("unlearnable", "noise"),
        ("unlearnable", "eps_d"),
        ("features", "method"),
        ("features", "path"),
        ("pretrain", "method"),
        ("pretrain", "trained"),
        ("victim", "kind"),
    ];
    telling.retain(|column| !columns.contains(column));
    // A branch makes poisons in features or in pixels, and what both have is one column.
    let twins = telling.clone();
    let twin = |field: &str| ["invert", "poison-features"].into_iter().find(|node| twins.contains(&(*node, field)));
    telling.retain(|(node, field)| *node != "poison-images" || twin(field).is_none());
    let names: Vec<String> = telling.iter().map(|(_, field)| field.replace('_', " ")).collect();
    let mut header = vec!["attack", "extractor", "victim"];
    header.extend(names.iter().map(String::as_str));
    header.extend(["labels", "eps_d", "seeds", "objective", "clean", "target", "features", "images"]);
    header.extend(["random", "aligned", "duplicates", "removed"]);
    header.extend(["kept", "PSNR", "SSIM", "Linf", "off", "odd", "out", "seconds"]);
    let fixed = 3 + telling.len();
    let mut rows = table(&header);
    for g in groups {
        let a = &g.accuracy;
        let percent = |c: Cell| match g.seeds {
            1 => format!("{:.2}", 100.0 * c.mean),
            _ => format!("{:.2} ± {:.2}", 100.0 * c.mean, 100.0 * c.std),
        };
        let mut row = vec![g.attack.clone(), extractors(&g.params), g.victim.clone()];
        row.extend(telling.iter().map(|(node, field)| {
            let params =
                g.params.get(node).or_else(|| g.params.get("poison-images").filter(|_| twin(field) == Some(*node)));
            params.and_then(|p| p.get(*field)).map_or_else(|| "-".to_owned(), value)
        }));
        let chosen = ["poison-features", "poison-images"].iter().find_map(|node| g.params.get(node)?.get("labels"));
        let labels = if g.clean_label { "clean".to_owned() } else { chosen.map_or_else(|| "free".to_owned(), value) };
        row.extend([labels, g.eps_d.to_string(), g.seeds.to_string(), format!("{:.3}", g.objective.mean)]);
        let measured = [Some(a.clean), a.target, a.features, a.images];
        let controls = [a.random_flips, a.aligned_flips, a.duplicates, a.removed];
        row.extend(measured.into_iter().chain(controls).map(|c| c.map_or_else(|| "-".to_owned(), percent)));
        let drop = |poisoned: Cell| a.clean.mean - poisoned.mean;
        // Of a drop of less than a point nothing can be said.
        let asked = a.features.map(drop).filter(|drop| *drop >= 0.01);
        let kept = a.images.zip(asked).map(|(images, asked)| drop(images) / asked);
        row.push(kept.map_or_else(|| "-".to_owned(), |kept| format!("{:.0}", 100.0 * kept)));
        row.extend(g.visibility.map_or_else(
            || ["-"; 6].map(str::to_owned),
            |v| {
                let (ssim, linf) = (format!("{:.2}", v.ssim.mean), format!("{:.3}", v.linf.mean));
                let share = |c: Cell| format!("{:.0}", 100.0 * c.mean);
                let off = format!("{:.2}", v.relative_distance.mean);
                [format!("{:.1}", v.psnr.mean), ssim, linf, off, share(v.outliers), share(v.outside)]
            },
        ));
        row.push(g.seconds.map_or_else(|| "?".to_owned(), |seconds| format!("{:.1}", seconds.mean)));
        rows.add_row(row.into_iter().enumerate().map(|(i, cell)| {
            TableCell::new(cell).set_alignment(if i < fixed { CellAlignment::Left } else { CellAlignment::Right })
        }));
    }
    let mut out = text(&rows);
    out += "Accuracy in % of the test split: the clean head; the attacker's target; heads retrained on clean data with poisoned\n";
    out += "features, with their 8-bit images, and with as many controls (random label flips, label flips chosen by influence,\n";
    out += "duplicates; removed: what is left without the images that poisons replace). Mean ± standard deviation over seeds.\n";
    out += "kept: % of the features' drop that the images keep. PSNR in dB, SSIM and Linf against the base images. off: median\n";
    out += "distance of the images' features to the poisoned ones (of attacks on pixels to those before rounding), in distances\n";
    out += "of clean nearest neighbours. odd: % of the images with outlying features. out: % of them outside of the attack's\n";
    out += "constraint, by a hundredth. Seconds: target-params to images or noise. Labels: of the samples that poisons are made\n";
    out += "of (clean), or not: random, or aligned by the attacker.\n";
    let shown = ATTACKS.iter().map(|attack| (attack.name(), attack.shown()));
    for (name, shown) in shown.chain([(hemlock_unlearnable::NAME, hemlock_unlearnable::SHOWN)]) {
        if groups.iter().any(|g| g.attack.split(' ').next() == Some(name)) {
            out += &format!("Objective of {name}: {shown}.\n");
        }
    }
    if let Some(worst) = groups.iter().filter_map(|g| g.unconverged).max_by(f64::total_cmp) {
        out += &format!(
            "NOT CONVERGED: a head's training stopped at a gradient norm of {worst:.1e}, above its tolerance.\n"
        );
    }
    let collapsed: BTreeSet<String> =
        groups.iter().filter(|g| g.collapsed == Some(true)).map(|g| extractors(&g.params)).collect();
    if !collapsed.is_empty() {
        let names = Vec::from_iter(collapsed).join(", ");
        out += &format!("COLLAPSED: the embeddings of an extractor ({names}) all point nearly the same way.\n");
    }
    out
}

/// Two artifact roots, stage by stage.
pub fn diff(differences: &[StageDifference], alone: usize) -> String {
    let mut rows = table(&["stage", "key", "devices", "seconds", "difference"]);
    for d in differences {
        let largest = match (d.identical, d.tensors.first()) {
            (true, _) => "identical".to_owned(),
            (false, Some(t)) => match t.largest {
                Some(l) => format!("{}: {l:.3e} of {:.3e}", t.name, t.scale),
                None => format!("{}: shapes differ", t.name),
            },
            (false, None) => "no tensors differ".to_owned(),
        };
        let seconds = format!("{:.1} / {:.1}", d.seconds[0], d.seconds[1]);
        rows.add_row([d.stage.clone(), d.key.short(), d.devices.join(" / "), seconds, largest]);
        for (head, [a, b]) in &d.accuracy {
            let detail = format!("accuracy {head}: {:.2} / {:.2}", 100.0 * a, 100.0 * b);
            rows.add_row([String::new(), String::new(), String::new(), String::new(), detail]);
        }
    }
    let mut by_stage = table(&["stage", "artifacts", "same", "seconds", "ratio", "difference", "accuracy"]);
    for StageTotal { stage, artifacts, identical, seconds: [a, b], relative, apart } in totals(differences) {
        by_stage.add_row([
            stage,
            artifacts.to_string(),
            identical.to_string(),
            format!("{a:.1} / {b:.1}"),
            format!("{:.2}", b / a.max(f64::MIN_POSITIVE)),
            format!("{relative:.1e}"),
            apart.map_or_else(String::new, |apart| format!("{:.2} points", 100.0 * apart)),
        ]);
    }
    format!(
        "{}\n{}{} artifacts in both roots, {alone} in one alone. Difference: the largest of a tensor's values, as a share of the largest value;\n\
         of what was trained or made from what differs, differences grow from stage to stage. Ratio: seconds of the second root to the first's.\n",
        text(&rows),
        text(&by_stage),
        differences.len()
    )
}

/// Two settings of a pipeline: what they differ in, then their results side by side.
pub fn comparison(comparison: &Comparison) -> String {
    let or_none = |v: &Option<Value>| v.as_ref().map_or_else(|| "-".to_owned(), value);
    let mut differ = table(&["parameter", "A", "B"]);
    for (field, [a, b]) in &comparison.differs {
        differ.add_row([field.clone(), or_none(a), or_none(b)]);
    }
    let beyond = |differs: &BTreeMap<String, Both<Option<Value>>>| {
        let fields = differs.iter().map(|(field, [a, b])| format!("{field}={}|{}", or_none(a), or_none(b)));
        fields.collect::<Vec<_>>()
    };
    let mut rows = table(&["of", "seeds", "", "A", "B", "B - A"]);
    for group in &comparison.compared {
        let told = group.told.iter().map(|(field, v)| format!("{field}={}", value(v)));
        let of = told.chain(beyond(&group.differs)).collect::<Vec<_>>();
        for (i, (name, cells)) in group.quantities.iter().enumerate() {
            let (scale, digits) = if *name == "seconds" { (1.0, 1) } else { (100.0, 2) };
            let shown = |cell: &Cell| match group.seeds {
                1 => format!("{:.digits$}", scale * cell.mean),
                _ => format!("{:.digits$} ± {:.digits$}", scale * cell.mean, scale * cell.std),
            };
            // The parameters of a group stand one below the other, beside its quantities.
            let own = of.get(i).cloned().unwrap_or_default();
            let seeds = if i == 0 { group.seeds.to_string() } else { String::new() };
            let cells = [own, seeds, (*name).to_owned()].into_iter().chain(cells.iter().map(shown));
            rows.add_row(cells.enumerate().map(|(i, cell)| {
                TableCell::new(cell).set_alignment(if i < 3 { CellAlignment::Left } else { CellAlignment::Right })
            }));
        }
        for own in of.iter().skip(group.quantities.len()) {
            rows.add_row([own]);
        }
    }
    format!(
        "{}\n{}Accuracy in % of the test split; drop: of the clean accuracy, by poisoned images or features, in points. Mean ± standard\n\
         deviation over seeds. a|b: what A and B differ in beyond the parameters above.\n",
        text(&differ),
        text(&rows)
    )
}

/// Bytes for people.
pub fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}
