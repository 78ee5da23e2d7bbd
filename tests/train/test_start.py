"""How adapters start, what the recipe ours adds to training, and the augmentation for ultrasound."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

import ht_kernels as ht
from helpers.layout import make_layout
from helpers.small_towers import small_tower
from helpers.training import build, examples, train
from ht_kernels.cli import main
from ht_kernels.clip.injection import adapters
from ht_kernels.errors import InputError
from ht_kernels.train import Recipe, Trainer, prepare, trainer
from ht_kernels.train.augment import augment
from ht_kernels.train.average import Average

FORMS = [("baseline", None), ("noise_aware", None), ("freq_enhanced", "shared"), ("hybrid", None), ("hybrid", "full")]


@pytest.mark.parametrize(("variant", "form"), FORMS)
def test_an_adapter_that_starts_as_the_identity_returns_its_input(variant: str, form: str | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1 + 12, 16)
    made = {s: ht.HTAdapter(16, 8, variant, form, grid=(3, 4), start=s) for s in ("identity", "published")}
    assert torch.equal(made["identity"](x, (3, 4)), x)
    assert not torch.allclose(made["published"](x, (3, 4)), x, atol=1e-3)
    (made["identity"](x, (3, 4)) ** 2).sum().backward()
    gradient = made["identity"].project2.weight.grad
    assert gradient is not None and gradient.abs().max() > 0  # it can leave zero


def test_starts_change_nothing_but_project2() -> None:
    states = []
    for start in ("published", "identity"):
        torch.manual_seed(1)
        states.append(ht.HTAdapter(16, 8, start=start).state_dict())
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert changed == {"project2.weight", "project2.bias"}


@pytest.mark.parametrize("kind", ["timm", "openai"])
def test_a_model_starts_as_heads_alone(kind: str) -> None:
    logits = []
    for layers in ((), None):
        torch.manual_seed(3)
        tower = small_tower(kind).float()
        model = ht.HTCLIP(
            tower, reduce_dim=16, feature_layers=(1, 2), bottleneck=8, adapter_layers=layers, start="identity"
        )
        logits.append(
            model.eval()(torch.rand(2, 1, *model.tower.image_size, generator=torch.Generator().manual_seed(0)))
        )
    torch.testing.assert_close(*logits)


def test_an_unknown_start_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="unknown start 'zero', expected one of published, identity"):
        ht.HTAdapter(16, 8, start="zero")
    with pytest.raises(InputError, match="start 'zero' is unknown"):
        Recipe(start="zero")


def test_adapters_that_are_kept_have_no_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    where = ["train", "--task", "segmentation", str(root), "--dataset", "BUSI", "--output", str(tmp_path / "out")]
    assert main([*where, "--keep-adapters", "--start", "identity"]) == 2
    assert "--start identity is for new adapters, and --keep-adapters keeps" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{"adapter_learning_rate": 0.0}, {"clip": -1.0}, {"average": 1.0}, {"average": math.nan}]
)
def test_numbers_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} is "):
        Recipe(**options)  # type: ignore[arg-type]


def test_adapters_have_a_learning_rate_of_their_own(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    before = build("ht")
    still = train(root, tmp_path / "out", adapter_learning_rate=1e-30, final_learning_rate=1e-30, weight_decay=0.0)
    for (name, p), q in zip(before.named_parameters(), still.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-20) == name.startswith("clip_model."), name


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """With a clip of almost nothing, Adam's epsilon swallows the gradient, and only weight decay would act."""
    root = make_layout(tmp_path / "data")
    before = build("heads")
    clipped = train(root, tmp_path / "out", "heads", clip=1e-12, weight_decay=0.0)
    free = train(root, tmp_path / "free", "heads", weight_decay=0.0)
    distance = [
        max(float((p - q).detach().abs().max()) for p, q in zip(m.parameters(), before.parameters(), strict=True))
        for m in (clipped, free)
    ]
    assert distance[0] < distance[1] / 20


