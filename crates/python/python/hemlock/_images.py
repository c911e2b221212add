"""What users give as images, as the arrays that the native module takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import _array
from ._hemlock import Error

# How far a float may be from a grey level, in grey levels.
_OFF = 0.02


class Images:
    """8-bit RGB images, ``[n, 3, height, width]`` in C order. They are the given memory if they are such already, and a
    copy otherwise."""

    def __init__(self, value: Any, name: str = "images") -> None:
        array = _array(value, name)
        if array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]):
            hint = "; grey ones are `np.repeat(images[:, None], 3, axis=1)`" if array.ndim == 3 else ""
            found = f"the shape {array.shape}"
            raise Error(f"`{name}` has {found}; expected images [n, 3, height, width] or [n, height, width, 3]{hint}")
        if 0 in array.shape:
            raise Error(f"`{name}` has the shape {array.shape}; expected at least one image with pixels")
        self.last = array.shape[1] != 3
        """Whether channels were the last axis."""
        self.pixels = np.ascontiguousarray(_bytes(array.transpose(0, 3, 1, 2) if self.last else array, name))

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def as_given(self, images: np.ndarray) -> np.ndarray:
        """Images with their channels where they were given."""
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.last else images


def _bytes(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "fiu":
        raise Error(f"`{name}` has the dtype {array.dtype}; expected 8-bit pixels, or floats from 0 to 1")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Error(f"`{name}` has a pixel that is not finite; expected 8-bit pixels, or floats from 0 to 1")
    floats = array.dtype.kind == "f"
    most = 1 if floats else 255
    if low < 0 or high > most:
        expected = "floats from 0 to 1, before any normalisation" if floats else "0 to 255"
        raise Error(f"`{name}` has pixels from {low} to {high}; expected {expected}")
    if not floats:
        return array.astype(np.uint8)
    levels = array * array.dtype.type(255)
    whole = np.rint(levels)
    if np.abs(levels - whole).max() > _OFF:
        advice = "poisons and what they are made of are 8-bit images: `np.rint(255 * images).astype('uint8')`"
        raise Error(f"`{name}` has pixels between grey levels; {advice}")
    return whole.astype(np.uint8)
