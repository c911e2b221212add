//! Defences, and what they do to poisons.

use crate::project::{Project, TINY};
use serde_json::Value;
use std::fs;

fn results(project: &Project, name: &str) -> Vec<Value> {
    let results = project.ok(&format!("results {name} --json")).out;
    results.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The tiny pipeline with defences.
fn with(tables: &str) -> String {
    TINY.replace("[evaluate]", &format!("{tables}\n[evaluate]"))
}

#[test]
fn a_defence_stands_beside_none_and_its_clean_victim_is_trained_once() {
    let project = Project::new();
    let spec = with("[[defence]]\nkind = [\"sphere\", \"loss\"]\nremove = 0.1\n");
    project.spec("defended", &spec.replace("poison_fraction = 0.05", "poison_fraction = [0.05, 0.5]"));
    let ran = Project::stages_that_ran(&project.ok("run defended"));
    assert_eq!(ran.iter().filter(|stage| *stage == "defence").count(), 2, "{ran:?}");
    let rows = results(&project, "defended");
    assert_eq!(rows.len(), 4);
    project.ok("run tiny");
    let undefended = results(&project, "tiny");
    for row in &rows {
        let (accuracy, detection) = (&row["accuracy"], &row["detection"]);
        let share = |field: &str| detection[field].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share("recall")) && (0.0..=1.0).contains(&share("auroc")), "{row}");
        assert!((share("removed") - 0.1).abs() < 0.02 && share("false_positives") <= 0.15, "{row}");
        // Controls stand beside the same attack without a defence.
        assert!(accuracy["random_flips"].is_null() && row["loss_bound"].is_null(), "{row}");
        assert_eq!(accuracy["undefended_clean"], undefended[0]["accuracy"]["clean"]);
    }
    assert_eq!(rows[0]["accuracy"]["undefended"], undefended[0]["accuracy"]["images"]);
    let table = project.ok("results defended").out;
    assert!(["sphere", "loss", "undefended"].iter().all(|word| table.contains(word)), "{table}");
    let wide = project.ok("results defended --wide").out;
    assert!(wide.contains("recall,") && wide.contains("AUROC,"), "{wide}");
    project.ok("report defended");
    // Another default that has no effect is the same defence.
    let plan = project.ok("plan defended --set defence.expected=0.2 --set defence.neighbors=7").out;
    assert!(plan.lines().all(|line| !line.starts_with("run")), "{plan}");
}

/// An adaptive attack is made for each filter, and meets that filter alone. It passes the filter that removed most of
/// the other poisons.
#[test]
fn an_adaptive_attack_passes_the_filter_that_it_knows() {
    let project = Project::new();
    let spec = with("[[defence]]\nkind = [\"sphere\", \"svd\"]\nremove = 0.1\n");
    let adaptive = |on: &str| spec.replace("[poison-features]", &format!("[poison-features]\nadaptive = {on}"));
    project.spec("adaptive", &adaptive("[false, true]"));
    let plan = project.ok("plan adaptive").out;
    assert!(plan.contains("adaptive=sphere(expected=0.05, remove=0.1)"), "{plan}");
    project.ok("run adaptive");
    let rows = results(&project, "adaptive");
    assert_eq!(rows.len(), 4);
    for kind in ["sphere", "svd"] {
        let row = |adapts: bool| {
            let own = |row: &&Value| row["params"]["defence"]["kind"] == kind;
            let of = |row: &&Value| row["params"]["poison-features"]["adaptive"] == true;
            rows.iter().filter(own).find(|row| of(row) == adapts).unwrap()
        };
        let recall = |adapts: bool| row(adapts)["detection"]["recall"].as_f64().unwrap();
        assert!(recall(true) <= recall(false), "{kind}: {} and {}", recall(true), recall(false));
    }
    // Images adapt, too, within their limits.
    let pixels = "poison-features = []\ninvert = []\ndecoder = []\n[poison-images]\nattack = 'bilevel'\n\
                  poison_fraction = 0.05\nlinf = '8/255'\nsteps = 8\nadaptive = [false, true]";
    project.spec("images", &format!("extends = 'adaptive.toml'\n{pixels}\n"));
    project.ok("run images");
    let rows = results(&project, "images");
    assert_eq!(rows.len(), 4);
    for row in &rows {
        assert!(
            row["objective"].is_number() && row["visibility"]["linf"].as_f64().unwrap() <= 8.0 / 255.0 + 1e-6,
            "{row}"
        );
    }
    project.spec("table", &adaptive("{ kind = 'sphere' }"));
    project.fails("plan table", 2, &["`adaptive` is", "expected true or false"]);
    project.spec("alone", &TINY.replace("[poison-features]", "[poison-features]\nadaptive = true"));
    project.fails("plan alone", 2, &["alone.toml", "`adaptive` is true", "[defence]"]);
    project.spec("word", &adaptive("'sphere'"));
    project.fails("plan word", 2, &["adaptive", "true or false"]);
}

