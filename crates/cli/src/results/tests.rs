use super::*;
use hemlock_artifact::{AttackId, Measured};
use hemlock_pipeline::{MeanStd, VisibilityStats};
use hemlock_stage::StageRole;
use serde_json::json;
use std::collections::BTreeMap;

fn group(attack: &str, method: &str, constraint: &str, poison_fraction: f64) -> AggregatedRow {
    let cell = |mean: f64| MeanStd { mean, std: 0.0123 };
    let params = BTreeMap::from([
        ("poison-features", json!({ "attack": attack, "poison_fraction": poison_fraction, "constraint": constraint })),
        ("invert", json!({ "method": method })),
        ("pretrain", json!({ "method": "simclr" })),
    ]);
    AggregatedRow {
        attack: AttackId::by(attack, method),
        victim: "linear".to_owned(),
        clean_label: true,
        poison_fraction,
        objective: cell(0.5),
        bound: None,
        stages: BTreeMap::new(),
        declared: Vec::new(),
        roles: BTreeMap::from([("poison-features", StageRole::FeatureAttack), ("invert", StageRole::Inversion)]),
        params,
        seeds: 4,
        classes: 10,
        collapsed: Some(false),
        sees: Default::default(),
        controls_see: Default::default(),
        verified: None,
        stepped_back: Vec::new(),
        unconverged: None,
        accuracy: Measured::new(cell(0.8135))
            .with("target", cell(0.4))
            .with("features", cell(0.7))
            .with("images", cell(0.75))
            .with("random_flips", cell(0.8))
            .with("influence_flips", cell(0.79))
            .with("duplicates", cell(0.81)),
        drop: Some(cell(0.0635)),
        detection: None,
        visibility: Some(VisibilityStats {
            psnr: cell(20.0),
            ssim: cell(0.9),
            linf: cell(150.0 / 255.0),
            relative_distance: cell(1.5),
            outliers: cell(1.0),
            outside: cell(0.0),
        }),
        seconds: Some(cell(12.0)),
    }
}

/// A setting with four seeds and a poisoned accuracy of about `images`. Half of its interval is 3.182 * 1.1547 / 2
/// points.
fn row(group: AggregatedRow, images: f64) -> TableRow {
    let poisoned = Estimate::of(&[images - 0.01, images - 0.01, images + 0.01, images + 0.01]);
    TableRow { clean: group.accuracy.clean.mean, poisoned, group }
}

/// Rows with two attacks, two constraints and two ways to images, each with its own accuracy.
fn table_rows() -> Vec<TableRow> {
    let mut table_rows = Vec::new();
    for (attack, constraint, poison_fraction) in [
        ("bilevel", "ball", 0.01),
        ("bilevel", "ball", 0.03),
        ("gradient-canceling", "none", 0.03),
        ("gradient-canceling", "ball", 0.03),
    ] {
        for method in ["feature-matching", "decoder"] {
            let images = 0.75 - 0.01 * table_rows.len() as f64;
            table_rows.push(row(group(attack, method, constraint, poison_fraction), images));
        }
    }
    table_rows
}

fn asked(view: TableView) -> TableRequest<'static> {
    TableRequest { view, sort: None, legend: false }
}

fn table(table_rows: &[TableRow], view: TableView) -> String {
    results("quickstart", table_rows, &asked(view)).unwrap()
}

#[test]
fn a_table_of_few_columns_fits_its_terminal() {
    for width in [40, 60, 80, 100, 160] {
        let table = table(&table_rows(), TableView::Few(width));
        assert!(table.lines().all(|line| line.chars().count() <= width), "{width}:\n{table}");
        // Every row shows its accuracies, and no two rows are equal.
        let rows: Vec<&str> = table.lines().filter(|line| line.contains("->") && line.contains("20.0")).collect();
        assert_eq!(rows.len(), 8, "{width}:\n{table}");
    }
    insta::assert_snapshot!("few-160", table(&table_rows(), TableView::Few(160)));
    insta::assert_snapshot!("few-80", table(&table_rows(), TableView::Few(80)));
    insta::assert_snapshot!("few-40", table(&table_rows(), TableView::Few(40)));
}

