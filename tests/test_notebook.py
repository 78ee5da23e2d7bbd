"""The notebook in examples/ runs from top to bottom without a network, and is kept as a run left it, small."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from test_docs import ROOT

nbformat = pytest.importorskip("nbformat")

NOTEBOOK = ROOT / "examples/start.ipynb"


def kinds(cell: Any) -> set[str]:
    """What a cell gives: ``text`` that it prints, and the formats of what it shows."""
    return {
        kind
        for output in cell.outputs
        for kind in (["text"] if output.output_type == "stream" else output.get("data", {}))
        if output.get("name") != "stderr"
    }


def text_of(cell: Any) -> str:
    """What a cell prints and shows as text."""
    return "".join(
        output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
    )


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.timeout(600)
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell gives what it gives in the repository, and the exported file is the model."""
    nbclient = pytest.importorskip("nbclient")
    for package in ("ipykernel", "accelerate", "tensorboard", "timm", "onnx", "onnxruntime", "matplotlib"):
        pytest.importorskip(package)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    kept = nbformat.read(NOTEBOOK, as_version=4)
    run = nbformat.from_dict(kept)
    for cell in code(run):
        cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(run, timeout=500, kernel_name="python3", resources=resources).execute()
    assert [kinds(cell) for cell in code(run)] == [kinds(cell) for cell in code(kept)]
    said = "".join(map(text_of, code(run)))
    assert "{'train': 4, 'val': 1, 'test': 1}" in said and "passed: True" in said
    assert "12 adapters swapped, 0 left as they were" in said


def test_it_is_kept_as_a_run_left_it() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 300_000
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in kinds(cell) for cell in cells) == 2
    for cell in cells:
        assert all(output.output_type != "error" and output.get("name") != "stderr" for output in cell.outputs)
        assert not re.search(r"(?<![\w./])/\w+/", cell.source + text_of(cell)), "a path from the root"
