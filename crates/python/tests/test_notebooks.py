"""The notebooks: each runs without a network, in less than a minute, and has its outputs kept."""

import json
import time
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[3] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    if any("import timm" in cell.source for cell in notebook.cells):
        pytest.importorskip("timm")
    begun = time.monotonic()
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    took = time.monotonic() - begun
    assert took < 120, f"it took {took:.0f} s; a minute is meant, and twice that is allowed where others work, too"
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and not any(output.get("name") == "stderr" for output in outputs), outputs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_readable_as_it_is(path):
    """Outputs are kept, in the order of their cells, and name nobody's folders."""
    text = path.read_text()
    assert len(text) < 1 << 20 and "/home/" not in text and "/tmp/" not in text and "/root/" not in text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell["outputs"]) for cell in cells) > len(cells) // 2
    errors = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert not errors
