"""The recipes by name, the published one beside a plain loop, and what the published code does with few images."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.losses import DiceCELoss, FocalLoss
from torch import nn

import ht_kernels as ht
from helpers.clip_folder import clip_folder
from helpers.layout import make_layout
from helpers.small_towers import IMAGE, small_tower
from helpers.training import SHORT, build, examples, train
from ht_kernels.backends import core
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.published import PublishedHTCLIP
from ht_kernels.train import Examples, Recipe, Trainer, named_recipe, prepare
from ht_kernels.train.augment import augment
from ht_kernels.train.methods import merged


def test_recipes_by_name() -> None:
    published, ours = (named_recipe(name, "segmentation") for name in ("published", "ours"))
    assert published == Recipe() and published.drop_last and published.start == "published"
    assert (ours.epochs, ours.start, ours.drop_last, ours.average) == (30, "identity", False, 0.99)
    for name, rate in (("published", 1e-6), ("ours", 2e-5)):
        for method in ("full", "last3", "last6", "last9"):
            recipe, contrastive = (named_recipe(name, task, method) for task in ("classification", "contrastive"))
            assert recipe.method == method and recipe.adapter_learning_rate == contrastive.learning_rate == rate
            assert recipe.learning_rate == named_recipe(name, "classification").learning_rate
    assert named_recipe("published", "contrastive", "lora").lora_dropout == 0.1
    assert named_recipe("ours", "segmentation", "lora").adapter_learning_rate == 3e-4
    assert named_recipe("published", "segmentation", "lora").adapter_learning_rate is None
    assert named_recipe("ours", "contrastive", "lora").adapter_learning_rate is None
    with pytest.raises(InputError, match="recipe 'quick' is unknown; expected one of published, ours"):
        named_recipe("quick", "segmentation")


def test_the_command_takes_the_recipe_of_task_and_method(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Recipe] = []

    def stop(_: object, recipe: Recipe) -> None:
        found.append(recipe)
        raise InputError("enough")

    for check in ("_check_inputs", "_check_data"):
        monkeypatch.setattr(f"ht_kernels.cli.train.{check}", lambda args: None)
    monkeypatch.setattr("ht_kernels.cli.train._data", stop)
    command = ["train", "--task", "segmentation", "DATA", "--dataset", "BUSI", "--output", "out"]
    command += ["--pretrained", "openai"]
    for more in ([], ["--recipe", "published", "--method", "last6"], ["--method", "full", "--batch", "2"]):
        assert main([*command, *more]) == 2
    ours = named_recipe("ours", "segmentation")
    rates = {"method": "full", "adapter_learning_rate": 2e-5}
    assert found == [ours, named_recipe("published", "segmentation", "last6"), replace(ours, batch=2, **rates)]


def test_validations_are_counted_as_published() -> None:
    def validated(recipe: Recipe) -> list[int]:
        return [epoch for epoch in range(1, recipe.epochs + 1) if recipe.validates(epoch)]

    assert validated(Recipe(epochs=35)) == [11, 21, 31, 35]
    assert validated(Recipe(epochs=2, validate_every=1)) == [2]
    assert validated(Recipe(epochs=8, validate_every=3, validate_offset=0)) == [3, 6, 8]
    assert validated(replace(named_recipe("ours", "segmentation"), epochs=3)) == [1, 2, 3]


def test_a_batch_that_is_not_full_is_dropped_unless_it_is_the_only_one() -> None:
    assert [Recipe(batch=4).steps_of(images) for images in (3, 4, 7, 8)] == [1, 1, 1, 2]
    assert [Recipe(batch=4, drop_last=False).steps_of(images) for images in (3, 4, 7, 8)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ({"warmup": "a"}, TypeError, "warmup must be a whole number, got 'a'"),
        ({"warmup": math.nan}, TypeError, "warmup must be a whole number, got nan"),
        ({"warmup": -1}, InputError, "warmup is -1, expected 0 or more"),
        ({"clip": "a"}, TypeError, "clip must be a number, got 'a'"),
        ({"clip": math.nan}, InputError, "clip is nan, expected a number above 0"),
        ({"adapter_learning_rate": True}, TypeError, "adapter_learning_rate must be a number, got True"),
        ({"average": 1}, InputError, "average is 1, expected a decay between 0 and 1"),
    ],
)
def test_wrong_values_are_refused(value: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Recipe(**value)


def plain_loop(model: nn.Module, task: str, data: Examples, recipe: Recipe) -> tuple[list[float], list[float]]:
    """Train as the published code is described to do; the mean losses and the last learning rates of the epochs."""
    images = (data.images.float() / 255).expand(-1, 3, -1, -1)
    if task == "segmentation":
        loss: Any = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=1e-8, smooth_dr=1e-8)
        targets = data.targets[:, None].float()
    else:
        loss, targets = FocalLoss(to_onehot_y=True), data.targets
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01
    )
    steps = len(data) // recipe.batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps * recipe.epochs, eta_min=1e-8)
    means, rates = [], []
    for epoch in range(recipe.epochs):
        order = list(range(len(data)))
        random.Random(f"{recipe.seed} {epoch}").shuffle(order)
        losses = []
        for step in range(steps):
            batch = order[step * recipe.batch : (step + 1) * recipe.batch]
            optimizer.zero_grad()
            value = loss(model(images[batch]), targets[batch])
            value.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(value.detach()))
        means.append(sum(losses) / steps)
        rates.append(schedule.get_last_lr()[0])
    return means, rates


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_the_published_recipe_trains_as_a_plain_loop_does(task: str, tmp_path: Path) -> None:
    """Dropout and augmentation are off, the order is the same; eleven images make two batches of four."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (11, 1, IMAGE, IMAGE), dtype=torch.uint8, generator=generator)
    targets = (pixels[:, 0] > 127).to(torch.uint8) if task == "segmentation" else torch.arange(11) % 2
    data = Examples(pixels, targets, tuple(map(str, range(11))), {})
    model = build("ht", task)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    published = PublishedHTCLIP.like(model.train())
    recipe = replace(named_recipe("published", task), epochs=12, batch=4, augment="none")
    trainer = Trainer(model, recipe, data, data, tmp_path, say=lambda _: None)
    trainer.run()
    losses, rates = plain_loop(published, task, data, recipe)
    assert [row["loss"] for row in trainer.rows] == pytest.approx(losses, rel=1e-5) and losses[-1] < losses[0]
    assert [row["learning_rate"] for row in trainer.rows] == pytest.approx(rates, rel=1e-9)
    scores = [[name for name in row if name.startswith("val_")] for row in trainer.rows]
    assert [epoch for epoch, names in enumerate(scores, 1) if names] == [11, 12]


