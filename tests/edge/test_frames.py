"""Exported files over images and clips where torch is not installed, and where it is, but is not needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.clips import KNOWN, OTHER, calibrated, write_dicom
from helpers.not_installed import TORCH, run
from ht_kernels.deploy import export_onnx
from ht_kernels.weights import BREAST

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(300)]

NO_TORCH = "\nimport sys\nassert not {'torch', 'torchvision'} & set(sys.modules)\n"

PREDICT = """
import sys
import numpy as np
from ht_kernels.media.opening import open_file
from ht_kernels.prediction import Predictor
from ht_kernels.deploy import Session
from ht_kernels.video import Stream
model, clip, output = sys.argv[1:]
predictor = Predictor(model, unfamiliar="outline")
made = [*predictor(list(open_file(clip))), *predictor.frames(clip)]
session = Session.open(model, runtime="onnxruntime")
shown = list(Stream(session, smooth=0.4, crop="auto").run(open_file(clip)))
values = {}
for index, one in enumerate([*made, *shown]):
    for name in ("mask", "probability", "probabilities", "confidence", "distance", "percentile"):
        if getattr(one, name, None) is not None:
            values[f"{index} {name}"] = getattr(one, name)
    values[f"{index} overlay"] = one.overlay() if callable(one.overlay) else one.overlay
np.savez(output, **values)
"""

COMMAND = """
import sys
from ht_kernels.cli import main
status = main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dicom(tmp_path_factory.mktemp("clip") / "clip.dcm", np.stack([KNOWN, KNOWN[::-1], OTHER]))


@pytest.fixture(scope="module", params=["segmentation", "classification"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model; for segmentation its logits are on the patch grid."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(calibrated(request.param), path, output="grid" if request.param == "segmentation" else None)
    return path


def test_every_module_is_imported() -> None:
    """But for the one that runs folded models."""
    program = """
import importlib, pkgutil
import ht_kernels.media, ht_kernels.prediction, ht_kernels.video
for package in (ht_kernels.media, ht_kernels.prediction, ht_kernels.video):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name != "ht_kernels.video.folded_model":
            importlib.import_module(module.name)
    for name in package.__dict__.get("__all__", ()):
        getattr(package, name)
"""
    for hidden in ((), TORCH):
        done = run(program + NO_TORCH, hidden=hidden)
        assert done.returncode == 0, done.stderr


def test_predictors_and_streams(exported: Path, clip: Path, tmp_path: Path) -> None:
    """With torch, without it, and in a process that has loaded it."""
    for name, hidden, end in (("without", TORCH, NO_TORCH), ("with", (), NO_TORCH), ("loaded", (), "")):
        start = "" if end else "import torch\n"
        done = run(start + PREDICT + end, exported, clip, tmp_path / f"{name}.npz", hidden=hidden)
        assert done.returncode == 0, done.stderr
    without, *others = (np.load(tmp_path / f"{name}.npz") for name in ("without", "with", "loaded"))
    assert "0 probability" in without and "0 distance" in without and "2 probability" not in without
    for other in others:
        assert list(other) == list(without)
        assert all(np.array_equal(other[name], without[name]) for name in without)


def test_commands(exported: Path, clip: Path, tmp_path: Path) -> None:
    options = ["--runtime", "onnxruntime", "--crop", "auto", "--unfamiliar", "outline"]
    for name, hidden in (("without", TORCH), ("with", ())):
        folder = tmp_path / name
        predict = ["predict", clip, "--weights", exported, "--output", folder / "predicted", *options]
        stream = ["stream", clip, "--checkpoint", exported, "--output", folder / "streamed", *options]
        for arguments in (predict, stream):
            done = run(COMMAND + NO_TORCH + "sys.exit(status)", *arguments, hidden=hidden)
            assert done.returncode == 0, done.stderr
    told = "latency.png", "report.json", "settings.yaml", "predictions.json"  # times, places and versions
    files = [
        {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("without", "with")
    ]
    assert set(files[0]) == set(files[1]) and len(files[0]) > 6
    for name, path in files[0].items():
        assert name.name in told or path.read_bytes() == files[1][name].read_bytes(), name


@pytest.mark.parametrize("command", ["predict", "stream"])
def test_a_checkpoint_needs_torch(command: str, clip: Path, tmp_path: Path) -> None:
    option = "--weights" if command == "predict" else "--checkpoint"
    arguments = [command, clip, option, BREAST, "--output", tmp_path / "out"]
    done = run(COMMAND + "sys.exit(status)", *arguments, hidden=TORCH)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ht-kernels {command}: the checkpoint {BREAST}: this needs torch, which is not installed")
    assert "ht-kernels export" in line


def test_what_is_no_model_without_torch() -> None:
    program = """
from ht_kernels.errors import InputError
from ht_kernels.prediction import Predictor
from ht_kernels.video import Stream
for make, what in ((Predictor, 3), (Stream, "breast"), (Predictor, "breast")):
    try:
        make(what)
    except (InputError, TypeError) as error:
        print(error)
"""
    done = run(program, hidden=TORCH)
    first, second, third = done.stdout.splitlines()
    assert first.startswith("model must be a checkpoint or an exported file by path or name") and first.endswith("int")
    assert second.startswith("model must be a folded model or a session, got str")
    assert "this needs torch, which is not installed" in third
