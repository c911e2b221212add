"""What users give, in all its forms: layouts of memory, types, labels, threads, processes, and large arrays."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import hemlock
import numpy as np
import pytest
from test_pipeline import TINY


def attack(features, labels):
    return hemlock.attack(features, labels, steps=3, poison_fraction=0.05).features


def evaluate(features, labels):
    test = features, labels
    found = hemlock.evaluate(features, labels, (features[:9], labels[:9]), test=test, controls=[])
    return np.array(list(found.accuracy.values()))


def filtered(features, labels):
    return hemlock.filter(features, labels, "sphere", remove=0.1).scores


def certified(features, labels):
    return hemlock.certify(features, labels, test=(features, labels), heads=5).radii


def bounds(features, labels):
    return np.array([hemlock.bounds(features, labels).norm])


def head(features, labels):
    return hemlock.LinearHead(weight_decay=0.01).fit(features, labels).packed_


EVERY = [attack, evaluate, filtered, certified, bounds, head]


def strided(x):
    """Every second column of a wider array."""
    wide = np.full((len(x), 2 * x.shape[1]), np.nan, np.float32)
    wide[:, ::2] = x
    return wide[:, ::2]


def read_only(x):
    x = x.copy()
    x.setflags(write=False)
    return x


def unaligned(x):
    """The same numbers, one byte behind where floats should be."""
    raw = np.empty(x.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
    return raw[1:].view(np.float32).reshape(x.shape)


def swapped(x):
    return x.astype(">f4")


FORMS = [np.asfortranarray, strided, read_only, unaligned, swapped, lambda x: x[::-1][::-1]]


@pytest.mark.parametrize("call", EVERY)
def test_the_layout_of_memory_changes_nothing(train, call):
    features, labels = train
    before = features.copy()
    expected = call(features, labels)
    for form in FORMS:
        assert call(form(features), labels).tobytes() == expected.tobytes(), form
    assert (features == before).all(), "what is given is not written to"


@pytest.mark.parametrize("call", EVERY)
def test_labels_may_be_one_hot_or_named(train, call):
    features, labels = train
    expected = call(features, labels)
    named = np.array(["ant", "bee", "cow"])[labels]
    for given in (np.eye(3)[labels], np.eye(3, dtype=bool)[labels], labels.astype(np.float32), named, list(named)):
        assert call(features, np.asarray(given)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_one_clear_error(train, call, value):
    features, labels = train
    wrong = features.copy()
    wrong[7, 3] = value
    with pytest.raises(hemlock.Error) as error:
        call(wrong, labels)
    assert "finite" in str(error.value), str(error.value)


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (lambda x: x[:0], lambda y: y[:0], "has 0 "),
        (lambda x: x[:, 0], lambda y: y, "expected 2"),
        (lambda x: x[:, :, None], lambda y: y, "expected 2"),
        (lambda x: x, lambda y: y * 0, "class"),
        (lambda x: x, lambda y: y + 0.5, "fractions"),
        (lambda x: x, lambda y: np.ones((300, 3)), "one-hot rows"),
        (lambda x: x.astype(complex), lambda y: y, "complex"),
        (lambda x: x.astype(str), lambda y: y, "dtype"),
        (lambda x: x, lambda y: y[:7], "7 labels"),
    ],
)
def test_what_is_no_training_set_is_one_clear_error(train, call, features, labels, said):
    with pytest.raises(hemlock.Error) as error:
        call(features(train[0]), labels(train[1]))
    assert said in str(error.value), str(error.value)


def test_large_heads_are_trained():
    """As many samples, features and classes as a GPU would be asked for."""
    labels = np.arange(2048)
    features = np.random.default_rng(0).normal(size=(2048, 256)).astype(np.float32)
    aim = hemlock.target(features, labels, weight_decay=1.0, steps=1)
    fields = {"attack": "gradient-canceling", "poison_fraction": 0.001, "steps": 1}
    poisons = hemlock.attack(features, labels, target=aim, **fields)
    assert aim.clean.coef_.shape == (2048, 256) and len(poisons.labels) == 2


@pytest.mark.parametrize("call", EVERY)
def test_two_threads_at_once(train, call):
    expected = call(*train).tobytes()
    made = [None] * 4

    def work(place):
        made[place] = call(*train).tobytes()

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(made))]
    [thread.start() for thread in threads]
    [thread.join(120) for thread in threads]
    assert made == [expected] * len(made)


def python(text, *arguments, **options):
    """A Python process that runs `text`."""
    command = [sys.executable, "-c", textwrap.dedent(text), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_process_that_forks_after_work_has_threads_of_its_own():
    child = python(
        """
        import multiprocessing, sys
        import numpy as np, hemlock
        random = np.random.default_rng(0)
        x, y = random.normal(size=(200, 6)).astype("f4"), np.arange(200) % 2
        fields = dict(steps=3, poison_fraction=0.1)
        images = random.integers(0, 256, (60, 3, 8, 8)).astype("u1")

        def mean(pixels):
            return pixels.mean(axis=(2, 3))

        def work(_):
            return hemlock.attack(x, y, **fields).features.tobytes(), hemlock.features(images, mean).tobytes()

        expected = work(0)
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(work, range(6)) == [expected] * 6
        assert work(0) == expected
        """
    )
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path):
    """A kernel that is restarted in the middle of a run: what was finished is not done again, and the training of the
    extractor goes on from its last checkpoint."""
    spec = {**TINY, "pretrain": {**TINY["pretrain"], "epochs": 60}}
    place = {"root": str(tmp_path / "artifacts"), "data": str(tmp_path), "pipelines": str(tmp_path)}
    child = python(
        f"""
        import hemlock

        def show(bars, notes):
            for _, label, done, total, *_ in bars:
                if label == "pre-training":
                    print(done, total, flush=True)

        hemlock.run({spec!r}, name="long", progress=show, **{place!r})
        """
    )
    for line in child.stdout:
        done, total = map(int, line.split())
        if done > total // 2:
            break
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close(), child.stderr.close()
    seen = []

    def show(bars, notes):
        seen.extend(done for _, label, done, *_ in bars if label == "pre-training")

    again = hemlock.run(spec, name="long", progress=show, **place)
    states = {task.node: task.state for task in again.tasks}
    assert states["dataset.downstream"] == "cached" and states["pretrain"] == states["evaluate"] == "ran"
    # A bar begins at 0, and goes on where the training does.
    assert min(filter(None, seen)) > total // 3, (seen, done, total)
    whole = hemlock.run(spec, name="long", progress=False, **{**place, "root": str(tmp_path / "whole")})
    assert {task.key for task in whole.tasks} == {task.key for task in again.tasks}
    last = {**place, "root": str(tmp_path / "whole")}
    one, other = (hemlock.artifacts(spec, "evaluate", name="long", **where) for where in (place, last))
    assert [made.summary for made in one] == [made.summary for made in other]


def grows(text, mebibytes):
    """How many MiB of memory a call takes beside an array of so many MiB, at most. `text` makes `array` and defines
    `call`."""
    child = python(
        """
        import sys, threading
        import numpy as np, hemlock

        def anonymous():
            with open("/proc/self/status") as status:
                return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) // 1024

        mebibytes = int(sys.argv[1])
        exec(sys.argv[2])
        before, most, stop = anonymous(), [0], threading.Event()
        assert before >= mebibytes

        def watch():
            while not stop.wait(0.002):
                most[0] = max(most[0], anonymous())

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        call(array)
        stop.set()
        watching.join()
        print(most[0] - before)
        """,
        str(mebibytes),
        textwrap.dedent(text),
    )
    out, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    return int(out)


FEATURES = """
array = np.empty((mebibytes * 1024, 256), np.float32)
for row in range(0, len(array), 1024):
    array[row : row + 1024] = np.random.default_rng(row).normal(size=(1024, 256))
labels = (np.arange(len(array)) % 2).astype(np.uint32)
small = slice(0, 2000)
hemlock.attack(array[small], labels[small], steps=1, poison_fraction=0.01)

def call(array):
    hemlock.attack(array, labels, steps=1, poison_fraction=0.0001, target={"steps": 1, "weight_decay": 0.1})
"""

IMAGES = """
array = np.ones((mebibytes * 1024 * 1024 // 3072, 3, 32, 32), np.uint8)

def mean(pixels):
    return pixels.mean(axis=(2, 3))

hemlock.features(array[:100], mean)

def call(array):
    hemlock.features(array, mean)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is measured on Linux")
@pytest.mark.parametrize("text", [FEATURES, IMAGES])
def test_a_large_array_is_not_copied(text):
    size = int(os.environ.get("HEMLOCK_TEST_MIB", "128"))
    grown = grows(text, size)
    print(f"{grown} MiB beside an array of {size} MiB")
    assert grown < size / 2
