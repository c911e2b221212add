"""Pipelines from Python and from the command: the same keys, bytes and words."""

import json
import subprocess
import sys

import hemlock
import numpy as np
import pytest

SOURCE = {"kind": "synthetic", "domain": "a", "classes": 3, "train_pool": 300, "test_pool": 150}
TINY = {
    "seeds": [0],
    "dataset": {"downstream": {"source": SOURCE, "train": 120, "validation": 15, "test": 60}},
    "pretrain": {"method": "supervised", "arch": "resnet8-w4", "epochs": 1, "batch": 60, "warmup_epochs": 0},
    "features": {},
    "target-params": {"radius": 0.5, "weight_decay": 0.01},
    "poison-features": {"attack": "bilevel", "poison_fraction": [0.05, 0.1], "constraint": "ball", "steps": 20},
    "evaluate": {},
}


def toml(value):
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{field} = {toml(inner)}" for field, inner in value.items()) + "}"
    return json.dumps(value)


def command(folder, *arguments):
    made = subprocess.run(
        [sys.executable, "-m", "hemlock", *arguments], cwd=folder, capture_output=True, text=True, timeout=600
    )
    return made.returncode, made.stdout, made.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    place = {"root": folder / "artifacts", "data": folder / "data", "pipelines": folder / "pipelines"}
    run = hemlock.run(TINY, name="tiny", jobs=2, progress=False, **place)
    assert run.ran and run.pipeline == "tiny"
    return folder, place


def test_a_run_is_cached_and_the_command_takes_its_artifacts(project):
    folder, place = project
    assert not hemlock.run(TINY, name="tiny", progress=False, **place).ran
    (folder / "pipelines").mkdir(exist_ok=True)
    lines = [f"{name} = {toml(value)}" for name, value in TINY.items()]
    (folder / "pipelines" / "written.toml").write_text("\n".join(lines))
    code, out, err = command(folder, "run", "written")
    assert code == 0 and "0 tasks ran" in err, err
    assert not hemlock.run("written", progress=False, **place).ran
    assert not hemlock.run(folder / "pipelines" / "written.toml", progress=False, **place).ran


def test_results_are_those_of_the_command(project):
    folder, place = project
    records = hemlock.results(TINY, name="tiny", frame="records", **place)
    assert [row["poison_fraction"] for row in records] == [0.05, 0.1]
    frame = hemlock.results(TINY, name="tiny", frame="pandas", **place)
    assert list(frame["accuracy.clean"]) == [row["accuracy.clean"] for row in records]
    other = hemlock.results(TINY, name="tiny", frame="polars", **place)
    assert other.columns == list(frame.columns) and other["accuracy.clean"].to_list() == list(frame["accuracy.clean"])
    code, out, _ = command(folder, "results", "written", "--csv")
    assert code == 0 and len(out.splitlines()) == 3


def test_a_report_has_charts_and_tables(project, tmp_path):
    folder, place = project
    report = hemlock.report(TINY, name="tiny", output=tmp_path / "page.html", **place)
    with open(report.page) as page:
        assert "<html" in page.read()
    chart = next(iter(report.figures.values()))
    assert chart.svg == chart._repr_svg_() and "<svg" in chart.svg
    (frame, polars) = (report.table("results", frame) for frame in ("records", "polars"))
    assert len(frame) == 2 and len(polars) == 2 and "finding-F2" not in report.tables
    again = hemlock.report(saved=tmp_path / "page.tables" / "results.jsonl.zst", output=tmp_path / "b.html")
    assert again.table("results", "records") == frame
    with pytest.raises(hemlock.Error, match="either `spec` or `saved`"):
        hemlock.report()
    with pytest.raises(hemlock.Error, match="expected one of .*results"):
        report.table("nothing")
    with pytest.raises(hemlock.Error, match="expected names of pipelines"):
        hemlock.report([TINY, TINY], name="tiny", **place)
    with pytest.raises(hemlock.Error, match="hemlock run other"):
        hemlock.report({**TINY, "seeds": [8]}, name="other", **place)


