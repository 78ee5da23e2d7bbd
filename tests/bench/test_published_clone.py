"""The benchmark on a clone of the published code, for which a stand-in in the same folders takes the place here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import published_clone

pytestmark = pytest.mark.usefixtures("one_thread")

MONA = """
from helpers.published_stand_in import SequenceFirstAdapter, Wrapper, _replaced

def inject_mona_variant_to_open_clip(model, variant, bottleneck):
    blocks = model.visual.trunk.blocks
    for block in blocks:
        block.mona = Wrapper(SequenceFirstAdapter(32, bottleneck))
        block.forward = _replaced(block, block.forward)
    print("injected")
    return model, len(blocks)
"""
ADAPTER = """
from helpers.published_stand_in import TaskModel

class TimmCLIPAdapter(TaskModel):
    def __init__(self, clip_model, layers, img_size, patch_size, task):
        super().__init__(clip_model, "segmentation", (0, 1, 2), 2, 12)

    def freeze_clip_backbone(self):
        pass
"""


def test_it_measures_a_model_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from helpers.small_towers import IMAGE, small_tower

    for name, text in {"adapters/mona.py": MONA, "third_party/timm/clip_adapter.py": ADAPTER}.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True)
        (tmp_path / "src" / name).write_text(text)
    monkeypatch.setattr(published_clone, "FORMS", {"timm": "BiomedCLIP"})
    monkeypatch.setattr(published_clone, "_SIZE", IMAGE)
    monkeypatch.setattr(published_clone, "_LAYERS", (0, 1, 2))
    monkeypatch.setattr(published_clone, "_tower", lambda clone, form: small_tower("timm").float().visual)
    output = tmp_path / "clone.json"
    options = ["--batch", "2", "--seconds", "0", "--output", str(output)]
    assert published_clone.main([str(tmp_path), *options]) == 0
    assert "injected" not in capsys.readouterr().out
    (row,) = json.loads(output.read_text())["rows"]
    assert row["adapters"] == 4 and row["blocks_run"] == ["3 of 4"] and not row["left"] and row["error"] < 1e-5
    assert min(row["inference_seconds"].values()) > 0 and min(row["step_seconds"].values()) > 0
    assert row["there"] < 1e-5 and row["back"]
    assert "| timm (BiomedCLIP) | 2 | 4 | 3 of 4 |" in output.with_suffix(".md").read_text()
    assert published_clone.main([str(tmp_path / "none"), *options]) == 2
    assert "expected a clone of the published code" in capsys.readouterr().err
