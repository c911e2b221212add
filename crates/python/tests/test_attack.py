"""Attacks, controls, bounds, filters and certificates on arrays."""

import os
import pickle
import signal
import threading
import time

import hemlock
import numpy as np
import pytest


@pytest.mark.parametrize(
    ("attack", "fields"),
    [
        ("bilevel", {}),
        ("bilevel", {"solver": "lbfgs", "constraint": "ball"}),
        ("bilevel-cross-entropy", {"constraint": "sphere+slab"}),
        ("gradient-canceling", {"constraint": "box", "poison_labels": "adversarial"}),
        ("gradient-canceling", {"solver": "conditional-gradient", "constraint": "ball", "steps": 0}),
        ("tgda", {"constraint": "knn", "neighbors": 3}),
    ],
)
def test_every_attack_takes_the_fields_of_its_table(train, attack, fields):
    features, labels = train
    poisons = hemlock.attack(features, labels, attack=attack, poison_fraction=0.05, **{"steps": 5, **fields})
    assert poisons.features.shape == (15, 8) and poisons.features.dtype == np.float32
    assert poisons.info["spec"]["attack"] == attack and np.isfinite(poisons.features).all()
    assert set(poisons.labels) <= set(labels) and poisons.source.shape == (15,)
    assert np.isfinite(poisons.objective) and poisons.curve.shape[1] == 2


def test_poisons_lower_the_accuracy_and_filters_find_them(train, test):
    poisons = hemlock.attack(*train, poison_fraction=0.1, steps=100)
    found = hemlock.evaluate(*train, poisons, test=test)
    assert found.poisoned < found.clean - 0.05
    assert set(found.accuracy) == {"clean", "target", "features", "random_flips", "influence_flips", "duplicates"}
    # The same training, by hand.
    head = hemlock.LinearHead().fit(*poisons.added_to(*train))
    assert head.score(*test) == pytest.approx(found.poisoned, abs=1e-9)
    retrained = found.outcomes["features"].head
    np.testing.assert_allclose(retrained.coef_, head.coef_, atol=1e-3)
    defended = hemlock.evaluate(*train, poisons, test=test, defence={"kind": "sphere", "remove": 0.1})
    assert defended.detection["recall"] > 0.5 and defended.poisoned > found.poisoned
    nearest = hemlock.evaluate(*train, poisons, test=test, victim="knn", controls=[])
    assert set(nearest.accuracy) == {"clean", "features"}


def test_poisons_of_other_tools_are_measured(train, test):
    features, labels = train
    wrong = (labels[:30] + 1) % 3
    found = hemlock.evaluate(features, labels, (features[:30], wrong), test=test, controls=["duplicates"])
    by_hand = hemlock.LinearHead().fit(np.concatenate([features, features[:30]]), np.concatenate([labels, wrong]))
    assert found.poisoned == pytest.approx(by_hand.score(*test), abs=1e-9)
    assert set(found.accuracy) == {"clean", "features", "duplicates"} and found.info["objective"] is None


def test_controls_are_training_sets(train):
    features, labels = train
    made = hemlock.controls(features, labels, poison_fraction=0.1)
    assert set(made) == {"random_flips", "influence_flips", "duplicates"}
    flips = made["random_flips"]
    assert len(flips.labels) == 30
    rows = [np.flatnonzero((features == z.astype(np.float32)).all(axis=1))[0] for z in flips.features]
    assert (labels[rows] != flips.labels).all()
    assert len(made["duplicates"].added_to(features, labels)[1]) == 330
    assert len(hemlock.controls(features, labels, count=7, controls=["random-flips"])["random_flips"].labels) == 7


def test_names_of_classes_come_back(train):
    features, labels = train
    names = np.array(["cat", "dog", "owl"])
    named = hemlock.attack(features, names[labels], steps=5)
    plain = hemlock.attack(features, labels, steps=5)
    assert (named.labels == names[plain.labels]).all() and (named.features == plain.features).all()


def test_the_same_call_gives_the_same_bytes(train):
    features, labels = train
    first = hemlock.attack(features, labels, steps=5, seed=3)
    for given in (features.astype(np.float64), np.asfortranarray(features), features.tolist()):
        again = hemlock.attack(given, labels, steps=5, seed=3)
        assert again.features.tobytes() == first.features.tobytes()
    copy = pickle.loads(pickle.dumps(first))
    assert copy.features.tobytes() == first.features.tobytes() and copy.objective == first.objective