def test_what_a_dictionary_made_stays_when_garbage_is_removed(project):
    folder, place = project
    hemlock.run({**TINY, "seeds": [7]}, name="other", progress=False, **place)
    code, _, err = command(folder, "gc", "--delete")
    assert code == 0, err
    assert not hemlock.run({**TINY, "seeds": [7]}, name="other", progress=False, **place).ran
    # Its name gives it up. What another pipeline reaches stays.
    code, _, err = command(folder, "gc", "other", "--delete")
    assert code == 0 and "deleted" in err, err
    assert hemlock.run({**TINY, "seeds": [7]}, name="other", progress=False, **place).ran
    assert not hemlock.run(TINY, name="tiny", progress=False, **place).ran


def test_arrays_are_mapped_and_python_makes_the_same_poisons(project):
    _, place = project
    (features,) = hemlock.artifacts(TINY, "features", name="tiny", **place)
    train, labels = features.arrays["train.features"], features.arrays["train.labels"]
    assert isinstance(train, np.memmap) and train.shape[0] == 120
    test, validation = [
        (features.arrays[f"{split}.features"], features.arrays[f"{split}.labels"]) for split in ("test", "validation")
    ]
    select = {"poison_fraction": 0.1}
    (artifact,) = hemlock.artifacts(TINY, "poison-features", select=select, name="tiny", **place)
    fields = {k: TINY["poison-features"][k] for k in ("attack", "constraint", "steps")}
    fields |= {"poison_fraction": 0.1, "target": TINY["target-params"], "validation": validation}
    poisons = hemlock.attack(train, labels, test=test, **fields)
    assert poisons.features.tobytes() == artifact.arrays["features"].tobytes()
    assert (poisons.labels == artifact.arrays["labels"]).all()
    assert (poisons.source == artifact.arrays["base_index"]).all()
    evaluated = hemlock.evaluate(train, labels, poisons, test=test)
    rows = hemlock.results(TINY, name="tiny", frame="records", **place)
    assert rows[1]["accuracy.features"] == evaluated.poisoned and rows[1]["accuracy.clean"] == evaluated.clean


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"seeds": [0], "no_stage": {}}, "unknown key `no_stage`"),
        ({**TINY, "poison-features": {"attack": "bilevel", "poison_fraction": 7}}, "`poison_fraction`"),
        ({**TINY, "features": {"normalize": None}}, "`features.normalize` is None"),
        ({**TINY, "seeds": [float("inf")]}, "not finite"),
        ({**TINY, "seeds": object()}, "a value that a spec can have"),
        ("nowhere", "there is no pipeline 'nowhere'"),
        (3, "expected the name of a pipeline"),
    ],
)
def test_what_is_wrong_in_a_spec_is_one_clear_error(project, spec, said):
    _, place = project
    with pytest.raises(hemlock.Error) as error:
        hemlock.run(spec, name="tiny", progress=False, **place)
    assert said in str(error.value), str(error.value)


def test_overrides_and_labels(project):
    _, place = project
    sets = {"poison-features": {"poison_fraction": 0.02}, "seeds": [1]}
    run = hemlock.run(TINY, name="tiny", set=sets, label="small", progress=False, **place)
    assert {task.stage for task in run.ran} >= {"poison-features", "evaluate"}
    rows = hemlock.results(TINY, name="tiny", label="small", frame="records", **place)
    assert [(row["poison_fraction"], row["seed"]) for row in rows] == [(0.02, 1)]
    with pytest.raises(hemlock.Error, match="no run of 'tiny' is named 'large'"):
        hemlock.results(TINY, name="tiny", label="large", **place)
    with pytest.raises(hemlock.Error, match="there is no stage 'invrt'"):
        hemlock.artifacts(TINY, "invrt", name="tiny", **place)
    with pytest.raises(hemlock.Error, match="expected one of pandas"):
        hemlock.results(TINY, name="tiny", frame="excel", **place)


def test_the_command_has_its_exit_codes(tmp_path):
    assert command(tmp_path, "--version") == (0, f"hemlock {hemlock.__version__}\n", "")
    code, _, err = command(tmp_path, "run", "nowhere")
    assert code == 2 and "there is no pipeline 'nowhere'" in err
