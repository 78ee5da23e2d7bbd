"""Checkpoints: ours and the published ones, there and back, and what is refused."""

from __future__ import annotations

import functools
import json
import os
import pickle
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import ht_kernels as ht
from helpers import small_models
from helpers.small_towers import TOWERS, shake, small_clip, small_tower
from ht_kernels.clip import HTCLIPConfig
from ht_kernels.clip.published_checkpoint import to_published
from ht_kernels.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = (0, 1, 3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([2**31, -1, 8]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
FRAMES = torch.rand(2, 3, 64, 64, dtype=torch.float64)


def small_model(tower: str = "timm", task: str = "segmentation", **options: Any) -> ht.HTCLIP:
    return small_models.small_model(tower, task, **{"feature_layers": LAYERS, **options})


@pytest.mark.parametrize("variant", ["baseline", "noise_aware", "freq_enhanced", "hybrid"])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("tower", TOWERS)
def test_both_formats_there_and_back(tmp_path: Path, tower: str, task: str, variant: str) -> None:
    model = small_model(tower, task, variant=variant)
    expected = model(FRAMES)
    model.save(tmp_path / "ours.safetensors")
    torch.save(to_published(model), tmp_path / "published.pth")
    ours = ht.HTCLIP.from_checkpoint(tmp_path / "ours.safetensors", backbone=small_tower(tower))
    assert torch.equal(ours.eval()(FRAMES), expected)
    published = ht.HTCLIP.from_checkpoint(
        tmp_path / "published.pth", backbone=small_tower(tower), feature_layers=LAYERS
    )
    assert torch.equal(published.eval()(FRAMES), expected)
    assert published.config.variant == variant and published.config.task == task
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_frozen_tower_is_left_out_and_what_was_unfrozen_is_not(tmp_path: Path) -> None:
    model = small_model()
    frozen = "clip_model.visual.trunk.blocks.0.mlp.fc1.weight"
    model.save(tmp_path / "a.safetensors")
    names = set(_tensors(tmp_path / "a.safetensors"))
    assert frozen not in names and "seg_head.1.weight" in names
    model.get_parameter(frozen).requires_grad_(True)
    shake(model.clip_model.visual.trunk.blocks[0].mlp)
    model.save(tmp_path / "b.safetensors")
    assert set(_tensors(tmp_path / "b.safetensors")) == names | {frozen}
    other = ht.HTCLIP.from_checkpoint(tmp_path / "b.safetensors", backbone=small_tower("timm")).eval()
    assert torch.equal(other.get_parameter(frozen), model.get_parameter(frozen))


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_a_backbone_by_name_is_remembered(tmp_path: Path) -> None:
    model = ht.HTCLIP("timm/vit_tiny_patch16_224", image_size=64, bottleneck=8, reduce_dim=16, class_names=("a", "b"))
    model.save(tmp_path / "model.safetensors")
    again = ht.HTCLIP.from_checkpoint(tmp_path / "model.safetensors")
    assert again.config == model.config


def test_adapter_only_checkpoints(tmp_path: Path) -> None:
    model = small_model("openai", variant="noise_aware", adapter_layers=(1, 2))
    mona = {name: tensor for name, tensor in model.state_dict().items() if ".mona." in name}
    for content in (mona, {"mona_state_dict": mona}, {"module." + k: v for k, v in mona.items()}):
        torch.save(content, tmp_path / "mona.pth")
        with pytest.warns(UserWarning, match="adapters only"):
            loaded = ht.HTCLIP.from_checkpoint(
                tmp_path / "mona.pth", backbone=small_tower("openai"), feature_layers=LAYERS
            )
        assert loaded.config.adapter_layers == (1, 2)
        for name, tensor in mona.items():
            assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize(("trained_on", "loaded_on"), [("openai", "open_clip"), ("open_clip", "openai")])
def test_the_form_of_the_classifier_is_read_off_the_tensors(tmp_path: Path, trained_on: str, loaded_on: str) -> None:
    """Weights of the original package also come in an open_clip tower, which has another classifier by itself."""
    model = small_model(trained_on, "classification")
    torch.save(to_published(model), tmp_path / "published.pth")
    loaded = ht.HTCLIP.from_checkpoint(
        tmp_path / "published.pth", backbone=small_tower(loaded_on), feature_layers=LAYERS
    ).eval()
    assert {n: t.tolist() for n, t in loaded.cls_head.state_dict().items()} == {
        n: t.tolist() for n, t in model.cls_head.state_dict().items()
    }
    torch.testing.assert_close(ht.fold(loaded)(FRAMES), loaded(FRAMES))
    loaded.save(tmp_path / "ours.safetensors")
    again = ht.HTCLIP.from_checkpoint(tmp_path / "ours.safetensors", backbone=small_tower(loaded_on)).eval()
    assert torch.equal(again(FRAMES), loaded(FRAMES))


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_the_state_dict_of_a_whole_task_model(tmp_path: Path, prefix: str) -> None:
    """Published task models hold both heads, so a task must be named."""
    model, other = small_model(), small_model(task="classification")
    heads = {n: t for n, t in other.state_dict().items() if n.startswith("cls_head")}
    torch.save({prefix + n: t for n, t in {**model.state_dict(), **heads}.items()}, tmp_path / "whole.pth")
    options: dict[str, Any] = {"backbone": small_tower("timm"), "feature_layers": LAYERS}
    with pytest.raises(InputError, match="has both heads, seg_head and cls_head: pass task="):
        ht.HTCLIP.from_checkpoint(tmp_path / "whole.pth", **options)
    loaded = ht.HTCLIP.from_checkpoint(tmp_path / "whole.pth", task="segmentation", **options).eval()
    assert torch.equal(loaded(FRAMES), model(FRAMES))


def test_an_adapter_shared_by_blocks_is_saved(tmp_path: Path) -> None:
    model = small_model()
    blocks = model.tower.blocks
    blocks[1].mona = blocks[0].mona
    model.save(tmp_path / "shared.safetensors")
    loaded = ht.HTCLIP.from_checkpoint(tmp_path / "shared.safetensors", backbone=small_tower("timm")).eval()
    assert torch.equal(loaded(FRAMES), model(FRAMES))


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = small_model(), tmp_path / "a.safetensors"
    model.save(path)
    before = path.read_bytes()
    shake(model.seg_head)

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match="cannot be written: No space left on device"):
            model.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    mask = os.umask(0o077)
    try:
        model.save(path)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_bytes() != before


def test_a_published_file_without_its_tower_is_refused(tmp_path: Path) -> None:
    model = ht.HTCLIP("timm/vit_tiny_patch16_224", bottleneck=8, adapter_layers=1)
    torch.save(to_published(model), tmp_path / "published.pth")
    with pytest.raises(InputError, match="does not name its vision tower: pass --backbone and --pretrained"):
        ht.HTCLIP.from_checkpoint(tmp_path / "published.pth")
    with pytest.raises(InputError, match="timm/vit_tiny_patch16_224 alone has random weights: pass --pretrained"):
        ht.HTCLIP.from_checkpoint(tmp_path / "published.pth", backbone="timm/vit_tiny_patch16_224")
    tower = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    loaded = ht.HTCLIP.from_checkpoint(tmp_path / "published.pth", backbone=tower)
    assert loaded.config.feature_layers == (3, 6, 9)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def damaged(folder: Path) -> dict[str, Path]:
    """Files that are no checkpoint for a small timm model."""
    model = small_model()
    good = folder / "good.safetensors"
    model.save(good)
    tensors, header = _tensors(good), _header(good)
    published = to_published(model)
    files = {name: folder / name for name in ("missing", "a folder")}
    files["a folder"].mkdir()

    def ours(name: str, change: dict[str, Any] | None = None, **metadata: str) -> None:
        files[name] = folder / name
        save_file({**tensors, **(change or {})}, files[name], metadata=metadata or {"ht_kernels": header})

    def torch_file(name: str, content: Any) -> None:
        files[name] = folder / name
        torch.save(content, files[name])

    def raw(name: str, content: bytes) -> None:
        files[name] = folder / name
        files[name].write_bytes(content)

    ours("foreign safetensors", other="x")
    ours("no json", ht_kernels="{")
    ours("format 9", ht_kernels=json.dumps({"format": 9, "config": {}}))
    ours("unknown argument", ht_kernels=header.replace("num_classes", "number_of_classes"))
    ours("nan", {"seg_head.1.bias": torch.full((3,), float("nan"), dtype=torch.float64)})
    ours("width", {"reduces.0.bias": torch.zeros(7, dtype=torch.float64)})
    ours("extra", {"something": torch.zeros(1)})
    raw("truncated", good.read_bytes()[:-100])
    raw("empty", b"")
    raw("text", b"not a checkpoint at all")
    raw("pickle", pickle.dumps(Code()))
    torch_file("code", {"mona": Code()})
    torch_file("list", [1, 2])
    torch_file("no adapters", {"a": torch.zeros(1)})
    torch_file("two heads", {**published, "cls_head": published["seg_head"]})
    torch_file("no head", {k: v for k, v in published.items() if k != "seg_head"})
    torch_file("no tensors", {**published, "reduces": {}})
    torch_file(
        "block 9", {**published, "mona": {k.replace("blocks.3", "blocks.9"): v for k, v in published["mona"].items()}}
    )
    one = next(k for k in published["mona"] if k.endswith("blocks.1.mona.clip_mona.gamma"))
    torch_file("a parameter less", {**published, "mona": {k: v for k, v in published["mona"].items() if k != one}})

    def with_mona(name: str, change: dict[Any, Any]) -> None:
        torch_file(name, {**published, "mona": {**published["mona"], **change}})

    with_mona("nan adapter", {one: torch.full((32,), float("nan"))})
    with_mona("sparse", {one: torch.zeros(32).to_sparse()})
    with_mona("integers", {one: torch.zeros(32, dtype=torch.int64)})
    with_mona("meta", {one: torch.zeros(32, device="meta")})
    with_mona("stretched", {one.replace("gamma", "project1.weight"): torch.zeros(1, 1).expand(10**9, 10**6)})
    with_mona("not a tensor", {one: "gamma"})
    with_mona("twice", {"module." + one: published["mona"][one]})
    with_mona("block without end", {one.replace("blocks.1", "blocks." + "9" * 5000): torch.zeros(1)})
    torch_file("numbered", {**published, "reduces": dict(enumerate(published["reduces"].values()))})
    torch_file("scalar bias", {**published, "seg_head": {"1.bias": torch.zeros(())}})
    ours("deep", ht_kernels="[" * 100_000)
    ours("another size", ht_kernels=header.replace('"reduce_dim": 16', '"reduce_dim": 1000000'))
    ours("another variant", ht_kernels=header.replace('"hybrid"', '"baseline"'))
    mixed = {k: v for k, v in published["mona"].items() if "blocks.2" not in k or "freq_filter" not in k}
    torch_file("mixed variants", {**published, "mona": mixed})
    return files


def _header(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()["ht_kernels"]


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, path in damaged(tmp_path).items():
        message = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ht.HTCLIP.from_checkpoint(path, backbone=small_tower("timm"), feature_layers=LAYERS)
        except InputError as error:
            message = str(error)
        assert str(path) in message and "\n" not in message, (name, message)
    assert not (tmp_path / "executed").exists()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    model = small_model()
    model.save(tmp_path / "a.safetensors")
    load = ht.HTCLIP.from_checkpoint
    with pytest.raises(InputError, match="pass backbone="):
        load(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="is missing"):
        load(tmp_path / "a.safetensors", backbone=small_tower("open_clip"))
    with pytest.raises(InputError, match=r"conv1.bias has shape \(8,\), expected \(4,\)"):
        load(tmp_path / "a.safetensors", backbone=small_tower("timm"), bottleneck=4)
    with pytest.raises(InputError, match="freq_filter is unknown"):
        load(tmp_path / "a.safetensors", backbone=small_tower("timm"), variant="noise_aware")
    with pytest.raises(InputError, match=r"blocks\.2\.0\.bias is unknown"):
        load(tmp_path / "a.safetensors", backbone=small_tower("timm"), feature_layers=(0, 1))
    with pytest.raises(InputError, match=r"blocks\.3\.0\.bias is missing"):
        load(tmp_path / "a.safetensors", backbone=small_tower("timm"), feature_layers=(0, 1, 2, 3))
    with pytest.raises(InputError, match="cannot be written"):
        model.save(tmp_path / "no such folder" / "a.safetensors")


@functools.cache
def saved() -> tuple[dict[str, torch.Tensor], dict[str, Any], torch.Tensor]:
    """Tensors and metadata of a small timm model, and what it computes."""
    model = small_model()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        model.save(path)
        return _tensors(path), json.loads(_header(path)), model(FRAMES)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(HTCLIPConfig.__dataclass_fields__)), JSON)