def test_an_average_of_weights() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    average = Average([parameter], decay=0.5)
    expected = 0.0
    for step in range(1, 20):
        with torch.no_grad():
            parameter.fill_(float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.in_place():
        assert float(parameter.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(parameter.detach()) == 19


def test_the_averaged_weights_are_saved(tmp_path: Path) -> None:
    model = train(make_layout(tmp_path / "data"), tmp_path / "out", "heads", average=0.9, validate_every=2)
    means = torch.load(tmp_path / "out" / "last.pt")["average"]["means"]
    saved = ht.HTCLIP.from_checkpoint(tmp_path / "out/best.safetensors", backbone=small_tower("timm").float())
    heads = {name: p for name, p in model.named_parameters() if not name.startswith("clip_model.")}
    assert not torch.equal(saved.seg_head.bias, model.seg_head.bias)
    for (name, parameter), mean in zip(heads.items(), means, strict=True):
        assert parameter.shape == mean.shape
        torch.testing.assert_close(saved.get_parameter(name), mean, msg=name)


def test_a_run_that_predicts_only_background_says_so(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    said: list[str] = []
    careful = {"start": "identity", "warmup": 1, "epochs": 2}
    for bias, options in ((50.0, {}), (-50.0, {}), (50.0, careful)):
        model = build("ht")
        with torch.no_grad():
            model.seg_head.bias[0] = bias
        recipe = Recipe(**{"epochs": 1, "batch": 4, "learning_rate": 1e-6, **options})  # type: ignore[arg-type]
        folder = tmp_path / f"{bias} {len(options)}"
        Trainer(model, recipe, examples(root, "train"), examples(root, "val"), folder, said.append).run()
    warnings = [line for line in said if "every pixel of every training" in line]
    first, *others = (line.partition("in another folder ")[2] for line in warnings)
    assert first == "with --start identity and --warmup 2 and a lower --learning-rate than 1e-06"
    assert others == ["with a lower --learning-rate than 1e-06"] * 2, "what the training already has is not advised"


def test_a_validation_without_any_foreground_is_said_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_layout(tmp_path / "data")
    said: list[str] = []
    model = build("ht")
    with torch.no_grad():
        model.seg_head.bias[1] = 50.0
    monkeypatch.setattr(trainer, "predict", lambda *arguments: torch.zeros_like(examples(root, "val").targets))
    recipe = Recipe(epochs=2, batch=4, learning_rate=1e-6, validate_every=2)
    Trainer(model, recipe, examples(root, "train"), examples(root, "val"), tmp_path / "out", said.append).run()
    found = [line for line in said if "was predicted as background" in line]
    assert len(found) == 1 and "epoch 2: every pixel of every validation image was" in found[0]


def test_the_augmentation_for_ultrasound_keeps_image_and_mask_together() -> None:
    """A bright disc on black stays the place of its mask, and no image is turned upside down."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = (((rows - 16) ** 2 + (columns - 26) ** 2) < 100).to(torch.uint8)
    image = (60 + 140 * mask)[None].to(torch.uint8)
    differing = set()
    for seed in range(40):
        seen, where = augment(image, mask, "ultrasound", random.Random(seed))
        assert where is not None and seen.dtype == where.dtype == torch.uint8 and seen.shape == image.shape
        assert set(where.unique().tolist()) <= {0, 1}
        inside, outside = seen[0][where > 0].float(), seen[0][(where == 0) & (seen[0] > 0)].float()
        assert inside.mean() > outside.mean() + 15
        assert rows[where > 0].float().mean() < 32
        differing.add(tuple(where.flatten().tolist()))
    assert len(differing) > 20
    again = augment(image, mask, "ultrasound", random.Random(7))[0]
    assert torch.equal(again, augment(image, mask, "ultrasound", random.Random(7))[0])


def test_the_augmentation_for_ultrasound_takes_images_without_masks() -> None:
    image = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    for seed in range(20):
        seen, mask = augment(image, None, "ultrasound", random.Random(seed))
        assert mask is None and seen.shape == image.shape


def test_an_identity_start_is_trained_away_from_zero(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    torch.manual_seed(0)
    model = ht.HTCLIP(small_tower("timm").float(), reduce_dim=16, feature_layers=(1, 2), bottleneck=8, start="identity")
    prepare(model, "ht")
    recipe = Recipe(epochs=2, batch=4, learning_rate=1e-3, clip=1.0, average=0.9, augment="ultrasound", warmup=1)
    Trainer(model, recipe, examples(root, "train"), examples(root, "val"), tmp_path / "out", lambda _: None).run()
    moved = [i for i, a in adapters(model.tower).items() if a.project2.weight.abs().max() > 0]
    assert moved == [i for i in adapters(model.tower) if i < model.depth]
