"""Training: what is trained and what is not, resuming, processes, bad data."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import ht_kernels as ht
from helpers.clip_folder import clip_folder
from helpers.layout import disc, make_layout, save
from helpers.small_towers import IMAGE, timm_tower
from helpers.training import build, examples, train
from ht_kernels.cli import main
from ht_kernels.clip.injection import adapters
from ht_kernels.clip.published_checkpoint import to_published
from ht_kernels.errors import InputError
from ht_kernels.train import Recipe, Trainer, prepare, start_from
from ht_kernels.train import build as build_model
from ht_kernels.train.methods import merged
from ht_kernels.weights import PHANTOM


def digest(model: ht.HTCLIP) -> str:
    named = sorted((n, p) for n, p in model.state_dict().items() if n.startswith("clip_model.") and ".mona." not in n)
    return hashlib.sha256(b"".join(p.numpy().tobytes() for n, p in named if "lora_" not in n)).hexdigest()


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
    assert names == {"best.safetensors", "last.pt", "log.csv", "curves.png", "tensorboard"}


@pytest.mark.parametrize("steadied", [{}, {"average": 0.9, "clip": 1.0, "adapter_learning_rate": 1e-3, "warmup": 1}])
def test_a_killed_training_resumes_to_the_same_weights(
    steadied: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_layout(tmp_path / "data")
    whole = train(root, tmp_path / "whole", epochs=3, **steadied)
    record = Trainer._record

    def killed(self: Trainer, row: dict[str, object]) -> None:
        record(self, row)
        if self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            train(root, tmp_path / "killed", epochs=3, **steadied)
    resumed = train(root, tmp_path / "killed", epochs=3, **steadied)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    means = [torch.load(tmp_path / name / "last.pt")["average"] for name in ("whole", "killed")]
    assert (means[0] is None) == (not steadied)
    for a, b in zip(*(mean["means"] if mean else () for mean in means), strict=True):
        assert torch.equal(a, b)


def test_a_batch_in_parts_is_the_same_batch(tmp_path: Path) -> None:
    root = make_layout(tmp_path / "data")
    whole, parts = (train(root, tmp_path / str(n), "heads", accumulate=n) for n in (1, 3))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_variants_of_a_seed_have_the_same_heads() -> None:
    heads = []
    for variant in ("baseline", "hybrid"):
        torch.manual_seed(5)
        model = build_model("ht", backbone="timm/vit_tiny_patch16_224", variant=variant, reduce_dim=16)
        heads.append({n: p for n, p in model.state_dict().items() if not n.startswith("clip_model.")})
    assert all(torch.equal(p, heads[1][name]) for name, p in heads[0].items())


@pytest.fixture(scope="module")
def shipped() -> dict[str, torch.Tensor]:
    """The state of the checkpoint that comes with the package."""
    return ht.HTCLIP.from_checkpoint(PHANTOM).state_dict()


@pytest.mark.parametrize(("method", "keep"), [("ht", False), ("ht", True), ("heads", True), ("heads", False)])
def test_starting_from_a_checkpoint(method: str, keep: bool, shipped: dict[str, torch.Tensor]) -> None:
    model = start_from(PHANTOM, method, keep, task="segmentation", num_classes=2, class_names=("background", "lesion"))
    prepare(model, method)
    state = model.train().state_dict()
    in_adapters = {name for name in state if ".mona." in name}
    assert bool(in_adapters) == (keep or method == "ht")
    run = tuple(f"clip_model.blocks.{i}." for i in range(4))
    for name in state.keys() - in_adapters:
        if name.startswith(run) or not name.startswith("clip_model."):
            assert torch.equal(state[name], shipped[name]), name
    assert all(torch.equal(state[name], shipped[name]) for name in in_adapters) == (keep or not in_adapters)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (method == "ht" if ".mona." in name else not name.startswith("clip_model."))
    trained = [a.training for a in adapters(model.tower).values()]
    assert all(mode == (method == "ht") for mode in trained), "what is frozen has no dropout"


@pytest.mark.parametrize("keep", [False, True])
def test_another_image_size_is_that_of_the_checkpoint_that_is_written(keep: bool, tmp_path: Path) -> None:
    """Positions that are resampled twice are not those that are resampled once."""
    tower = timm.create_model("vit_tiny_patch16_224")
    torch.nn.init.normal_(tower.pos_embed)
    save_file(tower.state_dict(), tmp_path / "tower.safetensors")
    first = ht.HTCLIP("timm/vit_tiny_patch16_224", str(tmp_path / "tower.safetensors"), image_size=64, reduce_dim=16)
    first.save(tmp_path / "first.safetensors")
    second = start_from(tmp_path / "first.safetensors", "ht", keep, image_size=96).eval()
    second.save(tmp_path / "second.safetensors")
    again = ht.HTCLIP.from_checkpoint(tmp_path / "second.safetensors").eval()
    images = torch.rand(1, 1, 96, 96)
    with torch.no_grad():
        assert torch.equal(second(images), again(images))


def test_blocks_that_a_checkpoint_does_not_hold() -> None:
    with pytest.raises(InputError, match=r"holds blocks 0 to 3 of its tower, .* choose feature layers up to 3"):
        start_from(PHANTOM, "ht", feature_layers=(1, 2, 5))


def test_a_backbone_that_comes_with_its_weights_has_the_blocks_that_a_checkpoint_does_not_hold(tmp_path: Path) -> None:
    vision = {"image_size": 64, "layers": 4, "width": 32, "head_width": 8, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 10, "width": 8, "heads": 1, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    clip = open_clip.model.CLIP(**config)
    torch.save(clip.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    first = ht.HTCLIP(f"local-dir:{tmp_path}", feature_layers=(0, 1), reduce_dim=16).resize(96)
    first.save(tmp_path / "first.safetensors")
    model = start_from(tmp_path / "first.safetensors", "ht", feature_layers=(1, 3))
    state, positions = model.state_dict(), "clip_model.visual.positional_embedding"
    assert torch.equal(state[positions], first.state_dict()[positions])
    loaded = state["clip_model.visual.transformer.resblocks.3.mlp.c_fc.weight"]
    assert torch.equal(loaded, clip.visual.transformer.resblocks[3].mlp.c_fc.weight)


def test_new_heads_for_another_task_and_a_spectral_filter(tmp_path: Path) -> None:
    shipped = ht.HTCLIP.from_checkpoint(PHANTOM)
    other = {"task": "classification", "num_classes": 3, "class_names": ("a", "b", "c")}
    model = start_from(PHANTOM, "ht", True, spectral="full", **other)
    assert model.config.spectral == "full" and model.cls_head[-1].out_features == 3
    assert torch.equal(model.reduces[0].weight, shipped.reduces[0].weight)
    images = torch.rand(1, 1, 224, 224)
    with torch.no_grad():  # the spectral filter starts as the gain that it stands for
        for a, b in zip(model.eval().features(images), shipped.eval().features(images), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    model.save(tmp_path / "model.safetensors")
    again = ht.HTCLIP.from_checkpoint(tmp_path / "model.safetensors")
    assert torch.equal(model(images), again.eval()(images)), "with the tower that came from the checkpoint"
    narrow = start_from(PHANTOM, "heads", reduce_dim=16)
    assert narrow.seg_head[1].in_channels == 16


def test_new_adapters_are_of_the_form_that_the_checkpoint_has(tmp_path: Path) -> None:
    small = {"image_size": 64, "feature_layers": (0, 1), "reduce_dim": 16, "bottleneck": 8}
    source = build_model("ht", backbone="timm/vit_tiny_patch16_224", spectral="radial", **small)
    source.save(tmp_path / "radial", tower=True)
    for options, expected in (
        ({}, "radial"),
        ({"spectral": "full"}, "full"),
        ({"variant": "baseline"}, None),
        ({"variant": "freq_enhanced", "spectral": "shared"}, "shared"),
    ):
        model = start_from(tmp_path / "radial", "ht", **options)
        assert model.config.bottleneck == 8 and model.config.spectral == expected
        assert {adapter.spectral for adapter in adapters(model.tower).values()} == {expected}


def test_a_checkpoint_without_adapters_has_none_to_keep(tmp_path: Path) -> None:
    small = {"image_size": 64, "feature_layers": (0, 1), "reduce_dim": 16}
    model = build_model("heads", backbone="timm/vit_tiny_patch16_224", **small)
    model.save(tmp_path / "heads.safetensors", tower=True)
    with pytest.raises(InputError, match="has no adapters that could be kept"):
        start_from(tmp_path / "heads.safetensors", "ht", keep_adapters=True)
    assert adapters(start_from(tmp_path / "heads.safetensors", "ht").tower)


def test_options_that_do_not_go_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [str(make_layout(tmp_path / "data")), "--dataset", "BUSI", "--output", str(tmp_path / "out")]
    arguments = ["train", "--task", "segmentation", *data]
    start = ["--from", str(PHANTOM)]
    for more, expected in (
        (["--keep-adapters"], "name it with --from"),
        ([*start, "--keep-adapters", "--variant", "baseline"], "leave one of them out"),
        ([*start, "--variant", "baseline", "--spectral", "full"], "needs an adapter with a gain"),
        ([*start, "--variant", "magic"], "--variant magic is unknown; expected one of baseline"),
        (["--from", str(tmp_path / "none")], "there is no checkpoint file"),
    ):
        assert main([*arguments, *more]) == 2
        assert expected in capsys.readouterr().err


def test_warnings_about_a_checkpoint_are_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, small = make_layout(tmp_path / "data"), {"image_size": 64, "feature_layers": (0, 1), "bottleneck": 8}
    model = build_model("ht", backbone="timm/vit_tiny_patch16_224", reduce_dim=16, **small)
    torch.save(to_published(model)["mona"], tmp_path / "mona.pth")
    save_file(timm.create_model("vit_tiny_patch16_224", img_size=64).state_dict(), tmp_path / "tower.safetensors")
    (root / "all/images" / (root / "segmentation/BUSI/train.txt").read_text().split()[0]).write_bytes(b"none")
    where = [str(root), "--dataset", "BUSI", "--output", str(tmp_path / "out"), "--image-size", "64"]
    tower = ["--backbone", "timm/vit_tiny_patch16_224", "--pretrained", str(tmp_path / "tower.safetensors")]
    start = ["--from", str(tmp_path / "mona.pth"), *tower]
    assert main(["train", "--task", "segmentation", *where, *start]) == 2
    assert capsys.readouterr().err.startswith("warning: mona.pth holds adapters only: the heads are untrained\n")


BAD_IMAGES = {
    "BUSI_0.png": (lambda r: (r / "all/masks/BUSI_0.png").unlink(), "masks/BUSI_0.png of "),
    "BUSI_1.png": (lambda r: save(r / "all/masks/BUSI_1.png", disc(1, (40, 50))), "BUSI_1.png is 50x40 pixels, but"),
    "BUSI_2.png": (lambda r: truncate(r / "all/images/BUSI_2.png"), "BUSI_2.png cannot be read as an image"),
}
BAD_SETS = {
    "empty split": ("segmentation", "segmentation/BUSI/val.txt", "", "val.txt names no images: the val split is empty"),
    "label": ("classification", "classification/BUSI/labels.csv", "BUSI_0.png,2", "BUSI_0.png has label 2, expected"),
}


def command(root: Path, task: str = "segmentation") -> list[str]:
    where = [str(root), "--dataset", "BUSI", "--output", str(root.parent / "out"), "--from", str(PHANTOM)]
    return ["train", "--task", task, *where, "--method", "heads", "--epochs", "1", "--batch", "2"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_a_training_that_goes_on_starts_from_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is trained is in last.pt, so weights from another checkpoint would not be read at all."""
    root, other = make_layout(tmp_path / "data"), tmp_path / "other.safetensors"
    model = ht.HTCLIP.from_checkpoint(PHANTOM)
    with torch.no_grad():
        model.seg_head.bias.add_(1)
    model.save(other)
    moved = shutil.copy(PHANTOM, tmp_path / "moved.safetensors")
    assert main(command(root)) == 0
    assert main([*command(root), "--epochs", "2", "--from", str(other)]) == 2
    words = "last.pt cannot be resumed: what the model takes from the checkpoint of --from changed; train as before"
    assert words in capsys.readouterr().err
    assert main([*command(root), "--epochs", "2", "--from", str(moved)]) == 0
    assert "resumed after epoch 1" in capsys.readouterr().out


