//! Results, and that they can be computed again from exported files.

use crate::project::{Project, TINY};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::{fs, path::Path};

fn numbers(view: &TensorView) -> Vec<f64> {
    let data = view.data();
    match view.dtype() {
        safetensors::Dtype::F32 => {
            data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
        }
        safetensors::Dtype::F64 => data.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        safetensors::Dtype::I64 => data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        other => panic!("{other:?}"),
    }
}

/// Accuracy of an exported head on exported features, by the definition.
fn accuracy(head: &Path, features: &Path) -> f64 {
    let (head, features) = (fs::read(head).unwrap(), fs::read(features).unwrap());
    let (head, features) = (SafeTensors::deserialize(&head).unwrap(), SafeTensors::deserialize(&features).unwrap());
    let (w, b) = (numbers(&head.tensor("weight").unwrap()), numbers(&head.tensor("bias").unwrap()));
    let (z, y) = (numbers(&features.tensor("features").unwrap()), numbers(&features.tensor("labels").unwrap()));
    let d = z.len() / y.len();
    let right = z.chunks(d).zip(&y).filter(|(z, y)| {
        let logit = |k: usize| b[k] + w[k * d..(k + 1) * d].iter().zip(*z).map(|(w, z)| w * z).sum::<f64>();
        let best = (0..b.len()).max_by(|i, j| logit(*i).total_cmp(&logit(*j))).unwrap();
        best as f64 == **y
    });
    right.count() as f64 / y.len() as f64
}

#[test]
fn every_accuracy_can_be_recomputed_from_exported_files() {
    let project = Project::new();
    project.ok("run tiny");
    let results = project.ok("results tiny --json");
    assert_eq!(results.out.lines().count(), 1);
    let row: Value = serde_json::from_str(&results.out).unwrap();
    for field in [
        "pipeline",
        "attack",
        "poison_fraction",
        "seed",
        "device",
        "params",
        "accuracy",
        "visibility",
        "seconds",
        "key",
    ] {
        assert!(!row[field].is_null(), "{field}: {row}");
    }
    project.ok("export tiny evaluate -o heads");
    project.ok("export tiny features -o features");
    for name in ["clean", "target", "features", "images", "random_flips", "influence_flips", "duplicates"] {
        let head = project.path().join(format!("heads/{name}.safetensors"));
        let recomputed = accuracy(&head, &project.path().join("features/test.safetensors"));
        assert_eq!(recomputed, row["accuracy"][name].as_f64().unwrap(), "{name}");
    }
}

#[test]
fn branches_that_differ_in_nothing_count_once() {
    let project = Project::new();
    let set = "--set poison-features.quantile=[0.5,0.9] --set poison-features.constraint=[none,ball]";
    let set = set.replace("[none,ball]", "[\"none\",\"ball\"]");
    project.ok(&format!("run tiny {set}"));
    assert_eq!(project.ok(&format!("results tiny {set} --json")).out.lines().count(), 3);
}

#[test]
fn a_victim_that_did_not_converge_is_marked() {
    let project = Project::new();
    let set = "--set victim.kind=linear --set victim.max_iterations=1";
    project.ok(&format!("run tiny {set}"));
    assert!(project.ok(&format!("results tiny {set}")).out.contains("NOT CONVERGED"));
    project.ok("run tiny");
    assert!(!project.ok("results tiny").out.contains("NOT CONVERGED"));
}

/// The weight decay makes the weights vanish, and the steps do not bring them back.
#[test]
fn a_collapsed_extractor_is_refused_and_where_it_is_allowed_marked() {
    let project = Project::new();
    project.spec("tiny", &TINY.replace("epochs = 1", "epochs = 4\nlearning_rate = 1e-6\nweight_decay = 8.7e5"));
    project.fails("run tiny", 1, &["the network has collapsed", "allow_collapse = true", "WARN"]);
    let set = "--set pretrain.allow_collapse=true";
    project.ok(&format!("run tiny {set}"));
    assert!(
        project.ok(&format!("results tiny {set}")).out.contains("COLLAPSED: the embeddings of an extractor (simclr)")
    );
    assert!(project.ok(&format!("status tiny {set}")).out.contains("collapsed true"));
    // Whoever looks at the results later also sees the mark.
    let row: Value = serde_json::from_str(&project.ok("results tiny --json").out).unwrap();
    assert_eq!(row["collapsed"], true);
}

