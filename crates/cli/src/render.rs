//! Output for people: tables of tasks, reasons and results.

use anyhow::Result;
use comfy_table::{Cell as TableCell, CellAlignment, Table, presets};
use hemlock_data::KnownDataset;
use hemlock_pipeline::{
    Asked, Both, Cause, Comparison, Decision, DirtyReason, Graph, MeanStd, Plan, Spec, StageDifference, StageTotal,
    Task, labels, totals, value_text,
};
use hemlock_report::words::count;
use hemlock_self_test::{Found, REFERENCE};
use hemlock_stage::short;
use hemlock_store::{Change, Store};
use serde_json::Value;
use std::collections::BTreeMap;

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

/// The text of a table, without the padding around it.
pub fn text(table: &Table) -> String {
    table.lines().map(|l| l.strip_prefix(' ').unwrap_or(&l).trim_end().to_owned() + "\n").collect()
}

/// The published datasets that are known by name, with the source that reads each.
pub fn datasets() -> String {
    let mut table = table(&["name", "images (training + validation + test)", "source = …"]);
    table.add_row(["cifar10", "50,000 + 10,000, 32 px, 10 classes", "\"cifar10\""]);
    table.add_row(["cifar100", "50,000 + 10,000, 32 px, 100 classes", "\"cifar100\""]);
    for known in KnownDataset::all() {
        table.add_row([known.name, known.about, known.source]);
    }
    text(&table)
}

/// A short description of every task of a plan: its node, what distinguishes it, and the start of its key.
pub fn tasks(plan: &Plan) -> Vec<String> {
    let name = |(task, label): (&Task, String)| match label.as_str() {
        "" => format!("{} {}", task.node, task.key.short()),
        label => format!("{} {label} {}", task.node, task.key.short()),
    };
    plan.tasks.iter().zip(labels(plan)).map(name).collect()
}

/// Most characters of an old or new value in a description of a change. `MOST` is the largest number of changes in one.
const LONGEST: usize = 60;
const MOST: usize = 4;

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Describes the cause of a difference in the words of the spec. `at_home`: the cause is at the task's own node.
fn cause(cause: &Cause, at_home: bool) -> String {
    let Cause { node, change } = cause;
    let side = |v: &Option<Value>| v.as_ref().map_or_else(|| "none".to_owned(), |v| cut(&value_text(v)));
    let arrow = |what: &str, old: &Option<Value>, new: &Option<Value>| match at_home {
        true => format!("{what}: {} -> {}", side(old), side(new)),
        false => format!("{node}.{what}: {} -> {}", side(old), side(new)),
    };
    match change {
        Change::Param { path, old, new } if path.is_empty() => arrow("parameters", old, new),
        Change::Param { path, old, new } => arrow(path, old, new),
        Change::Input { role, old: None, .. } => format!("[{node}] reads {role} now"),
        Change::Input { role, new: None, .. } => format!("[{node}] reads no {role} any more"),
        Change::Input { role, .. } => format!("[{node}] reads another {role}, whose origin is gone"),
        Change::Seed { old: Some(old), new: Some(new) } => format!("seed: {old} -> {new}"),
        other => format!("[{node}] {other}"),
    }
}

/// A short description of the causes of differences, for a task at `node`.
fn causes(causes: &[Cause], node: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in causes.iter().map(|c| cause(c, c.node == node)) {
        // Several stages use the same seed, so that the same words may come again.
        if !words.contains(&word) {
            words.push(word);
        }
    }
    let more = words.len().saturating_sub(MOST);
    words.truncate(MOST);
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words.join("; ")
}

/// A short description of a reason, for a task at `node`.
pub fn brief(reason: &DirtyReason, node: &str) -> String {
    match reason {
        DirtyReason::Changed { changes, .. } => {
            let follows = changes.iter().all(|c| c.node != node);
            format!("{}{}", if follows { "because of " } else { "" }, causes(changes, node))
        }
        other => other.to_string(),
    }
}

/// A decision about a task, in one word.
pub fn state(decision: &Decision) -> &'static str {
    match decision {
        Decision::Cached(_) => "cached",
        Decision::Run(_) => "run",
        Decision::Unusable(_) => "damaged",
    }
}

fn tally(plan: &Plan, decisions: &[Decision]) -> String {
    let cached = decisions.iter().filter(|d| matches!(d, Decision::Cached(_))).count();
    let (tasks, branches) = (count(plan.tasks.len(), "task"), count(plan.branches.len(), "branch"));
    format!("{tasks} in {branches}: {cached} cached, {} to run\n", plan.tasks.len() - cached)
}

