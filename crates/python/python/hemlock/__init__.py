"""Indiscriminate data poisoning of classifiers on frozen feature extractors.

>>> poisons = hemlock.attack(features, labels, poison_fraction=0.03)
>>> hemlock.evaluate(features, labels, poisons, test=(test_features, test_labels)).accuracy

Arrays go in and come out; nothing is written to disk, apart from what :func:`run` is for. A keyword of a function is a
field of the table that it stands for in a spec: docs/python.md says which.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._hemlock import Error, __version__

if TYPE_CHECKING:
    from ._attack import (
        Bounds,
        Control,
        Evaluation,
        Outcome,
        Poisons,
        Target,
        attack,
        bounds,
        controls,
        evaluate,
        target,
    )
    from ._dataset import save_dataset
    from ._defend import Certified, Filtered, certify, filter
    from ._extractor import Extractor, extractor, features
    from ._head import LinearHead
    from ._pipeline import Artifact, Figure, Report, Run, Task, artifacts, report, results, run
    from ._poison_images import PoisonImages, attack_images, invert

# The module in which each name is. The command imports none of them, and so starts without NumPy.
_WHERE = {
    "Bounds": "_attack",
    "Control": "_attack",
    "Evaluation": "_attack",
    "Outcome": "_attack",
    "Poisons": "_attack",
    "Target": "_attack",
    "attack": "_attack",
    "bounds": "_attack",
    "controls": "_attack",
    "evaluate": "_attack",
    "target": "_attack",
    "save_dataset": "_dataset",
    "Certified": "_defend",
    "Filtered": "_defend",
    "certify": "_defend",
    "filter": "_defend",
    "Extractor": "_extractor",
    "extractor": "_extractor",
    "features": "_extractor",
    "LinearHead": "_head",
    "Artifact": "_pipeline",
    "Figure": "_pipeline",
    "Report": "_pipeline",
    "Run": "_pipeline",
    "Task": "_pipeline",
    "artifacts": "_pipeline",
    "report": "_pipeline",
    "results": "_pipeline",
    "run": "_pipeline",
    "PoisonImages": "_poison_images",
    "attack_images": "_poison_images",
    "invert": "_poison_images",
}

__all__ = ["Error", "__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hemlock' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_WHERE))