#[test]
fn both_attacks_stand_side_by_side() {
    let project = Project::new();
    let gradient_canceling = "[poison-features]\nattack = \"gradient-canceling\"\npoison_fraction = 0.05\n";
    assert!(TINY.contains(gradient_canceling));
    let bilevel = "[[poison-features]]\nattack = \"bilevel\"\npoison_fraction = 0.05\nsteps = 10\nlabels = [\"clean\", \"adversarial\"]\n";
    let spec = TINY.replace(gradient_canceling, &format!("[{}{bilevel}", gradient_canceling.replace("]\n", "]]\n")));
    project.spec("both", &spec.replace("[invert]\nmethod = \"feature-matching\"\nsteps = 3\n", ""));
    project.ok("run both");
    assert!(project.ok("export both dataset -o out").out.contains("train-images.safetensors"));
    let rows: Vec<Value> =
        project.ok("results both --json").out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let attacks: Vec<_> = rows.iter().map(|r| r["attack"].as_str().unwrap()).collect();
    assert_eq!(attacks, ["gradient-canceling", "bilevel", "bilevel"]);
    assert!(project.ok("results both").out.contains("adversarial"));
    let without = "both --set dataset.downstream.validation=0";
    project.fails(
        &format!("run {without} --set poison-features.sees=[\"train\",\"validation\"]"),
        2,
        &["`sees` names", "above 0"],
    );
    project.fails(
        &format!("run {without} --set evaluate.sees=[\"train\",\"validation\"]"),
        2,
        &["`sees` names", "above 0"],
    );
    project.fails(
        &format!("plan {without} --set poison-features.sees=[\"test\"]"),
        2,
        &["`sees`", "expected [\"train\"] or"],
    );
    project.ok(&format!("run {without}"));
    // By default, neither attacks nor controls see the validation split.
    let row: Value = serde_json::from_str(
        project.ok("results both --set dataset.downstream.validation=0 --json").out.lines().next().unwrap(),
    )
    .unwrap();
    assert!(row["accuracy"]["influence_flips"].is_number() && row["accuracy"]["random_flips"].is_number());
    assert_eq!((&row["sees"], &row["controls_see"]), (&serde_json::json!(["train"]), &serde_json::json!(["train"])));
    assert!(rows[2]["gap"].is_number() && rows[1]["gap"].is_null());
}

#[test]
fn results_of_other_settings_are_found_again() {
    let project = Project::new();
    project.fails("results tiny", 4, &["no results of 'tiny' yet", "hemlock run tiny"]);
    project.fails("results tiny --list", 4, &["was not run yet"]);
    let first = r#"--set poison-features.poison_fraction=0.1 --set evaluate.controls=["duplicates"]"#;
    project.ok(&format!("run tiny {first}"));
    // After a run with overrides, the message names the command that shows its results.
    let found =
        r#"hemlock results tiny --set poison-features.poison_fraction=0.1 --set 'evaluate.controls=["duplicates"]'`"#;
    project.fails("results tiny", 4, &["as its spec stands", "hemlock run tiny", found]);
    project.fails("report tiny", 4, &[found]);
    project.ok("run tiny --as plain");
    project.ok("run tiny --as try1 --set poison-features.poison_fraction=0.15");
    let list = project.ok("results tiny --list").out;
    let rows: Vec<&str> = list.lines().collect();
    assert_eq!(rows.len(), 4, "{list}");
    assert!(
        rows[1].contains("1 of 1") && rows[1].contains("try1") && rows[1].contains("poison_fraction=0.15"),
        "{list}"
    );
    assert!(rows[2].contains("plain") && rows[2].contains("(the spec as it stands)"), "{list}");
    assert!(rows[3].contains(" -  ") && rows[3].contains("poison_fraction=0.1 "), "{list}");

    // A label works instead of the overrides in all commands that take a pipeline.
    let row: Value = serde_json::from_str(&project.ok("results tiny --as try1 --json").out).unwrap();
    assert_eq!(row["poison_fraction"], 0.15);
    assert!(project.ok("plan tiny --as try1").out.contains("0 to run"));
    assert!(project.ok("status tiny --as try1").out.contains("15 %"));
    project.ok("report tiny --as try1 -o page.html");
    assert!(fs::read_to_string(project.path().join("page.html")).unwrap().contains("hemlock run tiny --as try1"));
    project.ok("export tiny invert --as try1 -o out");
    assert!(project.ok("run tiny --as try1").err.contains("0 tasks ran"));
    project.ok("results tiny --as try1 --set poison-features.poison_fraction=0.15");
    project.fails(
        "results tiny --as try1 --set poison-features.poison_fraction=0.1",
        2,
        &["try1", "give one of --as and --set"],
    );
    project.fails("results tiny --as try2", 2, &["no run of 'tiny' is named 'try2'", "did you mean `try1`?"]);
    project.fails("run tiny --as a/b", 2, &["letters"]);

    // Artifacts of a run with a label are no garbage. If the label goes to another run, this is printed.
    assert_eq!(project.ok("gc").out.lines().filter(|line| line.contains("evaluate")).count(), 1);
    let said = project.ok("run tiny --as plain --set poison-features.poison_fraction=0.2").err;
    assert!(said.contains("'plain' was the name of a run with no overrides"), "{said}");

    // If the spec has changed, the message gives this as the reason.
    project.spec("tiny", &TINY.replace("steps = 3", "steps = 4"));
    project.fails("results tiny", 4, &["has changed since it was run", "hemlock why tiny"]);
    project.spec("tiny", &TINY.replace("steps = 3", "steps = [3, 4]"));
    let said = project.ok("results tiny").err;
    assert!(said.contains("1 of 2 branches has no result yet; the spec, or what it reads, has changed"), "{said}");
    // A note that was changed by hand is not used.
    let spec = fs::read_dir(project.path().join("artifacts/.runs")).unwrap().next().unwrap().unwrap().path();
    let note = fs::read_dir(spec).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&note).unwrap();
    fs::write(&note, text.replacen("tiny", "tony", 1)).unwrap();
    project.fails("gc", 4, &[".runs", "remove the file"]);
    assert!(project.ok("results tiny --list").err.contains(".runs"));
    project.ok("run tiny");
    project.ok("results tiny");
}