def test_the_state_of_a_training_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = make_layout(tmp_path / "data"), tmp_path / "out"
    train(root, out)
    state, new = str(out / "last.pt"), ["--output", str(tmp_path / "new")]
    save(tmp_path / "image.png", disc(0))
    evaluate = ["evaluate", state, str(root), "--dataset", "BUSI", *new]
    predict = ["predict", str(tmp_path / "image.png"), "--weights", state, *new]
    again = ["train", "--task", "segmentation", str(root), "--dataset", "BUSI", "--from", state, *new]
    tower = [*again[:-4], "--backbone", "ViT-B-32", "--pretrained", state, *new]
    for advice in (f"name {out / 'best.safetensors'}, its best weights", "name the best.safetensors that it wrote"):
        for words in (evaluate, predict, again, tower):
            assert main(words) == 2
            assert f"it is the state of a training, for ht-kernels train to go on from: {advice}" in (
                capsys.readouterr().err
            ), words
        (out / "best.safetensors").unlink(missing_ok=True)
    assert not (tmp_path / "new").exists()


def test_other_options_are_refused_before_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_layout(tmp_path / "data")
    assert main(command(root)) == 0
    monkeypatch.setattr("ht_kernels.train.examples.read_examples", lambda *_: pytest.fail("images were read"))
    capsys.readouterr()
    assert main([*command(root), "--seed", "7"]) == 2
    assert "last.pt cannot be resumed: the option seed was 1 and is 7 now" in capsys.readouterr().err


