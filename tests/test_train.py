"""Training: what is trained and what is not, resuming, processes, bad data."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from layout import make_layout
from small_towers import IMAGE, small_tower

import ht_kernels as ht
from ht_kernels.cli import main
from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.errors import InputError
from ht_kernels.train import Examples, Recipe, Trainer, prepare, read_examples
from ht_kernels.train.methods import merged, uses_adapters


def build(method: str, task: str = "segmentation") -> ht.HTCLIP:
    tower = small_tower("timm").float()
    torch.manual_seed(3)
    layers = None if uses_adapters(method) else ()
    model = ht.HTCLIP(tower, task=task, reduce_dim=16, feature_layers=(1, 2), bottleneck=8, adapter_layers=layers)
    prepare(model, method)
    return model


def examples(root: Path, split: str, task: str = "segmentation") -> Examples:
    kind = SegmentationDataset if task == "segmentation" else ClassificationDataset
    return read_examples(kind(root, "BUSI", split, IMAGE))


def digest(model: ht.HTCLIP) -> str:
    named = sorted((n, p) for n, p in model.state_dict().items() if n.startswith("clip_model.") and ".mona." not in n)
    return hashlib.sha256(b"".join(p.numpy().tobytes() for n, p in named if "lora_" not in n)).hexdigest()


def train(root: Path, output: Path, method: str = "ht", task: str = "segmentation", **options: object) -> ht.HTCLIP:
    model = build(method, task)
    recipe = Recipe(method=method, **{"epochs": 2, "batch": 4, "validate_every": 1, **options})  # type: ignore[arg-type]
    data = (examples(root, split, task) for split in ("train", "val"))
    Trainer(model, recipe, *data, output, say=lambda _: None).run()
    return model


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("method", ["ht", "heads", "lora", "full"])
def test_only_what_the_method_says_changes(method: str, task: str, tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    before, model = build(method, task), train(root, tmp_path / "out", method, task)
    assert (digest(model) == digest(before)) == (method != "full")
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))
    images = torch.rand(2, 3, IMAGE, IMAGE)
    with torch.no_grad():
        expected, got = model.eval()(images), merged(model, method).eval()(images)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"best.safetensors", "last.pt", "log.csv", "tensorboard"}


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_layout(tmp_path / "data")
    whole = train(root, tmp_path / "whole", epochs=3)
    record = Trainer._record

    def killed(self: Trainer, row: dict[str, object]) -> None:
        record(self, row)
        if self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            train(root, tmp_path / "killed", epochs=3)
    resumed = train(root, tmp_path / "killed", epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_batch_in_parts_is_the_same_batch(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    whole, parts = (train(root, tmp_path / str(n), "heads", accumulate=n) for n in (1, 3))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_few_shots() -> None:
    data = Examples(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40), tuple(map(str, range(40))), {})
    assert len(data.share(5, 1)) == 2 and len(data.share(1, 1)) == 1
    assert data.share(20, 1).names == data.share(20, 1).names != data.share(20, 2).names


def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    (root / "all/masks/BUSI_0.png").unlink()
    (root / "all/images/BUSI_1.png").write_bytes(b"not an image")
    arguments = ["train", "--task", "segmentation", str(root), "--dataset", "BUSI", "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "BUSI_0.png" in (said := capsys.readouterr().err) and "is missing" in said
    kept = read_examples(SegmentationDataset(root, "BUSI", "train", IMAGE), skip_bad=True)
    assert len(kept) == 3 and set(kept.bad) == {"BUSI_0.png", "BUSI_1.png"}
    (root / "segmentation/BUSI/val.txt").write_text("")
    assert main([*arguments, "--skip-bad"]) == 2
    assert "the val split is empty" in capsys.readouterr().err
    assert main([*arguments, "--method", "magic"]) == 2
    assert "expected one of ht, heads" in capsys.readouterr().err


def test_a_loss_that_is_no_number_names_the_images(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    model = build("heads")
    with torch.no_grad():
        model.seg_head.bias.fill_(math.nan)
    trainer = Trainer(
        model, Recipe(method="heads", epochs=1), examples(root, "train"), examples(root, "val"), tmp_path / "out"
    )
    with pytest.raises(InputError, match=r"the loss is nan in epoch 1, on a batch of .*BUSI_0\.png"):
        trainer.run()
