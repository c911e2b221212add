//! Victims other than the linear head, victim extractors, and poisons that replace images.

use crate::project::{Project, TINY};
use serde_json::Value;

const NETWORK: &str = "epochs = 2\nwarmup_epochs = 1\nbatch = 32\n";

fn results(project: &Project, name: &str) -> Vec<Value> {
    let results = project.ok(&format!("results {name} --json")).out;
    results.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The tiny pipeline with more tables before its evaluation.
fn with(tables: &str) -> String {
    TINY.replace("[evaluate]", &format!("{tables}\n[evaluate]"))
}

/// The tiny pipeline with other poisons instead of the inverted ones.
fn instead(tables: &str) -> String {
    let (before, _) = TINY.split_once("[poison-features]").unwrap();
    format!("{before}{tables}\n[evaluate]\n")
}

#[test]
fn every_victim_is_attacked_and_the_clean_one_is_trained_once() {
    let project = Project::new();
    let networks =
        ["last-block", "fine-tune", "end-to-end"].map(|kind| format!("[[victim]]\nkind = \"{kind}\"\n{NETWORK}"));
    let heads = "[[victim]]\nkind = \"knn\"\nneighbors = 3\n[[victim]]\nkind = \"mlp\"\nepochs = 5\n";
    let spec = with(&format!("{heads}{}", networks.concat()));
    project.spec("victims", &spec.replace("poison_fraction = 0.05", "poison_fraction = [0.05, 0.5]"));
    let ran = Project::stages_that_ran(&project.ok("run victims"));
    assert_eq!(ran.iter().filter(|stage| *stage == "victim").count(), 5, "{ran:?}");
    let rows = results(&project, "victims");
    let victims: Vec<&str> = rows.iter().map(|row| row["victim"].as_str().unwrap()).collect();
    assert_eq!(victims, ["knn", "mlp", "last-block", "fine-tune", "end-to-end"].repeat(2));
    for row in &rows {
        let (victim, accuracy) = (row["victim"].as_str().unwrap(), &row["accuracy"]);
        assert!(accuracy["images"].is_number() && accuracy["target"].is_null(), "{row}");
        let network = !["knn", "mlp"].contains(&victim);
        for name in ["features", "random_flips", "influence_flips", "duplicates"] {
            assert_eq!(accuracy[name].is_null(), network, "{name} of {victim}");
        }
        assert_eq!(row["best"].is_null(), victim == "knn", "{row}");
    }
    let table = project.ok("results victims").out;
    assert!(victims.iter().all(|victim| table.contains(victim)), "{table}");
    // With half as many poisons as clean samples, the predictions of nearest neighbours change.
    assert_ne!(rows[5]["per_class"]["influence_flips"], rows[5]["per_class"]["clean"]);
    // One thread gives the same bytes.
    let one = project.command("run victims --root other").env("RAYON_NUM_THREADS", "1").output().unwrap();
    assert!(one.status.success());
    let differences = project.ok("diff artifacts other").out;
    let (differences, _) = differences.split_once("\n\n").unwrap();
    let stages: Vec<&str> =
        differences.lines().filter(|line| line.starts_with("victim") || line.starts_with("evaluate")).collect();
    assert!(stages.len() == 15 && stages.iter().all(|line| line.ends_with("identical")), "{differences}");
    // Only linear victims read the attacker's target. A default that is written out gives the same victim.
    let plan = project.ok("plan victims --set target-params.radius=0.1").out;
    assert!(!plan.lines().any(|line| line.starts_with("run") && line.contains(" victim ")), "{plan}");
    project.spec(
        "written",
        &spec.replace(NETWORK, &format!("{NETWORK}min_area = 0.5\nflip = 0.5\nlearning_rate = 0.1\n")),
    );
    let plan = project.ok("plan written").out;
    let anew: Vec<&str> = plan.lines().filter(|line| line.starts_with("run") && line.contains(" victim ")).collect();
    assert!(anew.len() == 2 && !anew.iter().any(|line| line.contains("kind=fine-tune")), "{plan}");
    // Controls that are asked for are trained for every kind of victim.
    project.ok("run victims --set evaluate.controls=[\"random-flips\"]");
    let set = "victims --set evaluate.controls=[\"random-flips\"]";
    let asked: Vec<Value> =
        project.ok(&format!("results {set} --json")).out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(
        asked.iter().all(|row| row["accuracy"]["random_flips"].is_number() && row["accuracy"]["duplicates"].is_null())
    );
}

#[test]
fn noise_stands_in_the_place_of_images_and_stays_small() {
    let project = Project::new();
    let noise = "[[unlearnable]]\npoison_fraction = [0.5, 1.0]\nsurrogate = \"frozen\"\nrounds = 3\nsteps = 2\n\
                 [[unlearnable]]\npoison_fraction = 1.0\nnoise = \"class-wise\"\nsurrogate = \"end-to-end\"\nbatch = 32\nrounds = 2\ntrain_steps = 3\n";
    let victim = format!("[[victim]]\nkind = \"linear\"\n[[victim]]\nkind = \"end-to-end\"\n{NETWORK}");
    project.spec("noise", &instead(&format!("{noise}{victim}")));
    project.ok("run noise");
    let rows = results(&project, "noise");
    assert_eq!(rows.len(), 6);
    for row in &rows {
        assert_eq!((&row["replaces"], &row["clean_label"]), (&true.into(), &true.into()));
        let linf = row["visibility"]["linf"].as_f64().unwrap() * 255.0;
        assert!(linf > 1.0 && linf < 8.0 + 1e-3, "{linf}");
        let (all, linear) = (row["poison_fraction"] == 1.0, row["victim"] == "linear");
        assert_eq!(row["accuracy"]["removed"].is_number(), linear && !all, "{row}");
        assert!(row["accuracy"]["duplicates"].is_null() && row["loss_bound"].is_null());
    }
    assert_eq!((&rows[0]["attack"], &rows[0]["method"]), (&"error-minimizing".into(), &"sample-wise".into()));
    // Batches are no larger than the data that is left.
    let few = "--set unlearnable.poison_fraction=0.95 --set evaluate.controls=[\"removed\"]";
    project.ok(&format!("run noise {few}"));
    let left = results(&project, &format!("noise {few}"));
    assert!(left.iter().all(|row| row["accuracy"]["removed"].is_number()), "{left:?}");
    let exported = project.ok("export noise unlearnable -o out --select noise=sample-wise,poison_fraction=1.0").out;
    assert!(exported.contains("poisons.csv"), "{exported}");
    project.fails("plan noise --set unlearnable.linf=0/255", 2, &["`linf`", "at least 1 grey level"]);
    project.fails("plan noise --set unlearnable.poison_fraction=1.5", 2, &["`poison_fraction`"]);
}

/// Victims from one that trains everything to one that trains the classifier alone, under noise that binds to wrong
/// classes.
#[test]
fn the_first_blocks_of_a_victim_keep_their_weights() {
    let project = Project::new();
    let noise = "[[unlearnable]]\npoison_fraction = 1.0\nattack = \"bait\"\nrounds = 2\nsteps = 2\n\
                 [[unlearnable]]\npoison_fraction = 1.0\nattack = \"bait\"\nsurrogate = \"fine-tune\"\n\
                 batch = 32\nrounds = 2\n";
    let victim = format!("[[victim]]\nkind = \"fine-tune\"\nfreeze = [0, 1, 2, 3]\n{NETWORK}");
    let spec = instead(&format!("{noise}{victim}"));
    project.spec("frozen", &spec);
    project.ok("run frozen");
    let rows = results(&project, "frozen");
    assert_eq!(rows.len(), 8);
    let clean: Vec<String> = rows[..4].iter().map(|row| row["per_class"]["clean"].to_string()).collect();
    for (i, row) in rows.iter().enumerate() {
        assert_eq!((&row["attack"], &row["clean_label"]), (&"bait".into(), &true.into()));
        assert_eq!(row["params"]["victim"]["freeze"].as_u64().unwrap_or(0), i as u64 % 4);
        assert!(row["accuracy"]["images"].is_number() && row["learner"]["loss"].is_number(), "{row}");
        assert_eq!(clean[i % 4], row["per_class"]["clean"].to_string(), "noise does not change the clean victim");
    }
    assert!(clean.iter().any(|other| *other != clean[0]), "{clean:?}");
    let legend = project.ok("results frozen --wide --legend").out;
    assert!(legend.contains("objective of bait: This is the loss with noise against the wrong classes"), "{legend}");
    project.ok("report frozen");
    // No key has what is at its default.
    project.spec("plain", &spec.replace("freeze = [0, 1, 2, 3]\n", ""));
    let plan = project.ok("plan plain").out;
    assert!(plan.lines().all(|line| !line.starts_with("run")), "{plan}");
    project.fails("plan frozen --set victim.freeze=4", 2, &["[victim] `freeze`: is 4", "at most 3", "resnet8"]);
    project.fails("plan frozen --set victim.freeze=1 --set victim.kind=end-to-end", 2, &["`freeze`", "fine-tune"]);
    project.fails("plan frozen --set unlearnable.attack=bite", 2, &["unknown variant `bite`", "bait"]);
}

#[test]
fn unclipped_pixels_are_measured_as_they_are() {
    let project = Project::new();
    let unclipped = "[poison-images]\nattack = \"gradient-canceling\"\npoison_fraction = 0.1\nclip = false\nsteps = 5\nstep = 0.5\n";
    project.spec("unclipped", &instead(unclipped));
    project.ok("run unclipped");
    let row = &results(&project, "unclipped")[0];
    assert!(row["visibility"]["linf"].as_f64().unwrap() > 1.0, "{row}");
    assert_eq!(row["visibility"]["relative_distance"], 0.0, "nothing is rounded");
    project.ok("export unclipped poison-images -o out");
    let file = std::fs::read(project.path().join("out/poisons.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let floats =
        |bytes: &[u8]| bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>();
    assert!(floats(tensors.tensor("pixels").unwrap().data()).iter().any(|x| !(0.0..=1.0).contains(x)));
    project.fails("plan unclipped --set poison-images.linf=8/255", 2, &["`linf`", "clip = false"]);
    project.spec("lacks", &instead("[poison-images]\nattack = \"tgda\"\n"));
    project.fails("plan lacks", 2, &["[poison-images] missing field `poison_fraction`"]);
    project.spec("network", &instead(&format!("{unclipped}[victim]\nkind = \"end-to-end\"\n{NETWORK}")));
    let said = project.ok("run network").err;
    assert!(said.contains("trains on images, and unclipped pixels are no images"), "{said}");
    assert!(results(&project, "network")[0]["accuracy"]["images"].is_null());
}

#[test]
fn an_attack_meets_another_extractor_than_its_own() {
    let project = Project::new();
    let other =
        "[victim-extractor.pretrain]\nmethod = \"random\"\narch = \"resnet8-w8\"\n[victim-extractor.features]\n";
    let victims = format!("[[victim]]\nkind = \"linear\"\n[[victim]]\nkind = \"fine-tune\"\n{NETWORK}");
    project.spec("mismatch", &with(&format!("{other}{victims}")));
    project.ok("run mismatch");
    project.ok("run tiny");
    let (rows, tiny) = (results(&project, "mismatch"), &results(&project, "tiny")[0]);
    let [linear, network] = &rows[..] else { panic!("{rows:?}") };
    let of = &linear["accuracy"];
    assert!(of["features"].is_null() && of["target"].is_null() && linear["loss_bound"].is_null(), "{linear}");
    assert!(of["influence_flips"].is_number() && of["images"].is_number(), "{linear}");
    assert_ne!(linear["clean_loss"]["clean"], tiny["clean_loss"]["clean"], "the clean head is the other extractor's");
    assert!(network["accuracy"]["images"].is_number());
    // The attack is the same, so only victims run again.
    let ran = Project::stages_that_ran(&project.ok("run mismatch --set seeds=[0]"));
    assert!(ran.is_empty(), "{ran:?}");
    project.spec("half", &with("[victim-extractor.features]\n"));
    project.fails("plan half", 2, &["[victim-extractor.features]", "[victim-extractor.pretrain]"]);
    project.spec("half", &with("[victim-extractor.pretrain]\nmethod = \"random\"\narch = \"resnet8-w8\"\n"));
    project.fails("plan half", 2, &["[victim-extractor.pretrain] goes with [victim-extractor.features]"]);
    let imported = "[victim-extractor.features]\nmethod = \"import\"\npath = \"other.npz\"\n";
    project.spec(
        "half",
        &with(&format!("[victim-extractor.pretrain]\nmethod = \"random\"\narch = \"resnet8-w8\"\n{imported}")),
    );
    project.fails("plan half", 2, &["[evaluate] needs the extractor that made the features"]);
}