def shots_of(labels: list[int], ratio: float, shots: int | None, seed: int) -> set[int]:
    """The images that the published code is described to draw, with Python's own random numbers."""
    random.seed(seed)
    of_class: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        of_class.setdefault(label, []).append(i)
    drawn: set[int] = set()
    for images in of_class.values():
        count = min(shots, len(images)) if shots else max(1, int(len(images) * ratio))
        drawn |= set(random.sample(images, count))
    return drawn


def labelled(labels: list[int]) -> Examples:
    count = len(labels)
    empty = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
    return Examples(empty, torch.tensor(labels), tuple(map(str, range(count))), {})


def test_few_images_of_every_class() -> None:
    labels = random.Random(0).choices((0, 1, 2), (70, 25, 5), k=300)
    data = labelled(labels)
    for seed in range(100):
        share = data.share(1, seed)
        assert set(share.targets.tolist()) == {0, 1, 2}
        assert set(map(int, share.names)) == shots_of(labels, 0.01, None, seed)
        few = data.share(100, seed, shots=20)
        assert set(map(int, few.names)) == shots_of(labels, 1, 20, seed)
        assert torch.equal(few.targets, data.targets[list(map(int, few.names))])
    counts = torch.bincount(data.share(100, 0, shots=20).targets).tolist()
    assert counts == [20, 20, labels.count(2)] and labels.count(2) < 20


def test_few_images_with_masks() -> None:
    data = replace(labelled([0] * 40), targets=torch.zeros(40, 2, 2, dtype=torch.uint8))
    assert len(data.share(5, 1)) == 2 and len(data.share(1, 1)) == 1
    assert data.share(20, 1).names == data.share(20, 1).names != data.share(20, 2).names
    assert set(map(int, data.share(20, 3).names)) == shots_of([0] * 40, 0.2, None, 3)
    with pytest.raises(InputError, match="these images have no classes"):
        data.share(100, 1, shots=2)


def test_options_of_few_images_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "DATA", "--dataset", "BUSI", "--output", "out", "--shots", "2"]
    assert main([*command, "--task", "segmentation"]) == 2
    assert "--shots is a number of images of each class" in capsys.readouterr().err
    assert main([*command, "--task", "classification", "--ratio", "5"]) == 2
    assert "ratio 5 and shots 2 were both given, expected one of them" in capsys.readouterr().err


def test_a_few_shots_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    tower = ["--backbone", f"local-dir:{clip_folder(tmp_path / 'clip')}", "--feature-layers", "0", "1"]
    command = ["train", "--task", "classification", str(root), "--dataset", "BUSI", *tower, "--epochs", "1"]
    assert main([*command, "--output", str(tmp_path / "out"), "--shots", "1"]) == 0
    assert "2 images to train on, 2 to validate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "all_images"), [("published", False), ("light", False), ("weak", True), ("gray", True)]
)
def test_how_many_images_are_augmented(kind: str, all_images: bool) -> None:
    """What is drawn may change nothing, in 35 of 100 images for ``weak`` and 12 for ``gray``."""
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    changed = [not torch.equal(augment(image, None, kind, random.Random(seed))[0], image) for seed in range(300)]
    assert (sum(changed) > 150) == all_images


def deep() -> ht.HTCLIP:
    """A model that runs all four blocks of its tower, without adapters."""
    torch.manual_seed(3)
    return ht.HTCLIP(small_tower("timm").float(), reduce_dim=16, feature_layers=(1, 3), adapter_layers=())