#[test]
fn a_pipe_gets_few_columns_and_whoever_asks_gets_others() {
    let project = Project::new();
    project.ok("run tiny");
    let few = project.ok("results tiny");
    assert!(few.out.lines().all(|line| line.chars().count() <= 100), "{}", few.out);
    let row: Value = serde_json::from_str(&project.ok("results tiny --json").out).unwrap();
    let percent = |name: &str| format!("{:.2}", 100.0 * row["accuracy"][name].as_f64().unwrap());
    let accuracy = format!(" {} -> {} ", percent("clean"), percent("images"));
    assert!(few.out.contains(&accuracy) && few.out.contains("there is no interval for one seed"), "{}", few.out);
    let next = ["next: `hemlock report tiny`", "hemlock export tiny invert"];
    assert!(next.iter().all(|next| few.err.contains(next)), "{}", few.err);

    let wide = project.ok("results tiny --wide").out;
    let (head, _) = wide.split_once("\ngradient-canceling ").unwrap();
    let mut words: Vec<&str> = head.split_whitespace().collect();
    let headings = "attack method poison fraction labels extractor splits seen victim seeds clean target head poisoned \
                    features poisoned images drop random flips influence flips duplicates share kept, % \
                    PSNR, dB SSIM largest change relative distance outliers, % violations, % objective seconds";
    let mut expected: Vec<&str> = headings.split(' ').collect();
    // Headings are broken into lines.
    words.sort_unstable();
    expected.sort_unstable();
    assert_eq!(words, expected);
    let legend = project.ok("results tiny --legend").out;
    assert!(legend.contains("\nbest control: This is the accuracy, in %, of the victim"), "{legend}");

    let some = project.ok("results tiny --columns drop,poison,linf").out;
    let rows: Vec<Vec<&str>> = some.lines().take(3).map(|l| l.split_whitespace().collect()).collect();
    assert_eq!((&*rows[0], &*rows[1]), (&["poison", "largest"][..], &["drop", "fraction", "change"][..]));
    // The unit is grey levels, as in specs.
    let linf = 255.0 * row["visibility"]["linf"].as_f64().unwrap();
    assert_eq!((rows[2][1], rows[2][2], rows[2][3]), ("5", "%", &*format!("{linf:.1}")));
    let drop = 100.0 * (row["accuracy"]["clean"].as_f64().unwrap() - row["accuracy"]["images"].as_f64().unwrap());
    assert_eq!(rows[2][0], format!("{drop:.2}"));
    project.fails("results tiny --columns drop,sim", 2, &["no column 'sim'", "SSIM"]);
    project.fails("results tiny --sort nothing", 2, &["--sort: there is no column 'nothing'"]);
    for other in ["--json", "--csv", "--list"] {
        project.fails(&format!("results tiny --columns drop {other}"), 2, &[other]);
    }
}