def test_any_configuration_is_refused_or_harmless(argument: str, value: Any) -> None:
    """Whatever a file's configuration says."""
    tensors, header, expected = saved()
    header = {**header, "config": {**header["config"], argument: value}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save_file(tensors, path, metadata={"ht_kernels": json.dumps(header)})
        try:
            loaded = ht.HTCLIP.from_checkpoint(path, backbone=small_tower("timm")).eval()
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert torch.equal(loaded(FRAMES), expected) or argument == "feature_layers"


def test_any_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """Bytes lost or changed anywhere: the file loads, or InputError says why not; nothing else happens."""
    model, path = small_model(), tmp_path / "fuzz"
    model.save(tmp_path / "a")
    torch.save(to_published(model), tmp_path / "b")
    generator = random.Random(0)
    for good in ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()):
        for _ in range(25):
            content = bytearray(good)
            if generator.random() < 0.4:
                del content[generator.randrange(len(content)) :]
            for _ in range(generator.randrange(1, 20) if content else 0):
                # Headers and indices are at the ends.
                span = min(len(content), 6000)
                at = generator.randrange(span)
                content[at if generator.random() < 0.5 else -1 - at] = generator.randrange(256)
            path.write_bytes(content)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ht.HTCLIP.from_checkpoint(path, backbone=small_tower("timm"), feature_layers=LAYERS)
            except InputError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize("kind", ["timm", "openai"])