def test_bounds_hold_for_attacks(train):
    features, labels = train
    poisons = hemlock.attack(features, labels, poison_fraction=0.05, constraint="ball", steps=50)
    found = hemlock.bounds(features, labels, head=poisons.target, poison_fraction=0.05, constraint="ball")
    assert 0 < found.norm and found.certified <= found.support * (1 + 1e-9)
    evaluation = hemlock.evaluate(features, labels, poisons, test=train, controls=[])
    assert evaluation.outcomes["features"].info["clean_loss"] <= found.loss
    assert evaluation.loss_bound == pytest.approx(found.loss, rel=1e-6)


def test_filters_score_samples(train):
    features, labels = train
    far = np.concatenate([features, 40 * np.ones((5, 8), np.float32)])
    filtered = hemlock.filter(far, np.concatenate([labels, [0] * 5]), "sphere", remove=0.02)
    assert set(range(300, 302)) <= set(filtered.removed.tolist()) and len(filtered.scores) == 305
    assert (filtered.keep.sum() + len(filtered.removed)) == 305


def test_certificates_say_how_many_poisons_are_withstood(train, test):
    certified = hemlock.certify(*train, test=test, kind="voting", heads=20)
    assert certified.certified_accuracy[0] == pytest.approx(certified.accuracy)
    for budget, accuracy in enumerate(certified.certified_accuracy):
        assert accuracy == pytest.approx((certified.right & (certified.radii >= budget)).mean())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, y: hemlock.attack(x, y, poison_fraction=3), "`poison_fraction`: is 3; expected a share"),
        (lambda x, y: hemlock.attack(x, y, attack="bilevle"), "bilevel"),
        (lambda x, y: hemlock.attack(x, y, stepps=3), "stepps"),
        (lambda x, y: hemlock.attack(x, y, constraint="cube"), "cube"),
        (lambda x, y: hemlock.attack(x, y, step=float("nan")), "not finite"),
        (lambda x, y: hemlock.attack(x, y, solver=object()), "a value that a spec can have"),
        (lambda x, y: hemlock.attack(x, y, target={"radiuss": 1}), "radiuss"),
        (lambda x, y: hemlock.attack(x, y, sees=["train", "validation"]), "validation"),
        (lambda x, y: hemlock.attack(x, y, validation=(x[:, :3], y)), "3 features"),
        (lambda x, y: hemlock.attack(x, y, validation=x[:1]), "expected a pair"),
        (lambda x, y: hemlock.attack(x, y, test=(x, y + 5)), "which no training sample has"),
        (lambda x, y: hemlock.attack(x, y[:-1]), "299 labels"),
        (lambda x, y: hemlock.attack(np.full_like(x, np.nan), y), "must be finite"),
        (lambda x, y: hemlock.evaluate(x, y, 3, test=(x, y)), "expected Poisons"),
        (lambda x, y: hemlock.evaluate(x, y, (x, y), test=(x, y), victim="fine-tune"), "trains on images"),
        (lambda x, y: hemlock.evaluate(x, y, (x, y), test=(x, y), defence="jpeg"), "changes images"),
        (lambda x, y: hemlock.evaluate(x, y, (x, y), test=(x, y), victim="kn"), "kn"),
        (lambda x, y: hemlock.filter(x, y, "spectrum"), "spectral"),
        (lambda x, y: hemlock.filter(x, y, "jpeg"), "filters nothing"),
        (lambda x, y: hemlock.certify(x, y, test=(x, y), kind="knn"), "certifies nothing"),
    ],
)
def test_what_is_wrong_is_one_clear_error(train, call, said):
    with pytest.raises(hemlock.Error) as error:
        call(*train)
    assert said in str(error.value), str(error.value)


def test_ctrl_c_stops_the_work(train):
    begun = time.monotonic()
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        hemlock.attack(*train, steps=1_000_000, poison_fraction=0.5)
    assert time.monotonic() - begun < 20


def test_progress_is_shown_and_may_raise(train):
    seen = []
    hemlock.attack(*train, steps=300, poison_fraction=0.5, progress=lambda bars, notes: seen.extend(bars))
    assert any(label == "poisons" and total == 300 for _, label, _, total, *_ in seen)

    def broken(bars, notes):
        raise LookupError("no terminal")

    with pytest.raises(LookupError, match="no terminal"):
        hemlock.attack(*train, steps=1_000_000, poison_fraction=0.5, progress=broken)


def test_other_threads_run_meanwhile(train):
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.wait(0.01):
            ticks.append(time.monotonic())

    ticking = threading.Thread(target=tick)
    ticking.start()
    hemlock.attack(*train, steps=200, poison_fraction=0.5)
    stop.set()
    ticking.join()
    assert len(ticks) >= 3


def test_a_forked_process_works(train):
    expected = hemlock.LinearHead().fit(*train).coef_
    child = os.fork()
    if child == 0:
        same = (hemlock.LinearHead().fit(*train).coef_ == expected).all()
        os._exit(0 if same else 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the forked process hangs")