/// The CSV has all fields that the JSON has, with all digits.
#[test]
fn other_programs_get_every_result_as_csv() {
    let project = Project::new();
    let set = "--set seeds=[0,1] --set poison-features.poison_fraction=[0.05,0.1]";
    project.ok(&format!("run tiny {set}"));
    let csv = project.ok(&format!("results tiny {set} --csv")).out;
    let json = project.ok(&format!("results tiny {set} --json")).out;
    assert_eq!((csv.lines().count(), json.lines().count()), (5, 4));
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    for (record, row) in csv.lines().skip(1).zip(json.lines()) {
        let row: Value = serde_json::from_str(row).unwrap();
        // The first columns contain no commas.
        let record: Vec<&str> = record.split(',').collect();
        for (name, value) in header.iter().zip(&record).take_while(|(name, _)| !name.starts_with("params.")) {
            let value: Value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(*value));
            let field = name.split('.').fold(&row, |row, field| &row[field]);
            let expected = match field {
                Value::Null => &Value::from(""),
                Value::Array(_) => continue,
                field => field,
            };
            assert_eq!((name, expected), (name, &value));
        }
        assert!(header.contains(&"params.invert.steps") && header.contains(&"accuracy.images"), "{header:?}");
    }
}

#[test]
fn a_table_has_a_row_per_setting_and_seeds_are_averaged() {
    let project = Project::new();
    let set = "--set seeds=[0,1] --set poison-features.poison_fraction=[0.05,0.1] --set evaluate.controls=[]";
    project.ok(&format!("run tiny {set}"));
    let table = project.ok(&format!("results tiny {set}")).out;
    assert!(
        table.starts_with("tiny: 2 results, all with the attack gradient-canceling, the method feature-matching,"),
        "{table}"
    );
    assert_eq!(table.lines().filter(|l| l.contains(" -> ") && l.contains(" % ")).count(), 2, "{table}");
    assert!(!table.contains("best control"), "{table}");
    let wide = project.ok(&format!("results tiny {set} --wide --sort -poison")).out;
    let rows: Vec<&str> = wide.lines().filter(|l| l.starts_with("gradient-canceling")).collect();
    assert!(rows.len() == 2 && rows[0].contains(" 10 % ") && rows[0].contains('±'), "{wide}");
    assert_eq!(project.ok(&format!("results tiny {set} --json")).out.lines().count(), 4);
    // Every parameter that differs has a column, at whichever stage it is set.
    let methods = ["simclr", "moco-v3", "supervised", "random"];
    let set = format!("--set pretrain.method={}", serde_json::json!(methods));
    project.ok(&format!("run tiny {set}"));
    let table = project.ok(&format!("results tiny {set}")).out;
    assert!(methods.iter().all(|method| table.contains(&format!("\n{method} "))), "{table}");
    // Without inversion, there is no accuracy on images.
    project.spec("bare", &TINY.replace("[invert]\nmethod = \"feature-matching\"\nsteps = 3\n", ""));
    project.ok("run bare");
    assert!(project.ok("invert bare").err.contains("no [invert]"));
    let row: Value = serde_json::from_str(&project.ok("results bare --json").out).unwrap();
    assert!(row["accuracy"]["images"].is_null() && row["visibility"].is_null(), "{row}");
    project.fails("results tiny --root empty", 4, &["no results", "hemlock run tiny"]);
}

const DECODER: &str = "[decoder]\nepochs = 2\nwidth = 8\n\n[invert]\nmethod = \"decoder\"";

