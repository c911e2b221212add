"""Poisoned data sets on disk."""

import csv

import hemlock
import numpy as np
import pytest
from test_images import Linear, small


@pytest.fixture(scope="module")
def attacked():
    images, labels = small()
    names = np.array(["dark", "light"])[labels]
    fields = {"attack": "gradient-canceling", "poison_fraction": 0.1, "steps": 2}
    return images, names, hemlock.attack_images(images, names, Linear(8, 5).pair, **fields)


def rows(folder):
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_has_the_poisons_behind_the_clean_images(attacked, tmp_path):
    images, names, made = attacked
    files = hemlock.save_dataset(tmp_path, images, names, made, test=(images[:6], names[:6]))
    listed = rows(tmp_path)
    assert len(files) == 51 and len(listed) == 50 and all((tmp_path / row["file"]).is_file() for row in listed)
    poisons = [row for row in listed if row["poison"] == "1"]
    assert [int(row["row"]) for row in poisons] == list(range(40, 44))
    assert [row["class"] for row in poisons] == list(made.labels)
    assert [int(row["source"]) for row in poisons] == list(made.source)
    assert listed[0]["file"] == "train/dark/000000.png" and listed[-1]["split"] == "test"
    # Again, with fewer files: what is left of the first is removed.
    hemlock.save_dataset(tmp_path, images, names, made)
    assert not (tmp_path / "test").exists() and len(list((tmp_path / "train").glob("*/*.png"))) == 44


def test_arrays_are_those_that_were_given(attacked, tmp_path):
    images, names, made = attacked
    hemlock.save_dataset(tmp_path, images.transpose(0, 2, 3, 1), names, made, format="npz", validation=(images, names))
    arrays = np.load(tmp_path / "data.npz")
    both, all_names = made.added_to(images, names)
    assert (arrays["train_images"] == both.transpose(0, 2, 3, 1)).all()
    assert (np.array(["dark", "light"])[arrays["train_labels"]] == all_names).all()
    assert arrays["train_poison"].tolist() == [False] * 40 + [True] * 4
    assert arrays["train_source"].tolist() == [-1] * 40 + made.source.tolist()
    assert (arrays["val_images"] == images.transpose(0, 2, 3, 1)).all() and "test_images" not in arrays
    assert (tmp_path / "classes.txt").read_text() == "dark\nlight\n"


def test_features_are_written_and_imported_again(train, test, tmp_path):
    features, labels = train
    poisons = hemlock.attack(features, labels, poison_fraction=0.1, steps=5)
    hemlock.save_dataset(tmp_path, features, labels, poisons, format="npz", test=test)
    arrays = np.load(tmp_path / "data.npz")
    assert (arrays["train"] == poisons.added_to(features, labels)[0]).all() and (arrays["test"] == test[0]).all()
    spec = {"seeds": [0], "features": {"method": "import", "path": str(tmp_path / "data.npz"), "normalization": "none"}}
    place = {"root": tmp_path / "artifacts", "data": tmp_path, "pipelines": tmp_path}
    with pytest.warns(UserWarning):
        hemlock.run(spec, until="features", name="again", progress=False, **place)
    (again,) = hemlock.artifacts(spec, "features", name="again", **place)
    assert (again.arrays["train.features"] == arrays["train"]).all()


@pytest.mark.parametrize("form", ["folder", "npz", "parquet"])
def test_a_pipeline_reads_what_was_written(attacked, tmp_path, form):
    images, names, made = attacked
    hemlock.save_dataset(tmp_path / "set", images, names, made, format=form, test=(images[:6], names[:6]))
    kind = {"folder": "image-folder"}.get(form, form)
    source = {"kind": kind, "path": str(tmp_path / "set" / ("data.npz" if form == "npz" else ""))}
    # Classes are drawn in equal numbers; the poisons have the labels of their base images, 2 of each class or not.
    most = 2 * int(np.unique(made.added_to(images, names)[1], return_counts=True)[1].min())
    spec = {"seeds": [0], "dataset": {"downstream": {"source": source, "train": most, "test": 6, "size": 8}}}
    place = {"root": tmp_path / "artifacts", "data": tmp_path, "pipelines": tmp_path}
    hemlock.run(spec, until="dataset", name="again", progress=False, **place)
    (again,) = hemlock.artifacts(spec, "dataset", name="again", **place)
    both = {image.tobytes() for image in made.added_to(images, names)[0]}
    assert all(image.tobytes() in both for image in again.arrays["train.pixels"])
    assert len(again.arrays["train.pixels"]) == most and len(again.arrays["test.pixels"]) == 6


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f, x, y, p: hemlock.save_dataset(f, x, y, p, format="zip"), "there is no format `zip`"),
        (lambda f, x, y, p: hemlock.save_dataset(f, p.features, p.labels, p), "features cannot be written as folder"),
        (lambda f, x, y, p: hemlock.save_dataset(f, x, y, p.poisons), "`poisons` are features, and the"),
        (lambda f, x, y, p: hemlock.save_dataset(f, x, y, (x[..., :4], y)), "the poisons have the shape [3, 8, 4]"),
        (lambda f, x, y, p: hemlock.save_dataset(f, x, y, (x, ["grey"] * 40)), "which no training sample has"),
        (lambda f, x, y, p: hemlock.save_dataset(f, x, y, None), "`poisons` is None"),
        (lambda f, x, y, p: hemlock.save_dataset(f, x[:-1], y, p), "39 samples"),
        (lambda f, x, y, p: hemlock.save_dataset(f, x, y, p, test=x), "expected a pair"),
        (lambda f, x, y, p: hemlock.save_dataset(f / "taken", x, y, p), "is there"),
    ],
)
def test_what_is_wrong_is_one_clear_error(attacked, tmp_path, call, said):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "manifest.csv").write_text("mine")
    with pytest.raises(hemlock.Error) as error:
        call(tmp_path, *attacked)
    assert said in str(error.value), str(error.value)