#[test]
fn what_a_filter_cannot_do_is_refused() {
    let project = Project::new();
    let refused = |table: &str, code: i32, parts: &[&str]| {
        project.spec("refused", &with(&format!("[defence]\n{table}\n")));
        project.fails("run refused", code, parts);
    };
    refused("kind = 'spheres'", 2, &["unknown variant `spheres`", "`sphere`"]);
    refused("kind = 'sphere'\nremove = 1.0", 2, &["remove", "below 1"]);
    refused("kind = 'sphere'\nremove = 0.999", 2, &["all", "class", "remove less"]);
    // What the sizes of the data rule out is refused before anything runs.
    let planned = |train: &str, tables: &str, part: &str| {
        project.spec("planned", &with(tables).replacen("train = 96", train, 1));
        project.fails("plan planned", 2, &[part, "[dataset.downstream] has"]);
    };
    let all = "train = 96";
    planned(all, "[victim]\nkind = 'voting'\nheads = 97", "`heads`: is 97, which takes at least 97 training samples");
    planned(all, "[victim]\nkind = 'median-of-means'\nparts = 97", "`parts`");
    let folds = "[victim]\nkind = 'linear'\nweight_decay = { by = 'cross-validation', folds = 97 }";
    planned(all, folds, "`weight_decay.folds`");
    planned(all, "[defence]\nkind = 'knn-label'\nneighbors = 96", "`neighbors`");
    let each = "per_class = 20";
    planned(each, "[victim]\nkind = 'prototypes'\ntrim = 10", "`trim`");
    planned(each, "[defence]\nkind = 'knn-distance'\nneighbors = 20", "`neighbors`");
    let network = "[victim]\nkind = 'fine-tune'\nepochs = 2\nwarmup_epochs = 1\n[defence]\nkind = 'sphere'";
    project.spec("network", &with(network));
    project.fails("plan network", 2, &["`sphere` filters features", "`fine-tune` trains on images"]);
}

