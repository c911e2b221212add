"""Modules of PyTorch's, as extractors."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from .._hemlock import Error


def is_module(model: Any) -> bool:
    """Whether this is a module of PyTorch's. PyTorch is not imported for that."""
    names = [(kind.__module__, kind.__qualname__) for kind in type(model).__mro__]
    return ("torch.nn.modules.module", "Module") in names


class ModuleFunctions:
    """Features and gradients of a module, on the device that it is on.

    ``forward`` maps normalised images ``[n, 3, h, w]`` to features ``[n, d]``, and ``mean`` and ``std`` are the
    normalisation. The module stays as it is: nothing is trained, and its parameters get no gradients.
    """

    def __init__(self, module: Any, forward: Callable[[Any], Any], mean: Any, std: Any) -> None:
        import torch

        training = next((name for name, part in module.named_modules() if part.training), None)
        if training is not None:
            part = f"its part `{training}` is" if training else "it is"
            raise Error(f"the module is no frozen extractor: {part} in training mode; call `.eval()` first")
        self._torch, self._module, self._forward = torch, module, forward
        self._mean, self._std = mean, std

    def _tensor(self, array: np.ndarray) -> Any:
        """An array, where the module is: memory is shared on a processor."""
        found = next(iter(self._module.parameters()), None)
        if found is None:
            found = next(iter(self._module.buffers()), None)
        tensor = self._torch.from_dlpack(array)
        return tensor if found is None or not found.is_floating_point() else tensor.to(found.device, found.dtype)

    def _features(self, images: Any) -> Any:
        channel = (1, 3, 1, 1)
        if self._mean is not None:
            images = images - self._torch.as_tensor(self._mean, device=images.device, dtype=images.dtype).view(channel)
        if self._std is not None:
            images = images / self._torch.as_tensor(self._std, device=images.device, dtype=images.dtype).view(channel)
        made = self._forward(images)
        if not isinstance(made, self._torch.Tensor):
            found = type(made).__name__
            raise Error(f"the module returns {found}; expected a tensor of features [n, d] (`output=` takes it out)")
        if made.ndim > 2 and made.shape[2:].numel() == 1:
            made = made.flatten(1)
        if made.ndim != 2 or made.shape[0] != images.shape[0]:
            expected = f"[{images.shape[0]}, d]"
            raise Error(f"the module returns the shape {list(made.shape)}; expected features {expected}")
        return made

    def _array(self, tensor: Any) -> np.ndarray:
        return np.ascontiguousarray(tensor.detach().to("cpu", self._torch.float32).numpy())

    def forward(self, images: np.ndarray) -> np.ndarray:
        with self._torch.no_grad():
            return self._array(self._features(self._tensor(images)))

    def forward_kept(self, images: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        with self._torch.enable_grad():
            pixels = self._tensor(images).detach().requires_grad_()
            made = self._features(pixels)
        if not made.requires_grad:
            raise Error("the features do not depend on the pixels; does the module work without gradients?")

        def back(gradient: np.ndarray) -> np.ndarray:
            by = self._tensor(gradient).to(made.dtype)
            (found,) = self._torch.autograd.grad(made, pixels, by)
            return self._array(found)

        return self._array(made), back

    def vjp(self, images: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return self.forward_kept(images)[1](gradient)
