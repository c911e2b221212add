//! Only the crate `streams` creates random generators from seeds.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Collects the Rust files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn all_draws_have_a_purpose() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut looked, mut seeded) = (0, Vec::new());
    for folder in fs::read_dir(crates).unwrap().map(|entry| entry.unwrap().path()) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        // Benchmarks and fixtures are no experiments, so they may seed generators directly.
        if ["streams", "bench", "fixtures"].contains(&name) || !folder.join("src").is_dir() {
            continue;
        }
        let mut all = Vec::new();
        files(&folder.join("src"), &mut all).unwrap();
        for file in all {
            let stem = file.file_stem().unwrap().to_str().unwrap();
            let text = fs::read_to_string(&file).unwrap();
            let (text, _) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
            let tests = stem == "tests" || stem == "testing" || stem.ends_with("_tests");
            looked += usize::from(text.contains("hemlock_streams"));
            let seeds = ["SeedableRng", "seed_from_u64", "from_seed", "from_rng", "rand::rng("];
            if !tests && seeds.iter().any(|seed| text.contains(seed)) {
                seeded.push(file);
            }
        }
    }
    assert!(looked > 10, "only {looked} files draw");
    assert!(seeded.is_empty(), "expected `hemlock_streams::Purpose` instead of a seed: {seeded:?}");
}