/// A table of a plan's tasks: the decision about each, and the parameters that distinguish it.
pub fn plan(plan: &Plan, decisions: &[Decision]) -> String {
    let mut rows = table(&["", "task", "reason"]);
    for ((label, task), decision) in tasks(plan).into_iter().zip(&plan.tasks).zip(decisions) {
        let reason = match decision {
            Decision::Cached(_) => String::new(),
            Decision::Run(reason) => brief(reason, task.node),
            Decision::Unusable(e) => e.to_string(),
        };
        rows.add_row([state(decision).to_owned(), label, reason]);
    }
    text(&rows) + &tally(plan, decisions)
}

/// A table of those artifacts of a plan that exist, with a summary of their content.
pub fn status(spec: &Spec, plan: &Plan, decisions: &[Decision]) -> String {
    let mut rows = table(&["task", "made", "on", "seconds", "size", "content"]);
    for (label, decision) in tasks(plan).into_iter().zip(decisions) {
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

/// Describes why tasks would run: the differences, root causes first, the tasks at which they arise, and the number of
/// tasks that follow from these.
pub fn why(plan: &Plan, decisions: &[Decision], stage: Option<&str>) -> String {
    let names = tasks(plan);
    let asked = || (0..plan.tasks.len()).filter(|i| stage.is_none_or(|stage| stage == plan.tasks[*i].stage));
    // Tasks by the causes that make them run.
    let mut groups: Vec<(&[Cause], Vec<usize>)> = Vec::new();
    let (mut others, mut cached) = (Vec::new(), Vec::new());
    for i in asked() {
        match &decisions[i] {
            Decision::Run(DirtyReason::Changed { changes, .. }) => {
                match groups.iter_mut().find(|(causes, _)| *causes == changes.as_slice()) {
                    Some((_, tasks)) => tasks.push(i),
                    None => groups.push((changes, vec![i])),
                }
            }
            Decision::Run(reason) => others.push(format!("{}: runs, because it {reason}\n", names[i])),
            Decision::Unusable(e) => others.push(format!("{}: {e}\n", names[i])),
            Decision::Cached(_) => cached.push(i),
        }
    }
    let mut out = String::new();
    for (causes, tasks) in groups {
        let mut lines: Vec<String> = causes.iter().map(|c| cause(c, false) + "\n").collect();
        lines.dedup();
        out += &lines.concat();
        // The tasks at which the causes arise or, if none of those was asked for, all tasks.
        let is_root = |i: &&usize| causes.iter().any(|c| c.node == plan.tasks[**i].node);
        let roots: Vec<usize> = tasks.iter().filter(is_root).copied().collect();
        let listed = if roots.is_empty() { &tasks } else { &roots };
        for i in listed {
            let Decision::Run(DirtyReason::Changed { nearest, pipeline, .. }) = &decisions[*i] else { continue };
            let of = pipeline.as_ref().map(|pipeline| format!(" of {pipeline}")).unwrap_or_default();
            out += &format!("    {} runs; the nearest artifact is {}{of}\n", names[*i], nearest.short());
        }
        if listed.len() < tasks.len() {
            let mut nodes: Vec<(&str, usize)> = Vec::new();
            for i in tasks.iter().filter(|i| !listed.contains(i)) {
                match nodes.iter_mut().find(|(node, _)| *node == plan.tasks[*i].node) {
                    Some((_, n)) => *n += 1,
                    None => nodes.push((plan.tasks[*i].node, 1)),
                }
            }
            let nodes: Vec<String> = nodes.into_iter().map(|(node, n)| format!("{n} of {node}")).collect();
            out += &format!("    and what follows: {}\n", nodes.join(", "));
        }
    }
    out += &others.concat();
    match cached.as_slice() {
        [] => {}
        [one] => out += &format!("{}: up to date\n", names[*one]),
        all => out += &format!("{} tasks are up to date\n", all.len()),
    }
    out
}

/// The reasons why tasks would run as JSON, with an object per task.
pub fn why_json<'a>(tasks: impl Iterator<Item = (&'a Task, &'a Decision)>) -> Result<String> {
    let mut out = String::new();
    for (t, decision) in tasks {
        let detail = match decision {
            Decision::Cached(_) => Value::Null,
            Decision::Run(reason) => serde_json::to_value(reason)?,
            Decision::Unusable(e) => Value::String(e.to_string()),
        };
        let seed = t.identity.seed;
        let line =
            serde_json::json!({ "node": t.node, "key": t.key, "seed": seed, "state": state(decision), "why": detail });
        out += &format!("{line}\n");
    }
    Ok(out)
}

/// Writes a summary on one line. Nested facts are in brackets. A number that JSON cannot represent (it has no infinity)
/// is a dash.
pub fn facts(summary: &Value) -> String {
    let Value::Object(facts) = summary else { return String::new() };
    let number = |v: &Value| match v.as_f64() {
        Some(x) if x != 0.0 && x.abs() < 1e-3 => format!("{x:.1e}"),
        Some(x) if x.fract() != 0.0 => format!("{x:.4}"),
        None if v.is_null() => "-".to_owned(),
        _ => value_text(v),
    };
    let fact = |(k, v): (&String, &Value)| {
        let name = if k == "poison_fraction" { k.clone() } else { k.replace('_', " ") };
        match v {
            _ if k == "verified" => if *v == true { "verified import" } else { "unverified import" }.to_owned(),
            Value::Object(inner) => {
                let inner: Vec<String> = inner.iter().map(|(k, v)| format!("{k} {}", number(v))).collect();
                format!("{name} ({})", inner.join(", "))
            }
            _ => format!("{name} {}", number(v)),
        }
    };
    facts.iter().filter(|(_, v)| !v.is_null()).map(fact).collect::<Vec<_>>().join(", ")
}

/// Quotes an argument for a shell, if that is necessary.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

/// Writes overrides as options of a command line, cut to at most `most` characters.
pub fn options(overrides: &[String], most: usize) -> String {
    let all: Vec<String> = overrides.iter().map(|o| format!("--set {}", quoted(o))).collect();
    let all = all.join(" ");
    match all.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &all[..end]),
        None => all,
    }
}

