"""Hemlock's attacks as a poisoning attack of the Adversarial Robustness Toolbox: ``pip install
adversarial-robustness-toolbox``, and import this module by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
from art.attacks.attack import PoisoningAttackWhiteBox

from .._attack import attack as _attack
from .._hemlock import Error
from .._poison_images import attack_images as _attack_images


class HemlockPoisoningAttack(PoisoningAttackWhiteBox):
    """An indiscriminate attack on a linear head, on the features of a frozen extractor.

    ``poison(x, y)`` takes the clean training set and returns the poisons with their labels, which the caller adds to
    it. ``x`` are features ``[n, d]``, or 8-bit images, or floats from 0 to 1 that are such images divided by 255, for
    which ``extractor`` is needed: what :func:`hemlock.extractor` takes. Labels are indices or one-hot rows, and come
    back as they were given.

    Parameters
    ----------
    classifier : not used, as the head is trained anew; other attacks of the toolbox have it in the same place.
    extractor : the extractor of images.
    attack, poison_fraction, seed : as in :func:`hemlock.attack`.
    fields : further fields of ``[poison-features]`` or ``[[poison-images]]``, as a dictionary.
    """

    attack_params = PoisoningAttackWhiteBox.attack_params + ["extractor", "attack", "poison_fraction", "seed", "fields"]
    _estimator_requirements = ()

    def __init__(
        self,
        classifier: Any = None,
        extractor: Any = None,
        attack: str = "bilevel",
        poison_fraction: float = 0.03,
        seed: int = 0,
        fields: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(classifier=classifier)
        self.extractor = extractor
        self.attack = attack
        self.poison_fraction = poison_fraction
        self.seed = seed
        self.fields = fields
        self._check_params()

    def poison(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        """The poisons, and their labels. ``kwargs`` are further fields."""
        if y is None:
            raise Error("`y` is None; expected the labels of the clean training set")
        x, y = np.asarray(x), np.asarray(y)
        own = {"attack": self.attack, "poison_fraction": self.poison_fraction, "seed": self.seed}
        own |= {**(self.fields or {}), **kwargs}
        if x.ndim == 4:
            if self.extractor is None:
                raise Error("`x` has images; expected an `extractor`, or features")
            made = _attack_images(x, y, self.extractor, **own)
            poisons = made.images / x.dtype.type(255) if x.dtype.kind == "f" else made.images
        else:
            made = _attack(x, y, **own)
            poisons = made.features
        labels = made.labels
        if y.ndim == 2 and y.shape[1] > 1:
            labels = np.eye(y.shape[1], dtype=y.dtype)[labels]
        return poisons.astype(x.dtype, copy=False), labels

    def _check_params(self) -> None:
        super()._check_params()
        if self.fields is not None and not isinstance(self.fields, dict):
            raise Error(f"`fields` is {type(self.fields).__name__}; expected a dictionary")
