"""Models of timm's: they say their normalisation and their size."""

from __future__ import annotations

from typing import Any, Callable


def is_model(model: Any) -> bool:
    """Whether this is a model of timm's."""
    return hasattr(model, "pretrained_cfg") and hasattr(model, "forward_features") and hasattr(model, "forward_head")


def about(model: Any) -> dict[str, Any]:
    """Mean, standard deviation and size, as far as the model says them."""
    said = model.pretrained_cfg or {}
    size = said.get("input_size")
    blocks = getattr(getattr(model, "patch_embed", None), "img_size", None)
    name = said.get("architecture") or type(model).__name__
    return {
        "name": name,
        "mean": said.get("mean"),
        "std": said.get("std"),
        # Positions of a transformer are of the size that the model was made for, whatever its weights were trained on.
        "image_size": tuple(blocks) if blocks is not None else tuple(size[1:]) if size else None,
    }


def forward(model: Any) -> Callable[[Any], Any]:
    """The features before the classifier."""
    return lambda images: model.forward_head(model.forward_features(images), pre_logits=True)
