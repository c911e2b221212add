"""Defences of training sets, and classifiers that certify how many poisons they withstand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _hemlock
from ._arrays import Labels, floats, same_length, table
from ._attack import _Given
from ._hemlock import Error
from ._progress import shown


@dataclass(frozen=True)
class Filtered:
    """What a filter says of a training set."""

    keep: np.ndarray
    """Whether the filter keeps each sample, ``[n]``."""
    scores: np.ndarray = field(repr=False)
    """The score of each sample, ``[n]``; large ones are suspicious."""

    @property
    def removed(self) -> np.ndarray:
        """The rows that are removed, the most suspicious first."""
        rows = np.flatnonzero(~self.keep)
        return rows[np.argsort(-self.scores[rows], kind="stable")]


@dataclass(frozen=True)
class Certified:
    """A certified classifier on a test set."""

    accuracy: float
    """The share of test samples that are classified correctly."""
    certified_accuracy: np.ndarray = field(repr=False)
    """The share that stays correct with at most 0, 1, … units of an attack; 0 beyond the end."""
    unit: str
    """What is counted, such as ``samples added or removed``."""
    right: np.ndarray = field(repr=False)
    """Whether each test sample is classified correctly."""
    radii: np.ndarray = field(repr=False)
    """The largest number of units that leaves each prediction as it is."""


def filter(
    features: Any,
    labels: Any,
    kind: str = "spectral",
    *,
    weight_decay: float = 1e-4,
    seed: int = 0,
    progress: Any = False,
    **fields: Any,
) -> Filtered:
    """Scores how suspicious each training sample is, and says which ones a filter removes. ``fields`` are those of
    ``[defence]``: ``remove``, a share of the samples, or ``expected``, the share of poisons that is reckoned with."""
    matrix = floats(features, "features")
    of, numbers = Labels.of(labels, "labels")
    same_length(matrix, numbers, ("features", "labels"))
    if len(of.classes) < 2:
        raise Error(f"`labels` has {len(of.classes)} class; expected at least two")
    fields = table({"kind": kind, **fields}, "filter")
    decay = float(weight_decay)
    keep, scores = _hemlock.filter(matrix, numbers, len(of.classes), fields, decay, seed, shown(progress))
    return Filtered(keep, scores)


def certify(
    features: Any,
    labels: Any,
    *,
    test: Any,
    kind: str = "voting",
    weight_decay: float = 1e-4,
    seed: int = 0,
    progress: Any = False,
    **fields: Any,
) -> Certified:
    """Trains a certified classifier, and says for each test sample how many poisons its prediction withstands.
    ``kind`` is ``voting``, ``prototypes``, ``ridge`` or ``certified-linear``, and ``fields`` are its fields in
    ``[victim]``."""
    if test is None:
        raise Error("`test` is None; expected a pair: features and labels")
    given = _Given(features, labels, None, test)
    fields = table({"kind": kind, **fields}, "certify")
    about, right, signed, _ = _hemlock.certify(given.data, fields, float(weight_decay), seed, shown(progress))
    info = json.loads(about)
    certificate = info["certificate"]
    accuracy = np.asarray(certificate["accuracy"])
    return Certified(info["accuracy"], accuracy, certificate["unit"], right, np.abs(signed).astype(np.int64))
