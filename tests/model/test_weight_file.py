"""Files of weights: what is read, whatever its name and wrapper, and what is refused in a sentence."""

from __future__ import annotations

import argparse
import io
import random
import re
import warnings
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

import ht_kernels as ht
from helpers import fuzz
from helpers.clip_folder import clip_folder
from helpers.small_models import small_model
from helpers.small_towers import small_tower
from ht_kernels.cli import main
from ht_kernels.clip.backbone import load_backbone
from ht_kernels.clip.published_checkpoint import to_published
from ht_kernels.clip.weight_file import read_content, read_weights
from ht_kernels.errors import InputError
from ht_kernels.published import PublishedHTCLIP

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = (0, 1, 3)
STATE = {"visual.conv1.weight": torch.rand(4, 3, 2, 2), "visual.proj": torch.rand(4, 2)}


def torch_bytes(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def torchscript_bytes(module: nn.Module, *example: Tensor) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, example).save_to_buffer()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4))
        self.register_parameter("scale", nn.Parameter(torch.rand(())))

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x) * self.scale


def small(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, bytes]:
    module = Small().eval().to(dtype)
    return module, torchscript_bytes(module, torch.rand(1, 3, 4, 4, dtype=dtype))


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in expected.items()
    )


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content in (
        safetensors_bytes(STATE),
        torch_bytes(STATE),
        torch_bytes(STATE, _use_new_zipfile_serialization=False),
    ):
        path.write_bytes(content)
        assert same(read_weights(path), STATE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_torchscript_archive_is_read_and_not_run(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, content = small(dtype)
    (tmp_path / "a.pt").write_bytes(content)
    monkeypatch.setattr(torch.jit, "load", None)
    assert same(read_weights(tmp_path / "a.pt"), dict(module.state_dict()))


def test_a_torchscript_archive_makes_nothing_but_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    for program in (b"cpathlib\nPath\n(Vx\ntR.", b"cbuiltins\nprint\n(Vx\ntR.", b"ctorch\nload\n(Vx\ntR."):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/constants.pkl", b"")
            archive.writestr("a/data.pkl", program)
        with pytest.raises(InputError, match=r"it holds (pathlib|builtins|torch)\.\w+, expected modules and tensors"):
            read_weights(path)


NOW = np.datetime64("2026-01-01")
WRAPPED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}, "epoch": 3},
    "model": lambda s: {"model": s, "args": argparse.Namespace(lr=np.float64(0.1), output=Path("x"))},
    "state_dict": lambda s: {"state_dict": s, "best": np.float32(0.5), "curve": np.arange(3.0), "ints": np.int64(3)},
    "net": lambda s: {"net": s},
    "log": lambda s: {"state_dict": s, "time": datetime(2026, 1, 1), "at": NOW},
    "twice": lambda s: {"model": {"state_dict": s}},
    "data parallel": lambda s: {f"module.{n}": t for n, t in s.items()},
    "compiled": lambda s: {"model": {f"_orig_mod.module.{n}": t for n, t in s.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_training_scripts_write(tmp_path: Path, wrap: Callable[[dict[str, Any]], Any]) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(torch_bytes(wrap(STATE)))
    assert same(read_weights(path), STATE)
    model = small_model("timm", feature_layers=LAYERS)
    path.write_bytes(torch_bytes(wrap(dict(model.state_dict()))))
    loaded = ht.HTCLIP.from_checkpoint(path, backbone=small_tower("timm"), feature_layers=LAYERS).eval()
    frames = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    assert torch.equal(loaded(frames), model(frames))


def test_the_attribute_that_holds_the_model_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(torch_bytes({f"clip_model.{n}": t for n, t in STATE.items()}))
    assert same(read_weights(path), STATE)


def test_a_published_baseline_has_no_adapters(tmp_path: Path) -> None:
    model = small_model("open_clip", feature_layers=LAYERS, adapter_layers=())
    published = to_published(model)
    assert published["mona"] == {}
    frames = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    for content in (published, dict(model.state_dict())):
        torch.save(content, tmp_path / "a.pth")
        loaded = ht.HTCLIP.from_checkpoint(
            tmp_path / "a.pth", backbone=small_tower("open_clip"), feature_layers=LAYERS
        ).eval()
        assert loaded.config.adapter_layers == ()
        torch.testing.assert_close(loaded(frames), PublishedHTCLIP.like(model)(frames))
    torch.save({**published, "mona": {"block.adapter": torch.rand(1)}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"holds no adapters: .* got block\.adapter"):
        ht.HTCLIP.from_checkpoint(tmp_path / "a.pth", backbone=small_tower("open_clip"), feature_layers=LAYERS)


class Thing:
    pass


def zipped(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 353976522\n",
        "pointer of Git LFS .*: run git lfs pull",
    ),
    "web page": (b"\n<!DOCTYPE html><html><title>Sign in</title></html>", "it is a web page: the download failed"),
    "web page with a mark": (b"\xef\xbb\xbf<html>" + "é".encode() * 400, "it is a web page"),
    "text with accents": (b"x" + "é".encode() * 400, "it is a text"),
    "json": (b'{"error": "Repository not found"}', "it is a text"),
    "text": (b"epoch,loss\n1,0.5\n", "it is a text"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "npz": (npz_bytes(), "NumPy"),
    "zip": (zipped(**{"readme.txt": b"words"}), "ZIP archive of other files"),
    "bomb": (zipped(**{"a/data.pkl": b"}.", "a/data/0": bytes(10**6)}), "its tensors are compressed"),
    "gzip": (b"\x1f\x8b" + bytes(99), "packed archive"),
    "cut off": (torch_bytes(STATE)[:-200], "it is cut off"),
    "object": (torch_bytes({"model": STATE, "trainer": Thing()}), r"it holds \S*Thing, which is code or an object"),
    "several": (torch_bytes({"model": STATE, "state_dict": STATE}), "several state dicts, state_dict, model"),
    "stretched": (torch_bytes({"a": torch.zeros(1).expand(10**9)}), "a is not a plain tensor|holds no adapters"),
    "meta": (torch_bytes({"a": torch.zeros(9, device="meta")}), "a is not a plain tensor|holds no adapters"),
    "huge header": ((2**40).to_bytes(8, "little") + b'{"a"', "damaged.*(?i:header|length)"),
    "no tensors": (torch_bytes({"epoch": 3}), "got epoch"),
    "number": (torch_bytes(3), "a int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As weights, as a checkpoint, and from the command line."""
    content, words = REFUSED[name]
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    for read in (read_weights, ht.HTCLIP.from_checkpoint):
        with pytest.raises(InputError, match=words) as error:
            read(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert re.search(r"[^:(]$", str(error.value))
    assert main(["export", str(path), "--output", str(tmp_path / "a.onnx")]) == 2
    assert re.search(words, capsys.readouterr().err.splitlines()[-1])


def test_every_command_refuses_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out, picture = tmp_path / "a.pt", str(tmp_path / "out"), tmp_path / "a.png"
    Image.new("L", (32, 32)).save(picture)
    path.write_bytes(REFUSED["git lfs"][0])
    for command in (
        ["stream", str(picture), "--checkpoint", str(path), "--output", out],
        ["inspect", str(path), "--output", out],
        ["export", str(path), "--output", f"{out}.onnx"],
        ["convert", str(path), "--output", out],
        ["evaluate", str(path), "--phantoms", "2", "--output", out],
        ["train", "--phantoms", "2", "--task", "segmentation", "--from", str(path), "--output", out],
    ):
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert "run git lfs pull" in said and "Traceback" not in said, (command, said)


def test_the_weights_of_openai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-precision TorchScript weights in a tower of open_clip, which takes QuickGELU as OpenAI's towers do."""
    folder = clip_folder(tmp_path / "clip")
    plain: Any = load_backbone(f"local-dir:{folder}").eval().half()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace_module(plain, {"encode_image": torch.rand(1, 3, 64, 64).half()}, check_trace=False).save(
            tmp_path / "a.pt"
        )
    loaded = load_backbone(f"local-dir:{folder}", str(tmp_path / "a.pt"))
    assert any(type(module).__name__ == "QuickGELU" for module in loaded.modules())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.float()), name


def test_any_damage_gives_tensors_or_a_sentence(tmp_path: Path) -> None:
    path, generator = tmp_path / "fuzz", random.Random(0)
    files = (
        safetensors_bytes(STATE),
        torch_bytes(STATE),
        torch_bytes(STATE, _use_new_zipfile_serialization=False),
        small()[1],
    )
    for i in range(fuzz.MANY if fuzz.many else 60):
        content = bytearray(files[i % len(files)])
        if generator.random() < 0.2:
            del content[generator.randrange(len(content)) :]
        for _ in range(generator.randrange(1, 12) if content else 0):
            content[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(content)
        try:
            read_weights(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.pt"
    with pytest.raises(InputError, match=f"^there is no weights file {path}: name one that exists$"):
        read_weights(path)
    with pytest.raises(InputError, match=f"^there is no checkpoint file {path}: name one that exists$"):
        read_content(path, "checkpoint file")