/// Images are transformed before the extractor sees them, for training and for testing alike.
#[test]
fn a_transformation_of_images_stands_beside_none() {
    let project = Project::new();
    let kinds = "[[defence]]\nkind = [\"jpeg\", \"grey\", \"blur\", \"bit-depth\", \"resize\", \"noise\"]\n\
                 [[defence]]\nkind = \"bit-depth\"\nbits = 8\n";
    project.spec("images", &with(kinds));
    project.ok("run images");
    project.ok("run tiny");
    let (rows, tiny) = (results(&project, "images"), &results(&project, "tiny")[0]);
    assert_eq!(rows.len(), 7);
    for row in &rows {
        let accuracy = &row["accuracy"];
        assert_eq!(accuracy["undefended_clean"], tiny["accuracy"]["clean"]);
        assert_eq!(accuracy["undefended"], tiny["accuracy"]["images"]);
        assert!(accuracy["clean"].is_number() && accuracy["images"].is_number(), "{row}");
        assert!(accuracy["features"].is_null() && accuracy["target"].is_null(), "features are no images: {row}");
        assert!(row["detection"].is_null() && row["loss_bound"].is_null(), "nothing is removed: {row}");
    }
    let of = |set: &str| rows.iter().map(|row| row["per_class"][set].to_string()).collect::<Vec<_>>();
    let (clean, images) = (of("clean"), of("images"));
    // With all bits, nothing changes.
    assert_eq!((&clean[6], &images[6]), (&of("undefended_clean")[6], &of("undefended")[6]));
    assert!(clean[..6].iter().any(|other| *other != clean[6]), "{clean:?}");
    let table = project.ok("results images").out;
    assert!(["jpeg", "bit-depth", "undefended"].iter().all(|word| table.contains(word)), "{table}");
    project.ok("report images");
    // One thread gives the same bytes, and a default that is written out is the same defence.
    let one = project.command("run images --root other").env("RAYON_NUM_THREADS", "1").output().unwrap();
    assert!(one.status.success());
    let differences = project.ok("diff artifacts other").out;
    let of_defences = |line: &&str| line.trim_start().starts_with("defence ") && line.contains(" flex ");
    let defences: Vec<&str> = differences.lines().filter(of_defences).collect();
    assert!(defences.len() == 7 && defences.iter().all(|line| line.ends_with("identical")), "{differences}");
    let written = "[[defence]]\nkind = \"jpeg\"\nquality = 10\nsigma = 2.0\nremove = 0.5\n";
    project.spec("written", &with(written));
    let plan = project.ok("plan written").out;
    assert!(plan.lines().all(|line| !line.starts_with("run")), "{plan}");
}

/// Victims that train networks read transformed images, too.
#[test]
fn a_network_trains_behind_a_transformation_on_noise() {
    let project = Project::new();
    let (before, _) = TINY.split_once("[poison-features]").unwrap();
    let noise = "[unlearnable]\npoison_fraction = 1.0\nrounds = 2\nsteps = 2\n";
    let victims =
        "[[victim]]\nkind = \"fine-tune\"\nepochs = 2\nwarmup_epochs = 1\nbatch = 32\n[[victim]]\nkind = \"linear\"\n";
    let defences = "[[defence]]\nkind = \"grey\"\n[[defence]]\nkind = \"bit-depth\"\nbits = 8\n";
    project.spec("noise", &format!("{before}{noise}{victims}{defences}[evaluate]\n"));
    project.ok("run noise");
    let rows = results(&project, "noise");
    assert_eq!(rows.len(), 4);
    let of = |row: &Value, set: &str| row["per_class"][set].to_string();
    for row in &rows {
        let same = row["params"]["defence"]["bits"] == 8;
        let network = row["victim"] == "fine-tune";
        if same {
            assert_eq!(of(row, "clean"), of(row, "undefended_clean"));
            assert_eq!(of(row, "images"), of(row, "undefended"));
        } else if network {
            assert_ne!(of(row, "clean"), of(row, "undefended_clean"), "{row}");
        }
    }
}

#[test]
fn what_a_transformation_cannot_do_is_refused() {
    let project = Project::new();
    let refused = |table: &str, parts: &[&str]| {
        project.spec("refused", &with(&format!("[defence]\n{table}\n")));
        project.fails("plan refused", 2, parts);
    };
    refused("kind = 'jpg'", &["unknown variant `jpg`", "`jpeg`", "`sphere`"]);
    refused("kind = 'jpeg'\nquality = 0", &["[defence] `quality`", "is 0", "1 to 100"]);
    refused("kind = 'jpeg'\nquality = 300", &["[defence] `quality`", "300"]);
    refused("kind = 'bit-depth'\nbits = 9", &["[defence] `bits`", "is 9", "1 to 8"]);
    refused("kind = 'blur'\nsigma = -1.0", &["[defence] `sigma`", "is -1", "above 0"]);
    refused("kind = 'resize'\nfactor = 1.5", &["[defence] `factor`", "is 1.5", "below 1"]);
    refused("kind = 'noise'\nstd = 0", &["[defence] `std`", "is 0", "above 0"]);
    // A filter's cost on clean data needs no poisons.
    let (before, _) = TINY.split_once("[poison-features]").unwrap();
    project.spec("alone", &format!("{before}[defence]\nkind = 'sphere'\n"));
    project.ok("plan alone");
    // Poisoned features have no images.
    let spec = with("[defence]\nkind = 'grey'\n");
    let (before, rest) = spec.split_once("[invert]").unwrap();
    let (_, after) = rest.split_once("[defence]").unwrap();
    project.spec("features", &format!("{before}[defence]{after}"));
    project.fails(
        "plan features",
        2,
        &["[defence] goes with what [invert] makes", "has no [invert]", "[poison-images]", "[unlearnable]"],
    );
    let unclipped =
        "[poison-images]\nattack = \"gradient-canceling\"\npoison_fraction = 0.1\nclip = false\nsteps = 2\n";
    let (before, _) = TINY.split_once("[poison-features]").unwrap();
    project.spec("unclipped", &format!("{before}{unclipped}[defence]\nkind = 'grey'\n[evaluate]\n"));
    let said = project.ok("run unclipped").err;
    assert!(said.contains("this defence transforms images, and unclipped pixels are no images"), "{said}");
    assert!(results(&project, "unclipped")[0]["accuracy"]["images"].is_null());
}