NO_ADAPTERS = "heads", "lora", "full", "last3", "last6", "last9"
IGNORED = [
    *(
        (
            ["--method", method, *option],
            f"{option[0]} is for new adapters, and --method {method} makes none: leave it out",
        )
        for method in NO_ADAPTERS
        for option in (["--variant", "baseline"], ["--spectral", "full"], ["--start", "identity"])
    ),
    (["--method", "heads", "--adapter-learning-rate", "1e-3"], "--method heads trains nothing there: leave it out"),
    (
        ["--task", "contrastive", "--learning-rate", "1e-3", "--adapter-learning-rate", "1e-3"],
        "that of heads, and a contrastive model has none: leave one of them out",
    ),
    (["--task", "contrastive", "--feature-layers", "1"], "--feature-layers is of a head, and a contrastive model has"),
    (["--phantoms", "3", "--skip-bad"], "--skip-bad is for images in files, and --phantoms simulates them"),
]


@pytest.mark.parametrize(("more", "words"), IGNORED)
def test_options_that_would_be_ignored_are_refused(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before data is looked for: there is none."""
    data = [] if "--phantoms" in more else [str(tmp_path / "none"), "--dataset", "BUSI"]
    assert main(["train", "--task", "segmentation", *data, "--output", str(tmp_path / "out"), *more]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_stops_the_command(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    damage, expected = BAD_IMAGES[name]
    damage(root)
    assert main(command(root)) == 2
    assert expected in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_images_are_left_out_if_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    for damage, _ in BAD_IMAGES.values():
        damage(root)
    assert main([*command(root), "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert all(f"left out {name}: " in said and why in said for name, (_, why) in BAD_IMAGES.items())
    assert "2 images to train on, 2 to validate" in said and (tmp_path / "out/best.safetensors").exists()
    for i in (3, 4):
        truncate(root / f"all/images/BUSI_{i}.png")
    assert main([*command(root), "--skip-bad"]) == 2
    assert "none of the 5 images can be used; the first: " in capsys.readouterr().err


@pytest.mark.parametrize("name", BAD_SETS)
def test_a_bad_data_set_stops_the_command(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    task, file, content, expected = BAD_SETS[name]
    (root / file).write_text(content)
    for more in ([], ["--skip-bad"]):
        assert main([*command(root, task), *more]) == 2
        assert expected in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_validation_without_a_lesion_chooses_no_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    for i in (5, 6):
        save(root / f"all/masks/BUSI_{i}.png", 0 * disc(i))
    assert main(command(root)) == 2
    assert "no validation image has a lesion (2 came)" in capsys.readouterr().err


def test_options_that_are_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command(make_layout(tmp_path / "data")), "--method", "magic"]) == 2
    assert "expected one of ht, heads" in capsys.readouterr().err


def test_a_loss_that_grows_without_bound_stops_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    assert main([*command(root), "--learning-rate", "1e30", "--augment", "none"]) == 2
    assert "the loss is nan in epoch 1, on a batch of BUSI_" in capsys.readouterr().err


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


def test_a_tower_of_another_size_is_trained_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = make_layout(tmp_path / "data"), tmp_path / "out"
    tower = ["--backbone", f"local-dir:{clip_folder(tmp_path / 'clip')}", "--feature-layers", "0", "1"]
    where = [str(root), "--dataset", "BUSI"]
    arguments = ["train", "--task", "segmentation", *where, "--output", str(out), *tower, "--epochs", "1"]
    assert main([*arguments, "--image-size", "100"]) == 2
    assert "do not divide into patches of 16x16; the sizes near it that do are 96 and 112" in capsys.readouterr().err
    assert main([*arguments, "--image-size", "96"]) == 0
    best = out / "best.safetensors"
    assert ht.HTCLIP.from_checkpoint(best).config.image_size == 96
    for name, size in {"same": [], "other": ["--image-size", "64"]}.items():
        evaluate = ["evaluate", str(best), *where, "--split", "val", "--output", str(tmp_path / name)]
        assert main([*evaluate, *size]) == 0
    started = ["--from", str(best), "--image-size", "80", "--output", str(tmp_path / "next"), "--epochs", "1"]
    assert main(["train", "--task", "segmentation", *where, *started]) == 0
    assert ht.HTCLIP.from_checkpoint(tmp_path / "next/best.safetensors").config.image_size == 80


def test_training_says_first_that_a_tower_cannot_be_folded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parallel(*_: object) -> torch.nn.Module:
        return timm_tower(block_fn=timm.models.vision_transformer.ParallelScalingBlock)

    monkeypatch.setattr("ht_kernels.clip.htclip.load_backbone", parallel)
    root = make_layout(tmp_path / "data")
    where = [str(root), "--dataset", "BUSI", "--output", str(tmp_path / "out"), "--feature-layers", "0", "1"]
    assert main(["train", "--task", "segmentation", *where, "--epochs", "1", "--pretrained", "some"]) == 0
    said = capsys.readouterr()
    text = said.out + said.err
    assert 0 <= text.index("cannot be folded, exported or streamed: block 0 of the tower (Par") < text.index("epoch")


def test_the_command_ends_with_what_the_model_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too few images it says so. A training with nothing left to do calibrates, too, and changes nothing else."""
    root, best = make_layout(tmp_path / "data"), tmp_path / "out/best.safetensors"
    assert main(command(root)) == 0
    said = capsys.readouterr().out
    assert "the model cannot tell unfamiliar images: the distance from the training images cannot be" in said
    assert "with 5 training images: at least 10 are needed" in said
    before = load_file(best)
    assert "familiarity.limit" not in before
    monkeypatch.setattr("ht_kernels.nn.familiarity.FEWEST", 2)
    for _ in range(2):
        assert main(command(root)) == 0
        after = load_file(best)
        said = capsys.readouterr().out.splitlines()[-1]
        limit = float(after["familiarity.limit"])
        assert said == f"images farther than {limit:.3f} from the training images are unfamiliar to the model"
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    best.rename(tmp_path / "elsewhere.safetensors")
    assert main(command(root)) == 0 and not best.exists()
    assert f"cannot tell unfamiliar images: there is no checkpoint file {best}" in capsys.readouterr().out
