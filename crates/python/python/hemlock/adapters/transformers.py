"""Models of transformers': their configuration says the size, and a processor of images the normalisation."""

from __future__ import annotations

from typing import Any, Callable

from .._hemlock import Error


def is_model(model: Any) -> bool:
    """Whether this is a model of transformers'."""
    return any(kind.__module__.startswith("transformers.") for kind in type(model).__mro__)


def about(model: Any, processor: Any) -> dict[str, Any]:
    """Mean, standard deviation and size, as far as the model and the processor say them."""
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None)
    if processor is not None:
        said = getattr(processor, "crop_size", None) or getattr(processor, "size", None) or {}
        size = said.get("height", size) if hasattr(said, "get") else size
    return {
        "name": type(model).__name__,
        "mean": getattr(processor, "image_mean", None),
        "std": getattr(processor, "image_std", None),
        "image_size": (size, size) if isinstance(size, int) else tuple(size) if size is not None else None,
    }


def forward(model: Any) -> Callable[[Any], Any]:
    """The features of images: projected ones, then what the model pools, then the class token. A layer behind the
    class token that is there to be trained on (BERT's pooler) is passed by."""
    if hasattr(model, "get_image_features"):
        return lambda images: _of(model.get_image_features(pixel_values=images))
    trained = hasattr(getattr(model, "pooler", None), "dense")

    def features(images: Any) -> Any:
        made = model(pixel_values=images)
        hidden = getattr(made, "last_hidden_state", None)
        return hidden[:, 0] if trained and hidden is not None else _of(made)

    return features


def _of(made: Any) -> Any:
    for name in ("image_embeds", "pooler_output"):
        found = getattr(made, name, None)
        if found is not None:
            return found
    hidden = getattr(made, "last_hidden_state", None)
    if hidden is not None and hidden.ndim == 3:
        return hidden[:, 0]
    if hidden is None and hasattr(made, "logits"):
        raise Error("the model returns logits alone; expected a model without a classifier, or `output=`")
    return made
