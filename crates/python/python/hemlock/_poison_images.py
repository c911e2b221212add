"""Poisoned images: inversions of poisoned features, and attacks on pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping

import numpy as np

from . import _hemlock
from ._arrays import floats, same_length, table
from ._attack import Poisons, Target, _fields, _Given
from ._extractor import Extractor, extractor as _extractor_of, features as _features_of
from ._hemlock import Error
from ._images import Images
from ._progress import shown


@dataclass(frozen=True)
class PoisonImages:
    """Poisons as 8-bit images."""

    images: np.ndarray
    """The images, with their channels where those of the training images are."""
    labels: np.ndarray
    """The labels, ``[m]``."""
    source: np.ndarray
    """The row of the training image that each poison is made of, ``[m]``."""
    features: np.ndarray = field(repr=False)
    """The features of the images, as a head sees them, ``[m, d]``."""
    measures: dict[str, np.ndarray] = field(repr=False)
    """How well each image was matched, and how usual its features are: ``start_distance``, ``distance``, ``outside``,
    ``norm_z``, ``nearest_z``, ``passes``, ``outlier`` and others, ``[m]`` each."""
    info: dict[str, Any] = field(repr=False)
    """What the artifact of the stage says, such as ``relative_distance``, ``outside`` and ``outliers``."""
    pixels: np.ndarray | None = field(default=None, repr=False)
    """With ``clip=False``: the pixels that victims train on, which no image file can hold."""
    target: Target | None = field(default=None, repr=False)
    """What the attack aimed at."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def poisons(self) -> Poisons:
        """The features of these images as poisons, as :func:`evaluate` takes them."""
        return Poisons(self.features, self.labels, self.source, {}, self.target)

    @property
    def curve(self) -> np.ndarray:
        """The objective of feature matching, and of refinement or of an attack on pixels behind it, ``[points, 2]``."""
        points = [(point["step"], point["objective"]) for name in ("curve", "refined") for point in self.info[name]]
        return np.asarray(points, np.float64).reshape(-1, 2)

    def added_to(self, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """A poisoned training set: the clean images, and the poisons behind them. Floats are images divided by 255."""
        clean = np.asarray(images)
        added = self.images / clean.dtype.type(255) if clean.dtype.kind == "f" else self.images
        return np.concatenate([clean, added]), np.concatenate([np.asarray(labels), self.labels])


class _Pictured:
    """A training set of images, with the features of these."""

    def __init__(self, images: Any, labels: Any, extractor: Any, given: Any, validation: Any, progress: Any) -> None:
        self.extractor: Extractor = _extractor_of(extractor)
        self.images: Images = self.extractor.images(images)
        made = _features_of(self.images, self.extractor, progress=progress) if given is None else given
        self.data = _Given(floats(made, "features", single=True), labels, validation)
        same_length(self.images.pixels, self.data.numbers, ("images", "labels"))

    def made(self, made: tuple, target: Target | None) -> PoisonImages:
        images, pixels, numbers, source, fits, passes, found, about = made
        info = json.loads(about)
        measures = dict(zip(info.pop("measures"), np.ascontiguousarray(fits.T)))
        measures |= {"passes": passes, "outlier": np.asarray(info.pop("outlier"), bool)}
        return PoisonImages(
            self.images.as_given(images),
            self.data.labels.labels(numbers),
            source.astype(np.int64),
            found,
            measures,
            info,
            None if pixels is None else self.images.as_given(pixels),
            target,
        )


def invert(
    poisons: Any,
    extractor: Any,
    images: Any,
    labels: Any,
    *,
    method: str = "feature-matching",
    features: Any = None,
    decoder: Mapping[str, Any] | bool | None = None,
    target: Target | None = None,
    seed: int = 0,
    progress: Any = False,
    **fields: Any,
) -> PoisonImages:
    """Makes images whose features are the poisoned ones.

    Parameters
    ----------
    poisons : :class:`Poisons` of :func:`attack`, or of another tool with a ``source`` for each.
    extractor : an :class:`Extractor`, or what :func:`extractor` takes. Its normalisation has to be that of the features
        which were attacked.
    images, labels : the training set, 8-bit RGB.
    features : its features, if they are there already, as the attack was given them; by default they are extracted.
    decoder : the fields of ``[decoder]``, or True for their defaults. With ``start="decoder"`` or
        ``method="decoder"``, a decoder is trained on the training images, each time; a tenth of them is held out.
    fields : all other fields of ``[[invert]]``, such as ``linf``, ``beta``, ``steps``, ``restarts`` and ``refine``.
    """
    given = _Pictured(images, labels, extractor, features, None, progress)
    of, native = given.data.poisons(poisons)
    if of.source is None:
        advice = "give `Poisons(features, labels, source)`"
        raise Error(f"`poisons` do not say which training image each is made of; {advice}")
    aim = of.target if target is None else target
    if of.info.get("spec") is None and fields.get("refine"):
        raise Error("`refine` goes on with the attack that made the poisons; expected poisons of `hemlock.attack`")
    training = None
    if decoder is not None and decoder is not False:
        training = table({} if decoder is True else _fields(decoder, "decoder"), "decoder")
    tables = (table({"method": method, **fields}, "invert"), training)
    aims = None if aim is None else given.data.target(aim, None, seed, progress)._native()
    made = _hemlock.invert(
        given.extractor._native, given.data.data, given.images.pixels, native, aims, tables, seed, shown(progress)
    )
    return given.made(made, aim)


def attack_images(
    images: Any,
    labels: Any,
    extractor: Any,
    *,
    attack: str = "bilevel",
    poison_fraction: float = 0.03,
    constraint: str = "none",
    features: Any = None,
    target: Target | Mapping[str, Any] | None = None,
    weight_decay: float | None = None,
    validation: Any = None,
    seed: int = 0,
    progress: Any = False,
    **fields: Any,
) -> PoisonImages:
    """Finds poisoned images in pixels, through an extractor, with no features aimed at.

    Parameters
    ----------
    images, labels : the training set, 8-bit RGB.
    extractor : an :class:`Extractor`, or what :func:`extractor` takes.
    features : the features of the images, if they are there already; by default they are extracted.
    attack, poison_fraction, constraint, target, weight_decay, validation : as in :func:`attack`; ``validation`` is a
        pair of features and labels.
    fields : all other fields of ``[[poison-images]]``, such as ``linf``, ``beta`` and ``steps``, and those of the
        attack. The field ``labels`` is ``poison_labels`` here.
    """
    given = _Pictured(images, labels, extractor, features, validation, progress)
    if "poison_labels" in fields:
        fields["labels"] = fields.pop("poison_labels")
    fields = {"attack": attack, "poison_fraction": poison_fraction, "constraint": constraint, **fields}
    aim = given.data.target(target, weight_decay, seed, progress)
    own = table(fields, "attack_images")
    made = _hemlock.attack_images(
        given.extractor._native, given.data.data, given.images.pixels, aim._native(), own, seed, shown(progress)
    )
    return given.made(made, aim)