#[test]
fn rows_that_share_a_line_above_them_stand_together_unless_they_are_sorted() {
    let row = |(attack, constraint), images| row(group(attack, "decoder", constraint, 0.03), images);
    let rows = [("bilevel", "none"), ("gradient-canceling", "none"), ("bilevel", "ball")];
    let rows: Vec<TableRow> = rows.into_iter().zip([0.75, 0.7, 0.65]).map(|(of, images)| row(of, images)).collect();
    let lines = |sort| {
        let table = results("quickstart", &rows, &TableRequest { sort, ..asked(TableView::Few(50)) }).unwrap();
        table.lines().filter(|line| line.starts_with("bilevel")).count()
    };
    assert_eq!((lines(None), lines(Some("-accuracy"))), (1, 2));
}

#[test]
fn a_data_set_is_named_as_in_a_spec() {
    let mut rows = table_rows();
    for (i, row) in rows.iter_mut().enumerate() {
        let source = if i < 4 { json!({ "kind": "cifar10" }) } else { json!({ "kind": "cifar100", "labels": "fine" }) };
        row.group.params.insert("dataset.downstream", json!({ "source": source }));
    }
    let table = table(&rows, TableView::Few(200));
    assert!(table.contains(" cifar10 ") && table.contains(" cifar100(labels=fine) "), "{table}");
}

#[test]
fn what_all_rows_have_in_common_stands_above_the_table() {
    let mut table_rows = table_rows();
    let head = |table: &str| table.split_once("\n\n").unwrap().0.replace('\n', " ");
    let common = head(&table(&table_rows, TableView::Few(160)));
    assert!(
        common.starts_with(
            "quickstart: 8 results, all with clean labels, extractor simclr, an attacker that sees train, victim \
             linear, 4 seeds and influence flips as the best control."
        ),
        "{common}"
    );
    // What differs between rows has a column, and is not mentioned above the table.
    table_rows[1].group.victim = "knn".to_owned();
    *table_rows[2].group.accuracy.get_mut("duplicates").unwrap() = MeanStd { mean: 0.7, std: 0.0 };
    let table = table(&table_rows, TableView::Few(160));
    assert!(!head(&table).contains("victim") && !head(&table).contains("influence flips"), "{table}");
    assert!([" knn ", "duplicates 70.00", "influence flips 79.00"].iter().all(|cell| table.contains(cell)), "{table}");
}

#[test]
fn one_result_shows_what_it_is_of() {
    let mut one = row(group("bilevel", "decoder", "ball", 0.03), 0.75);
    one.group.seeds = 1;
    one.poisoned = Estimate::of(&[0.75]);
    insta::assert_snapshot!("one", table(&[one], TableView::Few(100)));
}

#[test]
fn intervals_are_those_of_the_report_or_it_is_said_why_there_is_none() {
    let table_rows = table_rows();
    let said = |table_rows: &[TableRow]| table(table_rows, TableView::Few(100)).replace('\n', " ");
    assert!(said(&table_rows).contains("81.35 -> 75.00 ± 1.84"), "{}", said(&table_rows));
    assert!(said(&table_rows).contains("± half of its 95 % confidence interval over seeds and test images."));
    let same = |seeds: usize| {
        let mut same = row(group("bilevel", "decoder", "ball", 0.03), 0.75);
        same.group.seeds = seeds;
        same.poisoned = Estimate::of(&vec![0.75; seeds]);
        same
    };
    let of_one = said(&[same(1)]);
    assert!(of_one.contains("test split; there is no interval for one seed.") && !of_one.contains('±'), "{of_one}");
    assert!(said(&[same(3)]).contains("test split; there is no interval, as all seeds give the same result."));
    let mixed: Vec<TableRow> = table_rows.into_iter().chain([same(3)]).collect();
    assert!(said(&mixed).contains("test images; none for one seed, or if all seeds give the same result."));
}

