"""Attacks on features, what they reach, and what bounds it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping

import numpy as np

from . import _hemlock
from ._arrays import Labels, floats, pair, same_length, table
from ._head import LinearHead
from ._hemlock import Error
from ._progress import shown


@dataclass(frozen=True)
class Target:
    """The clean head, and the target head that an attack wants victims to learn."""

    clean: LinearHead
    """The head that is trained on the clean training set."""
    head: LinearHead
    """The target head."""
    info: dict[str, Any] = field(repr=False)
    """What the artifact of the stage ``target-params`` says."""

    @property
    def weight_decay(self) -> float:
        """The weight decay that victims train with."""
        return self.info["weight_decay"]

    @property
    def path(self) -> list[dict[str, Any]]:
        """Measurements of the heads from the clean head to the target head. A bound that is None is infinite."""
        return self.info["path"]

    def _native(self) -> tuple[np.ndarray, np.ndarray, str]:
        return self.clean.packed_, self.head.packed_, json.dumps(self.info)


@dataclass(frozen=True)
class Poisons:
    """Poisoned features. Those of other tools are ``Poisons(features, labels)``."""

    features: np.ndarray
    """The features, ``[m, d]``, in 32 bits."""
    labels: np.ndarray
    """The labels, ``[m]``."""
    source: np.ndarray | None = None
    """The row of the training sample that each poison is made of, ``[m]``."""
    info: dict[str, Any] = field(default_factory=dict, repr=False)
    """What the artifact of the stage ``poison-features`` says."""
    target: Target | None = field(default=None, repr=False)
    """What the attack aimed at."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def objective(self) -> float | None:
        """The value of the attack's objective, as the attack displays it."""
        return self.info.get("objective")

    @property
    def bound(self) -> float | None:
        """A lower bound of the objective over all poisons that the constraint lets through, if there is one."""
        return self.info.get("bound")

    @property
    def gap(self) -> float | None:
        """With adversarial labels: how far the search that began with them ended behind the best one."""
        return self.info.get("gap")

    @property
    def stopped(self) -> str | None:
        """Why the attack stopped: ``target``, ``steps``, ``stall`` or ``time``."""
        return self.info.get("stopped")

    @property
    def curve(self) -> np.ndarray:
        """The objective at some of the steps, ``[points, 2]``: steps and values."""
        points = [(point["step"], point["objective"]) for point in self.info.get("curve", [])]
        return np.asarray(points, np.float64).reshape(-1, 2)

    def added_to(self, features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """A poisoned training set: the clean samples, and the poisons behind them."""
        return _added(self, features, labels)


@dataclass(frozen=True)
class Control:
    """What a training set without an attack has more than clean data: as many samples as poisons."""

    features: np.ndarray
    """The features, ``[m, d]``."""
    labels: np.ndarray
    """The labels, ``[m]``."""

    def added_to(self, features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """The training set of the control."""
        return _added(self, features, labels)


def _added(added: Poisons | Control, features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """The clean samples, and what is added behind them."""
    clean = np.asarray(features)
    rows = added.features.astype(clean.dtype, copy=False)
    return np.concatenate([clean, rows]), np.concatenate([np.asarray(labels), added.labels])


@dataclass(frozen=True)
class Outcome:
    """A victim after its training on one training set."""

    role: str
    """What the training set is for: ``clean``, ``target``, ``poisoned``, ``control`` or ``undefended``."""
    accuracy: float
    """The share of test samples that are classified correctly."""
    per_class: list[float | None] = field(repr=False)
    """The same within each class; None for a class without test samples."""
    right: np.ndarray = field(repr=False)
    """Whether each test sample is classified correctly."""
    margins: np.ndarray = field(repr=False)
    """The score of each test sample's class minus the largest other score."""
    head: LinearHead | None = field(repr=False)
    """The trained head, if the victim is linear."""
    info: dict[str, Any] = field(repr=False)
    """Further numbers, such as ``clean_loss``, ``gradient_norm``, ``converged`` and ``certificate``."""


@dataclass(frozen=True)
class Evaluation:
    """What a victim is worth after training on clean data, on poisons and on controls."""

    outcomes: dict[str, Outcome]
    """The outcomes by training set: ``clean``, ``features`` for the poisons, ``target`` for the target head itself, and
    one for each control."""
    info: dict[str, Any] = field(repr=False)
    """What else the evaluation says, such as ``loss_bound`` and ``detection``."""

    @property
    def accuracy(self) -> dict[str, float]:
        """The test accuracy by training set."""
        return {name: outcome.accuracy for name, outcome in self.outcomes.items()}

    @property
    def clean(self) -> float:
        """The test accuracy after training on clean data."""
        return self.outcomes["clean"].accuracy

    @property
    def poisoned(self) -> float:
        """The test accuracy after training on clean data and the poisons."""
        return self.outcomes["features"].accuracy

    @property
    def detection(self) -> dict[str, float] | None:
        """What a filter found of the poisons."""
        return self.info["detection"]

    @property
    def loss_bound(self) -> float | None:
        """An upper bound of the mean cross-entropy on clean data, over all poisons that the constraint lets through."""
        return self.info["loss_bound"]


@dataclass(frozen=True)
class Bounds:
    """What poisons within a constraint can do at most."""

    norm: float
    """A lower bound of the poison fraction that makes the head stationary, from norms."""
    support: float
    """The same from the support function of a poison's contribution, whose maximum a search approximates."""
    certified: float
    """The same from an upper bound of that maximum: certified, and weaker."""
    loss: float | None
    """An upper bound of the mean cross-entropy on clean data of any head that is trained with so many poisons."""


class _Given:
    """A training set and what is held out, for the native module."""

    def __init__(self, features: Any, labels: Any, validation: Any = None, test: Any = None) -> None:
        self.features = floats(features, "features", single=True)
        self.labels, self.numbers = Labels.of(labels, "labels")
        same_length(self.features, self.numbers, ("features", "labels"))
        if len(self.labels.classes) < 2:
            raise Error(f"`labels` has {len(self.labels.classes)} class; expected at least two")
        self.has_test = test is not None
        held_out = pair(validation, "validation", self.labels), pair(test, "test", self.labels)
        for name, given in zip(("validation", "test"), held_out):
            if given is not None and given[0].shape[1] != self.features.shape[1]:
                found, expected = given[0].shape[1], self.features.shape[1]
                raise Error(f"`{name}` has {found} features, and the training set {expected}; expected as many")
        if self.has_test and len(held_out[1][1]) == 0:  # type: ignore[index]
            raise Error("`test` has no samples; expected at least one")
        self.data = _hemlock.Data(self.labels.names, (self.features, self.numbers), *held_out)

    def head(self, packed: np.ndarray, weight_decay: float) -> LinearHead:
        return LinearHead.of(packed, self.labels.classes, weight_decay=weight_decay)

    def target(self, given: Any, weight_decay: float | None, seed: int, progress: Any) -> Target:
        """The target that was given, or one with the given fields."""
        if isinstance(given, Target):
            if weight_decay is not None and weight_decay != given.weight_decay:
                raise Error(f"`weight_decay` is {weight_decay}, and that of `target` {given.weight_decay}")
            if given.clean.packed_.shape != (len(self.labels.classes), self.features.shape[1] + 1):
                raise Error("`target` is of other data: it has other classes or another number of features")
            return given
        fields = _fields(given, "target")
        if weight_decay is not None and fields.setdefault("weight_decay", weight_decay) != weight_decay:
            raise Error(f"`weight_decay` is {weight_decay}, and in `target` {fields['weight_decay']}")
        clean, head, info = _hemlock.target(self.data, table(fields, "target"), seed, shown(progress))
        about = json.loads(info)
        if not self.has_test:
            for point in about["path"]:
                # Training data stood for the test set.
                point["test_accuracy"] = point["train_accuracy"]
        decay = about["weight_decay"]
        return Target(self.head(clean, decay), self.head(head, decay), about)

    def poisons(self, given: Any) -> tuple[Poisons, tuple[np.ndarray, np.ndarray, np.ndarray, str]]:
        """Poisons, and the same for the native module."""
        given = getattr(given, "poisons", given)
        if not isinstance(given, Poisons):
            try:
                features, labels = given
            except (TypeError, ValueError):
                found = type(given).__name__
                raise Error(f"`poisons` is {found}; expected Poisons, or a pair: features and labels") from None
            given = Poisons(features, labels)
        features = floats(given.features, "poisons", single=True)
        numbers = self.labels.numbers(given.labels, "poisons")
        same_length(features, numbers, ("poisons", "poisons"))
        if features.shape[1] != self.features.shape[1]:
            found, expected = features.shape[1], self.features.shape[1]
            raise Error(f"`poisons` has {found} features, and the training set {expected}; expected as many")
        source = np.zeros(len(numbers), np.uint32) if given.source is None else np.asarray(given.source, np.uint32)
        if len(source) != len(numbers) or (source >= len(self.numbers)).any():
            raise Error("`poisons.source` has to name one row of the training set for each poison")
        info = given.info or {
            "spec": None,
            "clean_label": given.source is not None and bool((self.numbers[source] == numbers).all()),
            "poison_fraction": len(numbers) / len(self.numbers),
            "objective": None,
            "bound": None,
            "gap": None,
            "stopped": "given",
            "curve": [],
        }
        return given, (features, numbers, np.ascontiguousarray(source), json.dumps(info))


def _fields(given: Any, name: str) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, str):
        return {"kind": given}
    if isinstance(given, Mapping):
        return dict(given)
    raise Error(f"`{name}` is {type(given).__name__}; expected the fields of its table, as a dictionary")


def target(
    features: Any,
    labels: Any,
    *,
    validation: Any = None,
    test: Any = None,
    seed: int = 0,
    progress: Any = False,
    **fields: Any,
) -> Target:
    """Trains the clean head, and makes a target head. ``fields`` are those of ``[target-params]``, such as ``radius``
    and ``weight_decay``. ``validation`` and ``test`` are pairs of features and labels; the accuracy along the path is
    measured on ``test``, and on the training set without it."""
    return _Given(features, labels, validation, test).target(fields, None, seed, progress)


def attack(
    features: Any,
    labels: Any,
    *,
    attack: str = "bilevel",
    poison_fraction: float = 0.03,
    constraint: str = "none",
    target: Target | Mapping[str, Any] | None = None,
    weight_decay: float | None = None,
    validation: Any = None,
    test: Any = None,
    seed: int = 0,
    progress: Any = False,
    **fields: Any,
) -> Poisons:
    """Finds poisoned features, which lower the accuracy of a linear head that is trained with them.

    Parameters
    ----------
    features : the features of the training set, ``[n, d]``: anything that NumPy takes. Matrices of 32-bit floats in C
        order are not copied. The head sees them as they are, so scale them as you do for training.
    labels : one label for each sample, integers or strings, or one-hot rows.
    attack : what the poisons minimise: ``bilevel``, ``gradient-canceling``, ``tgda`` or another attack.
    poison_fraction : the number of poisons, divided by the number of training samples.
    constraint : where poisons may lie: ``none``, ``ball``, ``box``, ``sphere``, ``slab``, ``knn``, or some of them.
    target : what the attack aims at: a :class:`Target`, or fields of ``[target-params]``.
    weight_decay : that of the head, for attacker and victim; 1e-4 by default.
    validation : a pair of features and labels, which some attacks may see (``sees=["train", "validation"]``).
    test : a pair of features and labels. It chooses nothing.
    seed : decides what is drawn at random.
    progress : True shows bars.
    fields : all other fields of ``[poison-features]``, such as ``labels``, ``solver`` and ``steps``, and those of the
        attack. The field ``labels`` is ``poison_labels`` here.
    """
    given = _Given(features, labels, validation, test)
    if "poison_labels" in fields:
        fields["labels"] = fields.pop("poison_labels")
    fields = {"attack": attack, "poison_fraction": poison_fraction, "constraint": constraint, **fields}
    aim = given.target(target, weight_decay, seed, progress)
    made = _hemlock.attack(given.data, aim._native(), table(fields, "attack"), seed, shown(progress))
    poisons, numbers, source, info = made
    return Poisons(poisons, given.labels.labels(numbers), source.astype(np.int64), json.loads(info), aim)


def controls(
    features: Any,
    labels: Any,
    *,
    poison_fraction: float = 0.03,
    count: int | None = None,
    weight_decay: float | None = None,
    target: Target | None = None,
    validation: Any = None,
    seed: int = 0,
    progress: Any = False,
    **fields: Any,
) -> dict[str, Control]:
    """Samples to add without an attack, as many as poisons: flipped labels and duplicates. ``count`` is their number, in
    place of ``poison_fraction``. ``fields`` are those of ``[evaluate]``: ``controls``, a list of names, and ``sees``.
    """
    given = _Given(features, labels, validation)
    aim = _aim(given, target, weight_decay, seed, progress)
    size = (count, float(poison_fraction))
    made = _hemlock.controls(given.data, aim._native(), table(fields, "controls"), size, seed, shown(progress))
    return {name: Control(added, given.labels.labels(numbers)) for name, added, numbers in made}


def _aim(given: _Given, target: Target | None, weight_decay: float | None, seed: int, progress: Any) -> Target:
    """The target that was given; without one, any, for its clean head."""
    return given.target({"steps": 1} if target is None else target, weight_decay, seed, progress)


def evaluate(
    features: Any,
    labels: Any,
    poisons: Any,
    *,
    test: Any,
    victim: str | Mapping[str, Any] | None = None,
    defence: str | Mapping[str, Any] | None = None,
    target: Target | None = None,
    weight_decay: float | None = None,
    validation: Any = None,
    seed: int = 0,
    device: str = "flex",
    progress: Any = False,
    **fields: Any,
) -> Evaluation:
    """Trains a victim on clean data, on poisons and on controls, and measures it on a test set.

    Parameters
    ----------
    features, labels : the clean training set.
    poisons : :class:`Poisons` or :class:`PoisonImages`, or a pair of features and labels.
    test : a pair of features and labels.
    victim : a kind such as ``"knn"``, or the fields of ``[victim]``; a linear head by default.
    defence : a kind such as ``"spectral"``, or the fields of ``[defence]``; none by default.
    fields : those of ``[evaluate]``: ``controls``, a list of names, and ``sees``.
    """
    data = _Given(features, labels, validation, test)
    poisons, native = data.poisons(poisons)
    known = poisons.target if target is None else target
    aim = _aim(data, known, weight_decay, seed, progress)
    own = table(fields, "evaluate")
    named = ((victim, "victim"), (defence, "defence"))
    tables = [None if given is None else table(_fields(given, name), name) for given, name in named]
    made, about = _hemlock.evaluate(
        data.data,
        aim._native(),
        native,
        (*tables, own),
        (seed, device),
        shown(progress),
    )
    outcomes = {}
    for name, numbers, right, margins, packed in made:
        if name == "target" and known is None:
            continue
        info = json.loads(numbers)
        head = None if packed is None else data.head(packed, info["weight_decay"] or aim.weight_decay)
        first = {key: info.pop(key) for key in ("role", "accuracy", "per_class")}
        outcomes[name] = Outcome(**first, right=right, margins=margins, head=head, info=info)
    info = json.loads(about)
    if known is None:
        info["poison_fraction_bound"] = None
    return Evaluation(outcomes, info)


def bounds(
    features: Any,
    labels: Any,
    *,
    head: Target | LinearHead | None = None,
    poison_fraction: float | None = None,
    weight_decay: float | None = None,
    progress: Any = False,
    **constraint: Any,
) -> Bounds:
    """Bounds of what poisons can do, whatever the attack: the poison fraction that a head needs at least, and the
    clean loss that a poison fraction can cause at most.

    Parameters
    ----------
    head : the head that an attack wants, or a target; a target of the default radius by default.
    poison_fraction : the budget of the bound of the loss; without it there is none.
    constraint : ``constraint``, ``quantile`` and ``neighbors``, as in ``[poison-features]``.
    """
    given = _Given(features, labels)
    if isinstance(head, LinearHead):
        decay = head.weight_decay if weight_decay is None else weight_decay
        aim, wanted = _aim(given, None, decay, 0, progress), head.packed_
    else:
        aim = given.target(head, weight_decay, 0, progress)
        wanted = aim.head.packed_
    share = None if poison_fraction is None else round(poison_fraction * len(given.numbers))
    clean, fields = aim.clean.packed_, table(constraint, "bounds")
    said = _hemlock.bounds(given.data, clean, [wanted], fields, aim.weight_decay, share, shown(progress))
    found = json.loads(said)
    whole = {name: float("inf") if bound is None else bound for name, bound in found["poison_fraction"][0].items()}
    return Bounds(**whole, loss=found["loss"])