#[test]
fn the_decoder_inverts_too_and_is_trained_once() {
    let project = Project::new();
    project.spec("decode", &TINY.replace("[invert]\nmethod = \"feature-matching\"\nsteps = 3", DECODER));
    let set = "--set seeds=[0,1] --set poison-features.poison_fraction=[0.05,0.1]";
    let ran = Project::stages_that_ran(&project.ok(&format!("run decode {set}")));
    assert_eq!(ran.iter().filter(|s| *s == "decoder").count(), 1, "{ran:?}");
    assert_eq!(ran.iter().filter(|s| *s == "invert").count(), 4, "{ran:?}");
    let row = |args: &str| -> Value {
        serde_json::from_str(project.ok(&format!("results decode {args} --json")).out.lines().next().unwrap()).unwrap()
    };
    let decoded = row(set);
    assert_eq!((&decoded["attack"], &decoded["method"]), (&"gradient-canceling".into(), &"decoder".into()));
    // Classes have equally many test images.
    let by_class: Vec<f64> = serde_json::from_value(decoded["per_class"]["images"].clone()).unwrap();
    let mean = by_class.iter().sum::<f64>() / by_class.len() as f64;
    assert!((decoded["accuracy"]["images"].as_f64().unwrap() - mean).abs() < 1e-12, "{decoded}");
    assert_eq!(decoded["params"]["decoder"]["epochs"], 2);

    // Hybrid inversion uses the same decoder, and starts feature matching at its images.
    let hybrid = "--set invert.method=feature-matching --set invert.start=decoder --set invert.steps=5";
    assert_eq!(Project::stages_that_ran(&project.ok(&format!("run decode {hybrid}"))), ["invert", "evaluate"]);
    let distance = |row: &Value| row["visibility"]["relative_distance"].as_f64().unwrap();
    assert!(distance(&row(hybrid)) < distance(&decoded));
    // Matching that starts at the base image does not read the decoder, so its key, time and parameters do not include
    // the decoder's.
    let base = "--set invert.method=feature-matching --set invert.steps=5";
    project.ok(&format!("run decode {base}"));
    assert!(row(base)["params"]["decoder"].is_null());
    let key = |args: &str| {
        project.tasks(&format!("decode {args}")).into_iter().find(|t| t["stage"] == "invert").unwrap()["key"].clone()
    };
    assert_eq!(key(base), key(&format!("{base} --set decoder.epochs=3")));
    assert_ne!(key(hybrid), key(&format!("{hybrid} --set decoder.epochs=3")));

    project.ok("export decode decoder -o out");
    assert!(project.path().join("out/decoder.safetensors").is_file());
    let info: Value =
        serde_json::from_str(&fs::read_to_string(project.path().join("out/decoder.json")).unwrap()).unwrap();
    assert_eq!(info["held_out"]["images"], 16);
    // An image without content, which is grey everywhere, has an error of at most 0.25. By Jensen's inequality, the
    // mean PSNR is at least that of the mean error.
    let [error, psnr] = ["pixel_error", "psnr"].map(|field| info["held_out"][field].as_f64().unwrap());
    assert!(error < 0.25 && psnr >= -10.0 * error.log10(), "{info}");
}

#[test]
fn matching_keeps_within_its_ball_and_says_how_every_poison_fared() {
    let project = Project::new();
    let set = "--set invert.linf=3/255 --set invert.restarts=1 --set invert.optimizer=[\"lbfgs\",\"adam\"]";
    project.ok(&format!("run tiny {set}"));
    for line in project.ok(&format!("results tiny {set} --json")).out.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let linf = row["visibility"]["linf"].as_f64().unwrap() * 255.0;
        assert!(linf > 0.0 && linf < 3.0001, "{row}");
        assert!(row["visibility"]["ssim"].as_f64().unwrap() > 0.9, "{row}");
    }
    project.ok(&format!("export tiny invert {set} --select invert.optimizer=lbfgs -o out"));
    let csv = fs::read_to_string(project.path().join("out/poisons.csv")).unwrap();
    let mut lines = csv.lines().map(|l| l.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
    let (start, distance, passes) = (column("start_distance"), column("distance_unrounded"), column("passes"));
    let rows: Vec<Vec<&str>> = lines.collect();
    assert_eq!(rows.len(), 5);
    for row in rows {
        assert!(row[distance].parse::<f32>().unwrap() < row[start].parse::<f32>().unwrap(), "{row:?}");
        assert_eq!(row[passes], "6", "two starts of three passes: {row:?}");
    }
}

