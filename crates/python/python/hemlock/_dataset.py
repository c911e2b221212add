"""Data sets with poisons among the clean samples, on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from . import _hemlock
from ._arrays import Labels, _array, floats, same_length
from ._attack import Control, Poisons
from ._hemlock import Error
from ._images import Images
from ._poison_images import PoisonImages


def save_dataset(
    folder: Any,
    samples: Any,
    labels: Any,
    poisons: Any,
    *,
    format: str = "folder",
    validation: Any = None,
    test: Any = None,
) -> list[Path]:
    """Writes a poisoned data set: clean samples, and the poisons behind the training samples. ``manifest.csv`` says of
    every sample its split, row, file, label and class, whether it is a poison, and the row of the training sample that
    it was made of. Returns the paths of the files.

    Parameters
    ----------
    folder : where it is written; what an earlier data set of the same format left there is replaced.
    samples, labels : the clean training set, images or features.
    poisons : :class:`PoisonImages` for images and :class:`Poisons` for features, a control, or a pair of samples and
        labels.
    format : ``folder``, PNG files as ``train/CLASS/000000.png``; ``npz``, one ``data.npz``; or ``parquet``, a file per
        split with encoded images, as datasets of Hugging Face have. Features are written as ``npz``.
    validation, test : pairs of samples and labels.
    """
    pictures = _array(samples, "samples").ndim == 4

    def of(given: Any, name: str) -> np.ndarray:
        return Images(given, name).pixels if pictures else floats(given, name, single=True)

    classes, numbers = Labels.of(labels, "labels")

    def pair(given: Any, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        if given is None:
            return None
        try:
            some, own = given
        except (TypeError, ValueError):
            raise Error(f"`{name}` is {type(given).__name__}; expected a pair: samples and labels") from None
        found, places = of(some, name), classes.numbers(own, name)
        same_length(found, places, (name, name))
        return found, places

    train = of(samples, "samples")
    same_length(train, numbers, ("samples", "labels"))
    source = getattr(poisons, "source", None)
    if isinstance(poisons, PoisonImages) and pictures:
        poisons = poisons.images, poisons.labels
    elif isinstance(poisons, (Poisons, PoisonImages, Control)):
        if pictures:
            raise Error("`poisons` are features, and the samples are images; expected PoisonImages, or features")
        poisons = poisons.features, poisons.labels
    if poisons is None:
        raise Error("`poisons` is None; expected poisons")
    splits = ((train, numbers), pair(validation, "validation"), pair(test, "test"), pair(poisons, "poisons"))
    rows = None if source is None else np.asarray(source, np.int64).tolist()
    made = _hemlock.save_dataset(os.fspath(folder), format, classes.names, splits, rows)
    return [Path(path) for path in made]
