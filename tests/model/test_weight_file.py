"""Files of weights as people have them: wrapped, with numbers beside the tensors, in TorchScript, or something else."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors
from torch import nn

import ht_kernels as ht
from helpers.fuzz import budget
from helpers.small_towers import shake, small_tower
from ht_kernels.cli import main
from ht_kernels.clip.backbone import load_backbone
from ht_kernels.clip.checkpoint import to_published
from ht_kernels.clip.weight_file import WRAPPERS, read_weights
from ht_kernels.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
STATE = {"visual.weight": torch.arange(6.0).view(2, 3), "visual.bias": torch.ones(2, dtype=torch.float16)}


def same(got: dict[str, Any]) -> bool:
    return got.keys() == STATE.keys() and all(torch.equal(got[name], t) for name, t in STATE.items())


@pytest.mark.parametrize("key", WRAPPERS)
def test_wrappers(tmp_path: Path, key: str) -> None:
    """Beside the weights lie the numbers and arguments of the training."""
    beside = {
        "epoch": 3,
        "best": np.float64(0.5),
        "count": np.int64(3),
        "history": np.arange(3.0),
        "args": argparse.Namespace(lr=1e-3, name="x"),
    }
    torch.save({**beside, key: {f"module._orig_mod.{name}": t for name, t in STATE.items()}}, tmp_path / "a.pt")
    assert same(read_weights(tmp_path / "a.pt"))


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(to_safetensors(STATE))
    torch.save(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "a.safetensors", "legacy.bin"):
        assert same(read_weights(tmp_path / name)), name


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.lin(x))


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(Inner(), nn.Linear(4, 4, bias=False))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("every_other", torch.arange(10.0)[::2])
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.size = 224

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x) * self.scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["script", "trace"])
def test_torchscript(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    model = Outer().eval().to(dtype)
    module = torch.jit.script(model) if kind == "script" else torch.jit.trace(model, torch.zeros(2, 3, dtype=dtype))
    torch.jit.save(module, tmp_path / "a.pt")
    got, expected = read_weights(tmp_path / "a.pt"), module.state_dict()
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name


class Archive(nn.Module):
    """Modules with the names in a state dict, which TorchScript saves without the code of the tower."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = tensor
            else:
                self.register_buffer(first, tensor)
        for name, tensors in inner.items():
            self.add_module(name, Archive(tensors))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_openais_weights_fit_a_tower(tmp_path: Path) -> None:
    """An archive with the names of OpenAI's model: the tower has its weights, and QuickGELU."""
    state = load_backbone("ViT-S-32").state_dict()
    state = {name: (torch.randn_like(t) * 0.02).half() for name, t in state.items()}
    torch.jit.save(torch.jit.trace(Archive(state), torch.zeros(1)), tmp_path / "ViT-S-32.pt")
    loaded = load_backbone("ViT-S-32", str(tmp_path / "ViT-S-32.pt"))
    assert all(torch.equal(loaded.state_dict()[name], t.float()) for name, t in state.items())
    assert any(type(module).__name__ == "QuickGELU" for module in loaded.modules())


def small(adapters: bool) -> ht.HTCLIP:
    torch.manual_seed(0)
    options = {} if adapters else {"adapter_layers": ()}
    return shake(
        ht.HTCLIP(small_tower("timm"), num_classes=3, bottleneck=8, reduce_dim=16, feature_layers=(0, 2, 3), **options)
    ).eval()


@pytest.mark.parametrize("whole", [False, True])
def test_a_published_baseline_has_no_adapters(tmp_path: Path, whole: bool) -> None:
    model = small(adapters=False)
    content = dict(model.state_dict()) if whole else to_published(model)
    assert whole or content["mona"] == {}
    torch.save(content, tmp_path / "baseline.pt")
    loaded = ht.HTCLIP.from_checkpoint(
        tmp_path / "baseline.pt", backbone=small_tower("timm"), feature_layers=(0, 2, 3)
    ).eval()
    assert not [name for name in loaded.state_dict() if ".mona." in name]
    loaded.clip_model.load_state_dict(model.clip_model.state_dict())
    image = torch.rand(1, 3, *model.tower.image_size, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))


@pytest.mark.parametrize("key", ["model_state_dict", "model", "state_dict"])
def test_a_wrapped_checkpoint(tmp_path: Path, key: str) -> None:
    model = small(adapters=True)
    torch.save({key: model.state_dict(), "epoch": np.int64(3)}, tmp_path / "a.pt")
    loaded = ht.HTCLIP.from_checkpoint(
        tmp_path / "a.pt", backbone=small_tower("timm"), feature_layers=(0, 2, 3)
    ).state_dict()
    expected = {name: t for name, t in model.state_dict().items() if ".mona." in name or "seg_head" in name}
    assert expected and all(torch.equal(loaded[name], t) for name, t in expected.items())


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def torch_bytes(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name, value in files.items():
            made.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), value)
    return content.getvalue()


def numpy_bytes(write: Callable[..., None]) -> bytes:
    content = io.BytesIO()
    write(content, np.zeros(3))
    return content.getvalue()


OTHERS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "run git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html><body>log in", "web page"),
    "empty": (b"", "it is empty"),
    "text": (b"epoch,loss\n1,0.5\n", "it is a text"),
    "json": (b'{"model": 1}', "it is a text"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "npy": (numpy_bytes(np.save), "NumPy"),
    "npz": (numpy_bytes(np.savez), "NumPy"),
    "zip": (archive(a=b"1"), "ZIP archive of other files"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "unpack it first"),
    "onnx": (b"\x08\x08\x12\x07pytorch" + bytes(40), "ONNX"),
    "cut off": (torch_bytes(STATE)[:-200], "cut off"),
    "code": (torch_bytes({"a": Code()}), "it holds "),
    "torchscript with code": (
        archive(a__constants_pkl=b"", a__data_pkl=pickle.dumps(Code(), 2)),
        "expected modules and tensors",
    ),
    "list": (torch_bytes([1, 2]), "a list"),
    "other names": (torch_bytes({"weight": torch.zeros(2)}), "got weight"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_checkpoint_is_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = OTHERS[kind]
    (tmp_path / "file.pt").write_bytes(content)
    assert main(["export", str(tmp_path / "file.pt"), "--output", str(tmp_path / "a.onnx")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert words in said and not said.endswith(":"), said
    assert not (tmp_path / "executed").exists()


GOOD = {"torch": torch_bytes(STATE), "safetensors": to_safetensors(STATE)}


@budget(60)
@given(
    st.sampled_from(sorted(GOOD)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.sampled_from([1.0, 1.0, 0.7, 0.1]),
)
def test_damage(
    tmp_path_factory: pytest.TempPathFactory, kind: str, damage: list[tuple[float, int]], keep: float
) -> None:
    """Whatever a file holds gives tensors or a sentence."""
    changed = bytearray(GOOD[kind])
    for place, value in damage:
        changed[int(place * len(changed))] = value
    path = tmp_path_factory.getbasetemp() / "fuzz.pt"
    path.write_bytes(changed[: max(1, int(keep * len(changed)))])
    try:
        assert all(isinstance(t, torch.Tensor) for t in read_weights(path).values())
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