/// Compares two settings in one root: their differences, and the results that agree in everything else.
#[test]
fn two_settings_stand_side_by_side() {
    let project = Project::new();
    let set = "--set seeds=[0,1] --set poison-features.poison_fraction=[0.05,0.1] --set invert.beta=[0,0.1]";
    project.ok(&format!("run tiny -j 2 {set}"));
    let rows: Vec<Value> = project
        .ok(&format!("results tiny {set} --json"))
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let sides = "--a invert.beta=0 --b invert.beta=0.1";
    let pairs = project.ok(&format!("diff tiny {set} {sides} --json")).out;
    let pairs: Vec<Value> = pairs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(pairs.len(), 4);
    for pair in &pairs {
        assert_eq!(pair["differs"], serde_json::json!({ "invert.beta": [0.0, 0.1] }));
        assert_eq!(pair["seed"][0], pair["seed"][1]);
        for side in 0..2 {
            let row = rows.iter().find(|row| row["key"] == pair["key"][side]).unwrap();
            assert_eq!(row["params"]["invert"]["beta"], pair["differs"]["invert.beta"][side]);
            assert_eq!(row["accuracy"]["images"], pair["accuracy"]["images"][side]);
            assert_eq!(row["seconds"], pair["seconds"][side]);
            let [clean, images] = ["clean", "images"].map(|name| row["accuracy"][name].as_f64().unwrap());
            assert_eq!(pair["drop"][side], clean - images);
        }
    }
    let table = project.ok(&format!("diff tiny {set} {sides}")).out;
    let mut lines = table.lines();
    assert_eq!(lines.next().unwrap().split_whitespace().collect::<Vec<_>>(), ["parameter", "A", "B"]);
    assert_eq!(lines.next().unwrap().split_whitespace().collect::<Vec<_>>(), ["invert.beta", "0.0", "0.1"]);
    for poison_fraction in ["0.05", "0.1"] {
        let line = table
            .lines()
            .find(|l| l.starts_with(&format!("poison-features.poison_fraction={poison_fraction} ")))
            .unwrap();
        assert!(line.split_whitespace().nth(1) == Some("2") && line.contains('±'), "{table}");
    }
    // Branches that do not correspond are no pairs. With two budgets on one side and one on the other, one has a
    // partner.
    let one = project.ok(&format!("diff tiny {set} --a invert.beta=0 --b invert.beta=0.1,poison_fraction=0.1"));
    assert_eq!(one.out.matches(" drop ").count(), 1, "{}", one.out);
    assert!(one.err.contains("2 results of --a and 0 of --b"), "{}", one.err);

    // A part of the branches is compared with the rest, and only results with the same seed are paired.
    let part = project.ok(&format!("diff tiny {set} --a seed=0 --b seed=0,invert.beta=0.1 --json")).out;
    assert_eq!(part.matches("\"differs\":{\"invert.beta\":[0.0,0.1]}").count(), 2, "{part}");
    let all = project
        .ok(&format!("diff tiny {set} --a invert.beta=0,poison_fraction=0.05 --b seed=0,poison_fraction=0.05 --json"));
    let pair: Value = serde_json::from_str(&all.out).unwrap();
    assert_eq!((&pair["seed"][0], &pair["seed"][1]), (&0.into(), &0.into()), "{}", all.out);

    // Settings can be given by overrides, on one side or on both.
    project.ok("run tiny --set target-params.radius=0.4");
    let by_override = project.ok("diff tiny --set-b target-params.radius=0.4 --json").out;
    let pair: Value = serde_json::from_str(&by_override).unwrap();
    assert_eq!(pair["differs"], serde_json::json!({ "target-params.radius": [0.5, 0.4] }));

    project.fails("diff tiny --a seed=0 --b seed=0", 2, &["--a and --b choose the same"]);
    for bound in ["--tolerance nan", "--points inf", "--tolerance=-1"] {
        project.fails(&format!("diff artifacts artifacts {bound}"), 2, &["expected a number from 0"]);
    }
    project.fails("diff tiny", 2, &["two things are compared", "--a FIELD=VALUE --b FIELD=VALUE"]);
    project.fails("diff tiny --a seed=5", 2, &["--a: no branch has seed=5"]);
    project.fails("diff tiny --set-b invert.steps=9", 4, &["no results of 'tiny' for --b", "--set 'invert.steps=9'"]);
    project.fails("diff artifacts artifacts --a seed=0", 2, &["settings of one pipeline"]);
    project.fails("diff tiny --a seed=0 --points 2", 2, &["for two roots"]);
    project.fails("diff nosuch --a seed=0", 2, &["no pipeline 'nosuch'"]);
}
