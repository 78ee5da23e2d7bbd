"""Exports of models with several classes."""

from __future__ import annotations

from pathlib import Path

import pytest

import ht_kernels as ht
from helpers.exports import some_frames
from helpers.small_models import small_model
from ht_kernels.deploy import Session, read_manifest
from ht_kernels.deploy.gate import check_onnx, check_session
from ht_kernels.deploy.onnx import export_onnx

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("output", ["logits", "mask", "grid"])
@pytest.mark.parametrize("classes", [3, 32])
def test_names_and_the_gate(classes: int, output: str, tmp_path: Path) -> None:
    """A file that takes one class of many for another does not pass."""
    pytest.importorskip("onnxruntime")
    names = ("background", *(f"class {i}" for i in range(1, classes)))
    folded = ht.fold(small_model(num_classes=classes, class_names=names).float())
    frames, path = some_frames(folded, 4), tmp_path / "model.onnx"
    folded.pyramid_bias -= folded(frames).mean((0, 2, 3))  # so that every class wins somewhere
    export_onnx(folded, path, output=output, batch=(1, 2, 4))
    assert read_manifest(tmp_path / "model.json").class_names == names
    session = Session.open(path, runtime="onnxruntime")
    assert session.class_names == Session.open(folded, runtime="cpu").class_names == names
    assert session.num_classes == classes
    reports = check_onnx(folded, path, frames), check_session(folded, path, frames)
    assert all(report.passed and len(report.classes or ()) > 2 for report in reports)
    used = sorted(set(reports[0].classes or ()))
    folded.pyramid_bias[[used[0], used[1]]] = folded.pyramid_bias[[used[1], used[0]]] + 1
    assert not check_session(folded, path, frames).passed
