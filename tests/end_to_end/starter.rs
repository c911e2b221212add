//! The starter spec, on common kinds of image folders.

use crate::project::Project;

const STARTER: &str = include_str!("../../pipelines/starter.toml");

/// Overrides that make the starter quick.
const QUICK: &str = "--set pretrain.arch=resnet8-w4 --set pretrain.epochs=2 --set invert.steps=2 --set invert.refine=2";

/// A project with the starter and a folder of images of `side` pixels. Each element of `classes` has a class's numbers
/// of training and test images.
fn project(classes: &[(usize, usize)], side: usize) -> Project {
    let project = Project::new();
    let named = STARTER.replace("path = \"my-images\"", "path = \"own\"");
    assert_ne!(named, STARTER, "the starter says where images are");
    project.spec("mine", &named);
    project.images(["own/train", "own/test"], classes, side);
    project
}

#[test]
fn the_starter_works_on_folders_of_all_kinds_at_the_first_try() {
    let kinds = [
        ("two classes of few images", &[(20, 8); 2][..], 32),
        ("many classes", &[(5, 2); 10], 32),
        ("unbalanced classes", &[(60, 10), (12, 4), (2, 1)], 32),
        ("small pictures", &[(16, 6); 3], 8),
    ];
    for (kind, classes, side) in kinds {
        let project = project(classes, side);
        let ran = project.run(&format!("run mine {QUICK}"));
        assert_eq!(ran.code, 0, "{kind}: {}", ran.err);
        let rows = project.ok(&format!("results mine --json {QUICK}")).out;
        assert_eq!(rows.lines().count(), 4, "{kind}: {rows}");
        project.ok(&format!("report mine {QUICK}"));
    }
}

/// If there are too few images for a batch, a single message says what to change, and to which value.
#[test]
fn too_few_images_for_the_starter_are_one_clear_message() {
    let project = project(&[(5, 3); 3], 32);
    project.fails(&format!("run mine {QUICK}"), 2, &["`batch`: is 32; expected at most the 15 images"]);
    project.ok(&format!("run mine {QUICK} --set pretrain.batch=15 --set poison-features.poison_fraction=0.1"));
}
