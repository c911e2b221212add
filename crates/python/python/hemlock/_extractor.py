"""Frozen extractors: images in, features out."""

from __future__ import annotations

import os
from typing import Any, Callable

import numpy as np

from . import _hemlock
from ._arrays import _array, table
from ._hemlock import Error
from ._images import Images
from ._pipeline import Artifact
from ._progress import shown
from .adapters import timm, torch, transformers


class Extractor:
    """A frozen extractor of features, and the normalisation of these before a head sees them. :func:`extractor` makes
    one."""

    def __init__(self, native: Any, name: str, image_size: tuple[int, int] | None) -> None:
        self._native = native
        self.name = name
        """The name, which errors show."""
        self.image_size = image_size
        """Height and width of the images that it takes; None if any will do."""

    @property
    def normalization(self) -> tuple[str, tuple[np.ndarray, np.ndarray] | None]:
        """The name of the normalisation, ``none``, ``standardize`` or ``l2``; and its shift and scale, if it has them:
        a head sees ``(z - shift) * scale``."""
        return self._native.normalization

    def standardized(self, images: Any, *, progress: Any = False) -> Extractor:
        """The same extractor, whose features have mean 0 and standard deviation 1 over these images. They are the
        training images; test images choose nothing."""
        self._plain()
        return self._with(self._native.standardized(features(images, self, progress=progress)))

    def of_length_one(self) -> Extractor:
        """The same extractor, whose features are divided by their L2 norm."""
        self._plain()
        return self._with(self._native.of_length_one())

    def _plain(self) -> None:
        if self.normalization[0] != "none":
            raise Error(f"the extractor is normalised already, by `{self.normalization[0]}`; expected one that is not")

    def _with(self, native: Any) -> Extractor:
        return Extractor(native, self.name, self.image_size)

    def images(self, images: Any, name: str = "images") -> Images:
        """Images, if they are of the size that the extractor takes."""
        given = images if isinstance(images, Images) else Images(images, name)
        if self.image_size is not None and given.size != tuple(self.image_size):
            (height, width), (h, w) = given.size, self.image_size
            raise Error(
                f"`{name}` has images of {height} x {width} pixels, and `{self.name}` takes {h} x {w}; resize them, or "
                "give `image_size=` if it takes others as well"
            )
        return given

    def __call__(self, images: Any) -> np.ndarray:
        return features(images, self)

    def __repr__(self) -> str:
        size = "any size" if self.image_size is None else "{} x {} pixels".format(*self.image_size)
        return f"Extractor({self.name!r}, {size}, normalization={self.normalization[0]!r})"