/// A head that chooses its weight decay on trusted data is at least as accurate there as with any of the grid.
#[test]
fn a_victim_chooses_its_weight_decay() {
    let project = Project::new();
    let victim = |decay: &str| format!("[[victim]]\nkind = \"linear\"\nweight_decay = {{ {decay} }}\n");
    let by = ["validation", "trusted", "cross-validation"].map(|by| victim(&format!("by = \"{by}\"")));
    project.spec("chosen", &with(&by.concat()));
    project.ok("run chosen");
    let rows = results(&project, "chosen");
    assert_eq!(rows.len(), 3);
    for row in &rows {
        let chosen = &row["chosen_weight_decay"];
        for set in ["clean", "features", "images"] {
            assert!([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0].map(Value::from).contains(&chosen[set]), "{chosen}");
        }
        assert!(row["loss_bound"].is_null(), "the bound is one for the weight decay of the target");
    }
    // A grid of the target's weight decay alone is the usual victim.
    project.spec("one", &with(&victim("by = \"trusted\", grid = [1e-2]")));
    project.ok("run one");
    project.ok("run tiny");
    let (one, usual) = (&results(&project, "one")[0], &results(&project, "tiny")[0]);
    assert_eq!(one["accuracy"], usual["accuracy"]);
    assert!(usual["chosen_weight_decay"].is_null());
    // What has no effect is not in the key.
    let plan = project.ok("plan one --set victim.weight_decay.folds=7").out;
    assert!(plan.lines().all(|line| !line.starts_with("run")), "{plan}");
    project.spec("one", &with(&victim("by = \"trusted\", grid = []")));
    project.fails("plan one", 2, &["weight_decay.grid", "empty"]);
    project.spec("one", &with(&victim("by = \"luck\"")));
    project.fails("plan one", 2, &["luck", "cross-validation"]);
    project.spec("none", &with(&victim("by = \"trusted\"")).replace("validation = 16", "validation = 0"));
    project.fails("run none", 2, &["trusted", "validation split"]);
}