/// A table of the runs of a pipeline, with the number of results that each has.
pub fn history(asked: &[Asked], graph: &Graph, store: &Store) -> String {
    let mut rows = table(&["run", "results", "name", "overrides"]);
    for a in asked {
        let (there, all) = a.results(graph, store);
        let label = a.label.clone().unwrap_or_else(|| "-".to_owned());
        let overrides = match a.overrides.is_empty() {
            true => "(the spec as it stands)".to_owned(),
            false => options(&a.overrides, 300),
        };
        rows.add_row([a.time.clone(), format!("{there} of {all}"), label, overrides]);
    }
    text(&rows)
}

/// A table of the differences between two artifact roots, by stage.
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
        "{}\n{}{} in both roots, {alone} in one alone. Difference: the largest of a tensor's values, as a share of the largest value;\n\
         of what was trained or made from what differs, differences grow from stage to stage. Ratio: seconds of the second root to the first's.\n",
        text(&rows),
        text(&by_stage),
        count(differences.len(), "artifact")
    )
}

/// A table of what the checks of a device found.
pub fn self_test(found: &[Found]) -> String {
    let device = found.first().map_or("device", |found| found.device.as_str());
    let seconds = [REFERENCE, device].map(|device| format!("{device}, s"));
    let mut rows = table(&["check", "difference", "at most", &seconds[0], &seconds[1], ""]);
    for f in found {
        let difference = match (&f.failure, f.difference) {
            (Some(failure), _) => short(failure, 60).into_owned(),
            (None, Some(difference)) => format!("{difference:.1e}"),
            (None, None) => "no numbers".to_owned(),
        };
        let [reference, took] = f.seconds.map(|seconds| format!("{seconds:.2}"));
        let verdict = if f.passed() { "passed" } else { "FAILED" };
        rows.add_row([
            f.check.clone(),
            difference,
            format!("{:.0e}", f.tolerance),
            reference,
            took,
            verdict.to_owned(),
        ]);
    }
    format!(
        "{}\nDifference: the length of the difference of two arrays, as a share of the length of the processor's ({REFERENCE}).\n\
         Seconds contain the compilation of the device's kernels.",
        text(&rows)
    )
}

/// A comparison of two settings: their differences, and then their results side by side.
pub fn comparison(comparison: &Comparison) -> String {
    let or_none = |v: &Option<Value>| v.as_ref().map_or_else(|| "-".to_owned(), value_text);
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
        let told = group.told.iter().map(|(field, v)| format!("{field}={}", value_text(v)));
        let of = told.chain(beyond(&group.differs)).collect::<Vec<_>>();
        for (i, (name, means)) in group.quantities.iter().enumerate() {
            let (scale, digits) = if *name == "seconds" { (1.0, 1) } else { (100.0, 2) };
            let shown = |value: &MeanStd| match group.seeds {
                1 => format!("{:.digits$}", scale * value.mean),
                _ => format!("{:.digits$} ± {:.digits$}", scale * value.mean, scale * value.std),
            };
            // The parameters of a group are written in consecutive rows, to the left of its quantities.
            let own = of.get(i).cloned().unwrap_or_default();
            let seeds = if i == 0 { group.seeds.to_string() } else { String::new() };
            let cells = [own, seeds, (*name).to_owned()].into_iter().chain(means.iter().map(shown));
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

/// A number of bytes with a unit.
pub fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}
