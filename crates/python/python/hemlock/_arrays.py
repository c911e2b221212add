"""What users give as arrays, as the arrays that the native module takes."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Mapping

import numpy as np

from ._hemlock import Error


class NoNumbers(Error, TypeError):
    """Objects where numbers were expected."""


def _array(value: Any, name: str) -> np.ndarray:
    """An array of NumPy's, of anything that has ``__array__`` or ``__dlpack__``."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise Error(f"`{name}` is a sparse matrix; expected a dense one: `{name}.toarray()`")
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as e:
        raise Error(f"`{name}` is no array: {e}") from e


def floats(value: Any, name: str, single: bool = False) -> np.ndarray:
    """A matrix of 32-bit or 64-bit floats in C order. It is the given memory, if that is such a matrix already, and a
    copy otherwise. ``single``: 32-bit floats, which attacks and victims compute with."""
    array = _array(value, name)
    if np.iscomplexobj(array):
        raise Error(f"`{name}` has complex numbers; expected real ones. Complex data not supported")
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as e:
            raise NoNumbers(f"`{name}` holds objects that are no numbers: {e}") from e
    if array.dtype.kind not in "fiub":
        raise Error(f"`{name}` has the dtype {array.dtype}; expected numbers")
    if array.ndim != 2:
        hint = " Reshape your data with `reshape(-1, 1)` or `reshape(1, -1)`" if array.ndim == 1 else ""
        found = f"{array.ndim} axes, of shape {array.shape}"
        raise Error(f"`{name}` has {found}; expected 2: samples and features.{hint}")
    wide = array.dtype.kind in "iub" or array.dtype.itemsize >= 8
    dtype = np.float32 if single or not wide else np.float64
    with np.errstate(over="ignore"):
        return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def label_array(value: Any, name: str) -> np.ndarray:
    """One label for each sample, as they were given. One-hot rows count as the class of their 1."""
    array = _array(value, name)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim == 2:
        hot = array.dtype.kind in "fiub" and np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()
        if not hot:
            raise Error(f"`{name}` has the shape {array.shape}; expected one label for each sample, or one-hot rows")
        return array.argmax(axis=1)
    if array.ndim != 1:
        raise Error(f"`{name}` has {array.ndim} axes, of shape {array.shape}; expected one label for each sample")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise Error(f"`{name}` has a label that is not finite. Input contains NaN or infinity")
        if (array != np.floor(array)).any():
            raise Error(f"`{name}` has fractions: unknown label type: continuous; expected classes")
    if array.dtype.kind not in "fiubUSO":
        raise Error(f"`{name}` has the dtype {array.dtype}; expected classes: integers or strings")
    return array


class Labels:
    """The classes of some labels, and numbers for them."""

    def __init__(self, classes: np.ndarray) -> None:
        self.classes = classes

    @staticmethod
    def of(value: Any, name: str) -> tuple[Labels, np.ndarray]:
        """The classes of the labels, ascending, and the number of each label's class."""
        given = label_array(value, name)
        try:
            classes, numbers = np.unique(given, return_inverse=True)
        except TypeError as e:
            raise Error(f"`{name}` mixes types that cannot be ordered: {e}") from e
        return Labels(classes), numbers.reshape(-1).astype(np.uint32)

    def numbers(self, value: Any, name: str) -> np.ndarray:
        """The numbers of the classes of further labels."""
        given = label_array(value, name)
        if given.dtype.kind != self.classes.dtype.kind and "U" in (given.dtype.kind, self.classes.dtype.kind):
            raise Error(f"`{name}` has labels of the dtype {given.dtype}; the training labels are {self.classes.dtype}")
        places = np.searchsorted(self.classes, given).clip(0, max(len(self.classes) - 1, 0))
        known = self.classes[places] == given
        if not np.all(known):
            other = given[~known][0]
            raise Error(f"`{name}` has the label {other!r}, which no training sample has")
        return places.astype(np.uint32)

    @property
    def names(self) -> list[str]:
        """The names of the classes."""
        return [str(name) for name in self.classes.tolist()]

    def labels(self, numbers: np.ndarray) -> np.ndarray:
        """The labels of classes that are given by numbers."""
        return self.classes[numbers]


def same_length(features: np.ndarray, labels: np.ndarray, names: tuple[str, str]) -> None:
    """Requires as many labels as rows of features."""
    if len(features) != len(labels):
        raise Error(
            f"`{names[0]}` has {len(features)} samples and `{names[1]}` {len(labels)} labels; expected as many. "
            "Found input variables with inconsistent numbers of samples"
        )


def pair(given: Any, name: str, labels: Labels) -> tuple[np.ndarray, np.ndarray] | None:
    """A pair of features and labels, such as ``test=(features, labels)``."""
    if given is None:
        return None
    try:
        features, own = given
    except (TypeError, ValueError):
        raise Error(f"`{name}` is {type(given).__name__}; expected a pair: features and labels") from None
    features, numbers = floats(features, name, single=True), labels.numbers(own, name)
    same_length(features, numbers, (name, name))
    return features, numbers


def plain(where: str) -> Callable[[Any], Any]:
    """What JSON lacks, as what a spec can have: scalars and arrays of NumPy's, paths, mappings."""

    def of(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, Mapping):
            return dict(value)
        raise Error(f"{where}: {value!r} is a {type(value).__name__}; expected a value that a spec can have")

    return of


def table(fields: dict[str, Any], where: str) -> str:
    """Keywords as a table of a spec, in JSON. A keyword that is None is left out."""
    try:
        return json.dumps({k: v for k, v in fields.items() if v is not None}, default=plain(where), allow_nan=False)
    except ValueError as e:
        if isinstance(e, Error):
            raise
        raise Error(f"{where}: a field is not finite; expected a finite number") from e