def test_the_last_blocks_alone_are_tuned(tmp_path: Path) -> None:
    root, before, model = make_layout(tmp_path / "data"), deep(), deep()
    prepare(model, "last3")
    recipe = Recipe(**SHORT | {"method": "last3", "epochs": 1})  # type: ignore[arg-type]
    Trainer(model, recipe, examples(root, "train"), examples(root, "val"), tmp_path / "out", lambda _: None).run()
    changed = {n for n, p in before.named_parameters() if not torch.equal(p, model.get_parameter(n))}
    inside = {name for name in changed if name.startswith("clip_model.")}
    assert {name.partition(".blocks.")[2].partition(".")[0] for name in inside} == {"1", "2", "3"}
    assert changed - inside, "the heads are trained"
    saved = ht.HTCLIP.from_checkpoint(tmp_path / "out/best.safetensors", backbone=small_tower("timm").float())
    images = torch.rand(1, 1, IMAGE, IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(saved.eval()(images), model.eval()(images))
    with pytest.raises(InputError, match="the method last6 trains 6 blocks, and the model runs 4"):
        prepare(model, "last6")
    assert any(p.requires_grad for p in model.tower.blocks[3].parameters()), "a model that is refused stays as it was"


def test_inputs_of_low_rank_updates_are_dropped_in_training() -> None:
    images = torch.rand(2, 1, IMAGE, IMAGE)
    for dropout in (0.0, 0.5):
        model = deep()
        prepare(model, "lora", dropout)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
        with torch.no_grad():
            evaluated, trained = model.eval()(images), model.train()(images)
            torch.testing.assert_close(merged(model, "lora").eval()(images), evaluated, atol=1e-5, rtol=1e-4)
        assert torch.allclose(trained, evaluated) == (dropout == 0)


def test_trainings_of_one_process_may_differ_in_precision(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    model = train(root, tmp_path / "bf16", "heads", precision="bf16", epochs=1)
    images = torch.rand(1, 1, IMAGE, IMAGE)
    fresh = build("heads")
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = fresh.eval()(images)
    data = examples(root, "train"), examples(root, "val")
    trainer = Trainer(model, Recipe(method="heads"), *data, tmp_path / "float32", lambda _: None)
    with torch.no_grad():
        assert torch.equal(trainer.parallel.eval()(images), expected), "the earlier precision is forgotten"
    train(root, tmp_path / "again", "heads", precision="bf16", epochs=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bf16_on_a_cpu_without_instructions_for_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_layout(tmp_path / "data")
    data = examples(root, "train"), examples(root, "val")

    def said(precision: str, isa: str) -> list[str]:
        monkeypatch.setattr(core, "module", SimpleNamespace(cpu_isa=lambda: isa))
        monkeypatch.setattr(core, "missing", "")
        lines: list[str] = []
        recipe = Recipe(method="heads", precision=precision)
        Trainer(build("heads"), recipe, *data, tmp_path / precision / isa, lines.append)
        return lines

    assert said("bf16", "avx2") == [
        "precision bf16 on this CPU: the kernels use avx2, and only avx512_bf16 multiplies bfloat16; training may be "
        "faster without"
    ]
    assert said("bf16", "avx512_bf16") == said("no", "avx2") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_on_the_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the precision fp16 needs a GPU; on the CPU train with bf16 or no"):
        train(make_layout(tmp_path / "data"), tmp_path / "out", "heads", precision="fp16")


def test_a_short_training_can_be_made_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    tower = ["--backbone", f"local-dir:{clip_folder(tmp_path / 'clip')}", "--feature-layers", "0", "1"]
    command = ["train", "--task", "segmentation", str(root), "--dataset", "BUSI", "--output", str(tmp_path / "out")]
    for epochs, said in (("1", "epoch 1 of 1"), ("3", "epoch 2 of 3"), ("6", "epoch 4 of 6")):
        assert main([*command, *tower, "--epochs", epochs]) == 0
        assert said in capsys.readouterr().out
    recipes = [replace(named_recipe("ours", "segmentation"), epochs=epochs) for epochs in (1, 3, 6)]
    warmed = [next(step for step in range(60) if recipe.rate_at(step, 80, 1.0) >= 0.999) for recipe in recipes]
    assert warmed == [0, 9, 19], "the learning rate rises in at most half of the epochs"


def test_a_training_that_ran_out_of_patience_goes_on_with_more(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    said: list[str] = []

    def trained(patience: int) -> int:
        options = {"method": "heads", "epochs": 4, "patience": patience, "learning_rate": 1e-30}
        recipe = Recipe(**SHORT | options)  # type: ignore[arg-type]
        data = examples(root, "train"), examples(root, "val")
        return Trainer(build("heads"), recipe, *data, tmp_path / "out", said.append).run().epochs

    assert [trained(1), trained(1), trained(9)] == [2, 2, 4]
    line = "validations without a better score: 1; with more --patience it goes on"
    assert said.count(line) == 1 and said.count("resumed after epoch 2") == 2