/// No attack leaves a victim with less accuracy than is certified for as many poisons.
#[test]
fn certified_accuracy_is_a_floor_under_every_attack() {
    let project = Project::new();
    let kinds = "[[victim]]\nkind = \"voting\"\nheads = 12\nelection = [\"plurality\", \"run-off\"]\n\
                 [[victim]]\nkind = \"voting\"\nheads = 12\nspread = 3\n\
                 [[victim]]\nkind = \"prototypes\"\n[[victim]]\nkind = \"ridge\"\n\
                 [[victim]]\nkind = \"certified-linear\"\nweight_decay = 1.0\n";
    let spec = with(kinds).replace("poison_fraction = 0.05", "poison_fraction = [0.02, 0.05, 0.3]");
    project.spec("certified", &spec);
    project.ok("run certified");
    let rows = results(&project, "certified");
    assert_eq!(rows.len(), 18);
    for row in &rows {
        let certified: Vec<f64> = serde_json::from_value(row["certificate"]["accuracy"].clone()).unwrap();
        assert_eq!(Some(certified[0]), row["accuracy"]["clean"].as_f64());
        assert!(certified.windows(2).all(|pair| pair[0] >= pair[1]), "{certified:?}");
        if row["certificate"]["unit"] == "samples added or removed" {
            let floor = certified.get(row["poisons"].as_u64().unwrap() as usize).copied().unwrap_or(0.0);
            for set in ["features", "images", "random_flips", "influence_flips", "duplicates"] {
                let attacked = row["accuracy"][set].as_f64().unwrap();
                assert!(attacked >= floor - 1e-12, "{set}: {attacked}, and {floor} is certified");
            }
        }
    }
    let at_one = |row: &Value| row["certificate"]["accuracy"][1].as_f64().unwrap_or(0.0);
    assert!(rows.iter().any(|row| row["victim"] == "voting" && at_one(row) > 0.1), "something is certified");
    assert!(rows.iter().any(|row| row["victim"] == "ridge" && at_one(row) > 0.1), "something is certified");
    project.ok("report certified");
    let page = fs::read_to_string(project.path().join("reports/certified.html")).unwrap();
    assert!(page.contains("<section id=\"certified\">") && page.contains("Voting, election run-off"), "the figure");
    project.fails("plan certified --set victim.spread=13", 2, &["spread", "at most `heads`"]);
    let unbounded = ["constraint", "bounds poisons", "`ball`"];
    project.fails("plan certified --set victim.constraint=none", 2, &unbounded);
    project.spec("few", &with("[victim]\nkind = \"prototypes\"\ntrim = 20\n"));
    project.fails("run few", 3, &["trimmed prototypes", "at least 41 samples"]);
}

#[test]
fn heads_that_tolerate_poisons_are_victims() {
    let project = Project::new();
    let victims = "[[victim]]\nkind = [\"hinge\", \"truncated-loss\", \"median-of-means\"]\n";
    project.spec("robust", &with(victims));
    project.ok("run robust");
    for row in results(&project, "robust") {
        let accuracy = &row["accuracy"];
        assert!(["clean", "target", "features", "images"].iter().all(|set| accuracy[*set].is_number()), "{row}");
        assert!(accuracy["clean"].as_f64().unwrap() > 0.3 && row["clean_loss"]["clean"].is_number(), "{row}");
    }
}

#[test]
fn a_head_is_repaired_as_far_as_poisons_are_found() {
    let project = Project::new();
    let repair = "[[repair]]\nmethod = [\"refit\", \"newton\", \"gradient-ascent\", \"fine-tune\"]\nfound = [0.0, 0.5, 1.0]\n\
                  [[repair]]\nby = \"loss\"\n";
    let spec = with(repair).replace("poison_fraction = 0.05", "poison_fraction = 0.3");
    project.spec("repaired", &spec);
    project.ok("run repaired");
    let rows = results(&project, "repaired");
    assert_eq!(rows.len(), 13);
    let (clean, images) = (&rows[0]["accuracy"]["clean"], &rows[0]["accuracy"]["images"]);
    for row in &rows {
        let (params, found) = (&row["params"]["repair"], &row["stages"]["repair"]);
        let number = |field: &str| found[field].as_f64().unwrap();
        if params["found"] == 0.0 {
            assert_eq!(&found["exact"], images, "{row}");
        } else if params["by"].is_null() && params["found"] == 1.0 {
            assert_eq!(&found["exact"], clean, "all poisons are gone");
            let most = match params["method"].as_str().unwrap() {
                "refit" => 0.0,
                "newton" => 0.9,
                _ => 1.0,
            };
            assert!(number("distance") <= most, "{params}: {found}");
        }
    }
    // Repairs share the key of their evaluation, and are different results nevertheless, also in a results file.
    project.ok("report repaired -o page.html");
    project.ok("report --from page.tables/results.jsonl.zst -o again.html");
    let [page, again] = ["page", "again"]
        .map(|name| fs::read_to_string(project.path().join(format!("{name}.tables/results.csv"))).unwrap());
    assert_eq!((page.lines().count(), &page), (14, &again));
    project.fails("plan repaired --set repair.found=1.5", 2, &["found", "at most 1"]);
}
