"""Exported files run where torch is not installed, and where it is, opening one does not import it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from helpers import ROOT
from helpers.exports import calibrated_model, some_frames
from helpers.without import run
from ht_kernels.deploy import Session, build_ir, export_onnx

SESSIONS = """
import numpy as np
from ht_kernels.deploy import Session
frames = np.load("frames.npy")
for file, runtime in (("model.onnx", "onnxruntime"), ("model.onnx", "openvino"), ("model.xml", "openvino")):
    opened = Session.open(file, runtime=runtime)
    result, distances = opened.with_distance(frames)
    np.savez(f"{file}.{runtime}.npz", result=result, distances=distances, again=opened(frames))
assert Session.open("model.onnx").runtime == "openvino"
print([name for name in ("torch", "safetensors", "onnx") if name in sys.modules])
"""
REFUSED = """
from ht_kernels.deploy import Session
for model, options in (
    ("model.safetensors", {}),
    (object(), {}),
    ("model.onnx", {"runtime": "cpu"}),
    ("model.onnx", {"runtime": "tensorrt"}),
):
    try:
        Session.open(model, **options)
    except (ValueError, TypeError, RuntimeError) as error:
        print(type(error).__name__, error)
"""
COMMAND = """
import json
from ht_kernels import cli
for words in json.loads(sys.argv[1]):
    print(cli.main(words), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model as ONNX and as IR, frames for it, and a file with the name of a checkpoint."""
    pytest.importorskip("openvino")
    place = tmp_path_factory.mktemp("edge")
    folded = calibrated_model()
    export_onnx(folded, place / "model.onnx", batch=(1, 1, 3), output="grid")
    build_ir(place / "model.onnx", place / "model.xml")
    np.save(place / "frames.npy", some_frames(folded).numpy())
    (place / "model.safetensors").touch()
    return place


def test_sessions_compute_the_same_without_torch(folder: Path) -> None:
    done = run(SESSIONS, folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    frames = np.load(folder / "frames.npy")
    for file, runtime in (("model.onnx", "onnxruntime"), ("model.onnx", "openvino"), ("model.xml", "openvino")):
        got = np.load(folder / f"{file}.{runtime}.npz")
        result, distances = Session.open(folder / file, runtime=runtime).with_distance(frames)
        np.testing.assert_allclose(got["result"], result, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got["distances"], distances, rtol=1e-5, atol=1e-5)
        assert np.array_equal(got["again"], got["result"])


def test_opening_a_file_does_not_import_an_installed_torch(folder: Path) -> None:
    done = run(SESSIONS, packages=(), folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_what_needs_torch_says_so(folder: Path) -> None:
    done = run(REFUSED, folder=folder)
    assert done.returncode == 0, done.stderr
    checkpoint, thing, cpu, engine = done.stdout.splitlines()
    assert re.match("InputError model.safetensors has no manifest .* export it where torch is installed", checkpoint)
    assert thing.startswith("TypeError model must be a folded model or the path of an exported file, got object")
    assert cpu.startswith("BackendError cpu was asked for by name, and this file runs on tensorrt or")
    assert engine.startswith("BackendError there is no NVIDIA GPU")


def test_info_lists_what_is_there(folder: Path) -> None:
    done = run(COMMAND, json.dumps([["info"], ["info", "--json"]]), folder=folder)
    assert done.returncode == 0, done.stderr
    text, _, rest = done.stdout.partition("\n0\n")
    assert "torch          not installed; sessions of exported files, streams and predict run without it" in text
    for line in (
        r"  onnxruntime +available, for exported files only: a checkpoint needs torch, which is not installed",
        r"  cpu +no: a checkpoint needs torch, which is not installed",
        r"compiled core +\d",
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line
    facts = json.loads(rest.rpartition("\n0\n")[0])
    assert facts["backends"] == {} and facts["cpu"]["torch_isa"] is None and "isa_in_use" in facts["compiled_core"]


def test_commands_that_need_torch_end_with_a_sentence(folder: Path) -> None:
    image = ROOT / "ht_kernels/demo/samples/images/busi_benign_063.png"
    commands = [
        ["train", "--task", "segmentation", "--phantoms", "4", "--method", "full", "--output", "run"],
        ["export", "phantom", "--output", "new.onnx"],
        ["evaluate", "phantom", "--output", "evaluation", "--phantoms", "2"],
        ["bench", "--output", "bench"],
        ["demo", "--output", "demo"],
        ["inspect", "phantom", "--output", "inspection"],
        ["predict", str(image), "--weights", "phantom", "--output", "predictions"],
    ]
    done = run(COMMAND, json.dumps(commands), folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"] * len(commands), done.stderr
    for line, (command, *_) in zip(done.stderr.splitlines(), commands, strict=True):
        assert line.startswith(f"ht-kernels {command}: "), line
        assert "this needs torch, which is not installed: pip install" in line


def test_the_modules_without_torch_import_none(folder: Path) -> None:
    """Those that docs/architecture.md lists, each with all that it imports."""
    page = (ROOT / "docs/architecture.md").read_text()
    section = page.partition("\n## Without torch\n")[2].partition("\n## ")[0]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("| "))
    files = re.findall(r"`(ht_kernels/[\w/]+\.py)`", rows)
    assert len(files) > 15 and all((ROOT / file).is_file() for file in files)
    modules = [file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for file in files]
    program = "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    for packages in ((), ("torch", "torchvision", "safetensors")):
        done = run(program + "print('torch' in sys.modules)", *modules, packages=packages, folder=folder)
        assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_names_in_python_say_what_they_need(folder: Path) -> None:
    code = """
import ht_kernels as ht
asked = "ht.fold", "ht.HTCLIP", "ht.functional", "ht.deploy.export_onnx"
packages = ht, ht.data, ht.deploy, ht.prediction, ht.train, ht.video
imports = [f"from {package.__name__} import {name}" for package in packages for name in package.__all__]
for ask in (*asked, *imports, *asked):
    try:
        exec(ask)
    except (AttributeError, ImportError) as error:
        print(type(error).__name__, error)
print(hasattr(ht, "fold"), hasattr(ht, "functional"), hasattr(ht, "Predictor"), "fold" in dir(ht))
"""
    *lines, there = run(code, folder=folder).stdout.splitlines()
    assert [line for line in lines if " this needs torch, which is not installed: pip install" not in line] == []
    kinds = [line.partition(" ")[0] for line in lines]
    assert kinds[:4] == kinds[-4:] == ["AttributeError"] * 4
    assert len(kinds) > 30 and set(kinds[4:-4]) == {"ModuleNotFoundError"}
    assert there == "False False True True"


def test_a_package_that_is_installed_later_is_found(folder: Path) -> None:
    code = """
import ht_kernels as ht
print(hasattr(ht, "functional"), hasattr(ht, "fold"))
sys.meta_path[sys.meta_path.index(Bare)] = importlib.machinery.PathFinder
import ht_kernels.functional
print(hasattr(ht, "functional"), hasattr(ht, "fold"))
"""
    done = run(code, folder=folder)
    assert done.stdout == "False False\nTrue True\n", done.stderr
