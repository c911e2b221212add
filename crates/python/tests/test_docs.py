"""The examples of README.md and docs/python.md, run as they are."""

import importlib.util
import re
from pathlib import Path

import hemlock
import pytest
from conftest import clusters
from test_images import Linear, small

ROOT = Path(__file__).parents[3]
FENCE = re.compile(r"^```(?:py|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks():
    """The examples, but for the README's of exports, and for that of a whole pipeline."""
    for page in ("README.md", "docs/python.md"):
        for number, text in enumerate(FENCE.findall((ROOT / page).read_text())):
            if "safetensors" not in text and "quickstart" not in text:
                yield pytest.param(text, id=f"{page}-{number}")


@pytest.mark.parametrize("text", list(blocks()))
def test_an_example_runs(text, tmp_path, monkeypatch):
    if "adapters.art" in text and importlib.util.find_spec("art") is None:
        pytest.skip("there is no art")
    monkeypatch.chdir(tmp_path)
    images, classes = small(100)
    test_images, test_classes = small(60, seed=1)
    features, labels = clusters(200, 6, 3, seed=0)
    test_features, test_labels = clusters(90, 6, 3, seed=1)
    model = Linear(8, 5).pair
    names = {"features": features, "labels": labels, "test_features": test_features, "test_labels": test_labels}
    if "images" in text:
        names |= {"images": images, "labels": classes, "test_images": test_images, "test_labels": test_classes}
    names |= {"hemlock": hemlock, "model": model, "x": images, "y": classes}
    exec(text, names)


def test_there_are_examples():
    assert len(list(blocks())) >= 4