def test_a_file_with_the_tower_needs_no_other_weights(kind: str, tmp_path: Path) -> None:
    tower = small_tower(kind).float()
    model = ht.HTCLIP(tower, reduce_dim=16, feature_layers=(0, 1), bottleneck=8).eval()
    whole, half, usual = (tmp_path / f"{name}.safetensors" for name in ("whole", "half", "usual"))
    model.save(whole, tower=True)
    model.save(half, tower=True, dtype=torch.float16)
    model.save(usual)
    dead = [n for n in read_names(whole) if "blocks.2." in n and ".mona." not in n]
    assert not dead and len(read_names(whole)) > len(read_names(usual))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    images = torch.rand(2, 1, *model.tower.image_size)
    torch.manual_seed(9)
    other = ht.HTCLIP.from_checkpoint(whole, backbone=small_tower(kind, seed=5).float()).eval()
    torch.testing.assert_close(other(images), model(images))
    rounded = ht.HTCLIP.from_checkpoint(half, backbone=small_tower(kind, seed=5).float()).eval()
    assert next(rounded.parameters()).dtype == torch.float32
    torch.testing.assert_close(rounded(images), model(images), rtol=0.05, atol=0.02)
    rounded.save(tmp_path / "again.safetensors")
    assert read_names(tmp_path / "again.safetensors") == read_names(half)


def test_a_contrastive_model_is_not_saved_with_its_tower(tmp_path: Path) -> None:
    model = ht.HTCLIP(small_clip(), task="contrastive")
    with pytest.raises(ValueError, match="a contrastive model names its tower"):
        model.save(tmp_path / "model.safetensors", tower=True)


def read_names(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())