#[test]
fn all_columns_have_their_headings_in_words() {
    let table_rows = table_rows();
    let wide = table(&table_rows, TableView::Wide);
    let head: Vec<&str> = wide.lines().take(3).flat_map(str::split_whitespace).collect();
    for word in ["poison", "fraction", "random", "flips", "influence", "relative", "distance", "violations,"] {
        assert!(head.contains(&word), "{word}:\n{wide}");
    }
    assert!(["extractor", "150.0", "81.35 ± 1.23"].iter().all(|words| wide.contains(words)), "{wide}");
    let legend = results("p", &table_rows, &TableRequest { view: TableView::Wide, sort: None, legend: true }).unwrap();
    // Every column is explained in whole sentences.
    for column in columns(&table_rows).iter().filter(|c| c.place != Place::Answer) {
        assert!(legend.contains(&format!("\n{}: ", column.heading)), "{}:\n{legend}", column.heading);
        assert!(column.meaning.ends_with('.') && column.meaning.starts_with(char::is_uppercase), "{}", column.meaning);
    }
    assert!(!wide.contains("\nPSNR, dB: ") && wide.matches("--legend").count() == 1, "{wide}");
}

#[test]
fn a_head_near_chance_and_an_attack_that_draws_nothing_are_said() {
    let wide = |group: AggregatedRow| {
        let asked = TableRequest { view: TableView::Wide, sort: None, legend: true };
        results("p", &[row(group, 0.75)], &asked).unwrap().replace('\n', " ")
    };
    let one = |classes: usize, clean: f64| {
        let mut group = group("bilevel", "decoder", "ball", 0.03);
        (group.classes, group.accuracy.clean.mean) = (classes, clean);
        wide(group)
    };
    assert!(
        one(100, 0.096)
            .contains("NEAR CHANCE: a clean accuracy is 9.60 %, and guessing among 100 classes gives 1.00 %")
    );
    assert!(one(2, 0.54).contains("NEAR CHANCE") && one(10, 0.12).contains("NEAR CHANCE"));
    assert!(!one(100, 0.2).contains("NEAR CHANCE") && !one(2, 0.6).contains("NEAR CHANCE"));
    assert!(!one(10, 0.5).contains("± 0.00: The attack draws nothing"));
    let mut still = group("bilevel", "decoder", "ball", 0.03);
    *still.accuracy.get_mut("features").unwrap() = MeanStd { mean: 0.7, std: 0.0 };
    assert!(wide(still).contains("± 0.00: The attack draws nothing"));
}

#[test]
fn columns_are_found_by_name_or_heading() {
    let named = |names: &[&str]| {
        results("p", &table_rows(), &asked(TableView::Named(names.iter().map(|n| (*n).to_owned()).collect())))
    };
    let head = |table: String| table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(head(named(&["Drop", "constraint", "SSIM"]).unwrap()), "drop constraint SSIM");
    assert_eq!(named(&["influence flips"]).unwrap(), named(&["influence_flips"]).unwrap());
    let e = named(&["imges"]).unwrap_err();
    assert!(e.starts_with("--columns: there is no column 'imges'") && e.ends_with("did you mean `images`?"), "{e}");
}

#[test]
fn rows_are_sorted_by_a_column_and_what_has_no_value_comes_last() {
    let mut table_rows = table_rows();
    table_rows[3].poisoned = None;
    let sorted = |by: &'static str| {
        let view = TableView::Named(["attack", "accuracy"].map(str::to_owned).to_vec());
        let table = results("p", &table_rows, &TableRequest { view, sort: Some(by), legend: false }).unwrap();
        table.lines().filter(|line| line.contains("81.35")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(sorted("accuracy")[0].contains("-> 68.00") && sorted("accuracy")[7].ends_with("-> -"));
    assert!(sorted("-accuracy")[0].contains("-> 75.00") && sorted("-accuracy")[7].ends_with("-> -"));
    // Texts are sorted alphabetically, and equal rows keep the order of the spec.
    assert!(sorted("-attack")[0].starts_with("gradient-canceling") && sorted("-attack")[0].contains("71.00"));
    let asked = TableRequest { view: TableView::Wide, sort: Some("-nothing"), legend: false };
    assert!(results("p", &table_rows, &asked).unwrap_err().starts_with("--sort: there is no column 'nothing'"));
}