class _Callables:
    """Features and gradients by functions of NumPy's arrays."""

    def __init__(self, forward: Callable[..., Any], vjp: Callable[..., Any] | None) -> None:
        self._forward, self._vjp = forward, vjp

    def forward(self, images: np.ndarray) -> np.ndarray:
        return _numbers(self._forward(images), "the function of features")

    def forward_kept(self, images: np.ndarray) -> tuple[np.ndarray, None]:
        return self.forward(images), None

    def vjp(self, images: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        if self._vjp is None:
            expected = "a pair of functions, `features(images)` and `vjp(images, gradient)`"
            raise Error(f"it has no gradients; expected {expected}")
        return _numbers(self._vjp(images, gradient), "the function of gradients")


def _numbers(value: Any, who: str) -> np.ndarray:
    """What a function has returned, in 32 bits and C order."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        value = value.detach().cpu()
    array = _array(value, who)
    if array.dtype.kind not in "fiub":
        raise Error(f"{who} returns the dtype {array.dtype}; expected an array of numbers")
    with np.errstate(over="ignore"):
        return np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def extractor(
    model: Any,
    *,
    mean: Any = None,
    std: Any = None,
    image_size: int | tuple[int, int] | str | None = None,
    output: Callable[[Any], Any] | None = None,
    processor: Any = None,
    name: str | None = None,
    keep: int = 0,
    device: str = "flex",
    progress: Any = False,
    **fields: Any,
) -> Extractor:
    """A frozen extractor, of one of these:

    - a module of PyTorch's, in evaluation mode, on any device. Of a model of timm's, the features before its
      classifier are taken, and its own mean, std and size. A model of transformers' says its size, and its
      ``processor`` the rest;
    - a pair of functions, ``features(images)`` and ``vjp(images, gradient)``. They are called with 32-bit arrays:
      images ``[n, 3, h, w]`` from 0 to 1, and gradients with respect to the features ``[n, d]``; the second returns
      the gradient with respect to the images. One function alone has no gradients, and is enough for
      :func:`features`;
    - the path of a checkpoint, or of a folder of transformers', timm's or OpenCLIP's: ``fields`` are those of
      ``[pretrain]`` with ``method = "import"``, such as ``arch`` and ``probe``;
    - an artifact of the stage ``pretrain``, of :func:`hemlock.artifacts`.

    Parameters
    ----------
    mean, std : three numbers each, for pixels from 0 to 1. A module without them sees such pixels as they are.
    image_size : the height and width of the images, or ``"any"``; by default what the model says.
    output : takes features ``[n, d]`` out of what a module returns.
    keep : forward passes of 32 images that a module may keep at once, to save a second one in refinement.
    device : the device of networks of Hemlock's. A module stays on its own.
    """
    if isinstance(model, Extractor):
        return model
    if isinstance(model, (str, os.PathLike)):
        return _imported(os.fspath(model), mean, std, image_size, name, device, progress, fields)
    if fields:
        raise Error(f"unknown field `{next(iter(fields))}`: only checkpoints have fields of `[pretrain]`")
    if isinstance(model, Artifact):
        return _stored(model, name, device)
    size = None if image_size in (None, "any") else _size(image_size)
    if torch.is_module(model):
        return _module(model, mean, std, image_size, output, processor, name, keep, device)
    if mean is not None or std is not None:
        raise Error("`mean` and `std` are for modules; functions are called with pixels from 0 to 1")
    forward, vjp = model if isinstance(model, (tuple, list)) and len(model) == 2 else (model, None)
    if not callable(forward) or not (vjp is None or callable(vjp)):
        expected = "a module of PyTorch's, a pair of functions, the path of a checkpoint, or an artifact"
        raise Error(f"`extractor` is {type(model).__name__}; expected {expected}")
    named = name or getattr(forward, "__name__", type(forward).__name__)
    native = _hemlock.Extractor.functions(_Callables(forward, vjp), named, 0, device)
    return Extractor(native, named, size)


def _size(given: Any) -> tuple[int, int]:
    try:
        height, width = (given, given) if isinstance(given, int) else given
        return int(height), int(width)
    except (TypeError, ValueError):
        raise Error(f"`image_size` is {given!r}; expected a number, a height and a width, or 'any'") from None


def _channels(given: Any, name: str) -> list[float] | None:
    if given is None:
        return None
    array = _array(given, name).astype(np.float64)
    if array.shape != (3,) or not np.isfinite(array).all() or (name == "std" and (array <= 0).any()):
        raise Error(f"`{name}` is {given!r}; expected three numbers{' above 0' if name == 'std' else ''}")
    return array.tolist()


def _module(
    model: Any, mean: Any, std: Any, image_size: Any, output: Any, processor: Any, name: Any, keep: int, device: str
) -> Extractor:
    said: dict[str, Any] = {"name": type(model).__name__}
    forward = model
    if timm.is_model(model):
        said, forward = timm.about(model), timm.forward(model)
    elif transformers.is_model(model):
        said, forward = transformers.about(model, processor), transformers.forward(model)
        if None in (said["mean"], said["std"]) and None in (mean, std):
            expected = "give its `processor=`, or `mean=` and `std=`"
            raise Error(f"`{said['name']}` does not say its normalisation; {expected}")
    if output is not None:
        forward = _then(model, output)
    mean, std = (_channels(said.get(n) if v is None else v, n) for v, n in ((mean, "mean"), (std, "std")))
    size = said.get("image_size") if image_size is None else None if image_size == "any" else _size(image_size)
    named = name or said["name"]
    functions = torch.ModuleFunctions(model, forward, mean, std)
    return Extractor(_hemlock.Extractor.functions(functions, named, int(keep), device), named, size)


def _then(model: Any, output: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda images: output(model(images))


def _imported(
    path: str, mean: Any, std: Any, image_size: Any, name: Any, device: str, progress: Any, fields: dict[str, Any]
) -> Extractor:
    place = "path" if os.path.isdir(path) else "weights"
    given = {"mean": _channels(mean, "mean"), "std": _channels(std, "std"), "image_size": image_size, **fields}
    given |= {"method": "import", place: os.path.abspath(path)}
    if given.get("probe") is not None:
        given["probe"] = os.path.abspath(os.fspath(given["probe"]))
    native = _hemlock.Extractor.imported(table(given, "extractor"), device, shown(progress))
    return _native(native, name)


def _stored(artifact: Artifact, name: Any, device: str) -> Extractor:
    if artifact.stage != "pretrain":
        raise Error(f"the artifact is of the stage `{artifact.stage}`; expected one of `pretrain`")
    root = os.path.dirname(os.path.dirname(os.path.abspath(artifact.folder)))
    return _native(_hemlock.Extractor.stored(root, artifact.key, device), name)


def _native(native: Any, name: Any) -> Extractor:
    arch, size = native.network_of
    return Extractor(native, name or arch, (size, size))


def features(images: Any, extractor: Any, *, progress: Any = False) -> np.ndarray:
    """Features ``[n, d]`` of images, in 32 bits, as a head sees them.

    ``images`` are 8-bit RGB, ``[n, 3, height, width]`` or ``[n, height, width, 3]``, or floats from 0 to 1 that are
    such images divided by 255. ``extractor`` is an :class:`Extractor`, or what :func:`extractor` takes.
    """
    of = _extractor_of(extractor)
    return _hemlock.features(of._native, of.images(images).pixels, shown(progress))


# The parameters of these functions have the name of the one above.
_extractor_of = extractor
