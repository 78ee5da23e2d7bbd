"""The methods without a tower: a UNet and a ResNet, by the same commands as all others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

import ht_kernels as ht
from helpers.layout import make_layout
from helpers.training import examples
from ht_kernels.cli import main
from ht_kernels.cli.train import _OF_TOWERS
from ht_kernels.errors import InputError
from ht_kernels.train import Baseline, BaselineConfig, Recipe, Trainer, new_baseline, prepare
from ht_kernels.train.recipe import BASELINES

pytestmark = pytest.mark.usefixtures("one_thread")


def command(name: str, root: Path, method: str, output: Path, *more: str) -> list[str]:
    if name == "evaluate":
        return ["evaluate", str(output / "best.safetensors"), str(root), "--dataset", "BUSI", *more]
    options = ["--task", BASELINES[method], "--dataset", "BUSI", "--image-size", "64", "--output", str(output)]
    short = ["--epochs", "1", "--batch", "4", "--augment", "none"]
    return ["train", str(root), "--method", method, *options, *short, *more]


@pytest.mark.parametrize("method", BASELINES)
def test_train_and_evaluate_and_what_needs_a_tower(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = make_layout(tmp_path / "data"), tmp_path / "out"
    best = str(output / "best.safetensors")
    assert main(command("train", root, method, output)) == 0
    assert "cannot be folded, exported or streamed: it has no tower" in capsys.readouterr().out
    written = {"best.safetensors", "last.pt", "log.csv", "curves.png", "settings.yaml", "tensorboard"}
    assert {path.name for path in output.iterdir()} == written
    assert main(command("evaluate", root, method, output, "--output", str(tmp_path / "test"))) == 0
    results = json.loads((tmp_path / "test/results.json").read_text())
    assert results["images"] == 3
    assert {"segmentation": "hd95_all", "classification": "f1"}[BASELINES[method]] in results["summary"]
    assert results["model"]["network"] == {"unet": "unet", "resnet": "resnet18"}[method]
    data = examples(root, "test", BASELINES[method])
    with torch.no_grad():
        logits = Baseline.load(output / "best.safetensors")(data.images.float() / 255)
    assert logits.shape == ((3, 2, 64, 64) if method == "unet" else (3, 2))
    capsys.readouterr()
    no = str(tmp_path / "no")
    for words in (
        ["export", best, "--output", f"{no}.onnx"],
        ["inspect", best, "--output", no],
        ["stream", str(root / "all/images"), "--checkpoint", best, "--output", no],
        ["convert", best, "--output", no],
        command("train", root, "unet", tmp_path / "no", "--method", "ht", "--task", "segmentation", "--from", best),
    ):
        assert main(words) == 2
        assert "was trained as a baseline: ht-kernels evaluate takes it" in capsys.readouterr().err
    assert not list(tmp_path.glob("no*"))
    other = ["--output", str(tmp_path / "other")]
    assert main(command("evaluate", root, method, output, "--backbone", "ViT-B-16", *other)) == 2
    assert "the network in" in capsys.readouterr().err
    assert main(command("evaluate", root, method, output, "--image-size", "72", *other)) == 2
    assert "multiple of" in capsys.readouterr().err


def trainer(root: Path, output: Path, method: str) -> Trainer:
    recipe = Recipe(method=method, epochs=3, batch=4, validate_every=1, average=0.9, augment="none", warmup=1)
    data = (examples(root, split, BASELINES[method]) for split in ("train", "val"))
    torch.manual_seed(3)
    return Trainer(new_baseline(method, BASELINES[method], image_size=64), recipe, *data, output, say=lambda _: None)


@pytest.mark.parametrize("method", BASELINES)
def test_a_stopped_training_resumes_with_its_statistics(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, record = make_layout(tmp_path / "data"), Trainer._record
    whole = trainer(root, tmp_path / "whole", method)
    whole.run()

    def killed(self: Trainer, row: dict[str, object]) -> None:
        record(self, row)
        if self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer(root, tmp_path / "killed", method).run()
    resumed = trainer(root, tmp_path / "killed", method)
    assert resumed.epoch == 2
    resumed.run()
    pairs = zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True)
    assert [name for (name, a), b in pairs if not torch.equal(a, b)] == []
    best = [load_file(tmp_path / name / "best.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_averaged_weights_have_averaged_statistics(tmp_path: Path) -> None:
    """Else batch norms shift averaged weights by what the newest ones saw."""
    run = trainer(make_layout(tmp_path / "data"), tmp_path / "out", "resnet")
    run.run()
    statistic = run.model.network.bn1.running_mean
    newest = statistic.clone()
    assert run.average is not None
    with run.average.in_place():
        averaged = statistic.clone()
    assert not torch.equal(averaged, newest) and torch.equal(statistic, newest)


def test_a_resnet_starts_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gray image then gives what the file's network gives for three equal channels, but for the last layer."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet34().eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = new_baseline("resnet", "classification", 3, backbone="resnet34", pretrained=str(tmp_path / "weights.pth"))
    assert model.config.task == "classification" and model.network.fc.out_features == 3
    gray = torch.rand(2, 1, 64, 64)
    theirs.fc = model.network.fc
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(gray), theirs(gray.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="holds no weights of a resnet18"):
        new_baseline("resnet", "classification", pretrained=str(tmp_path / "weights.pth"))

    asked: list[str] = []
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda url, **_: asked.append(url) or theirs.state_dict()
    )
    downloaded = new_baseline("resnet", "classification", backbone="resnet34", pretrained="imagenet")
    assert "resnet34" in asked[0]
    assert torch.equal(downloaded.network.layer1[0].conv1.weight, model.network.layer1[0].conv1.weight)

    def offline(url: str, **_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(InputError, match="no route to host"):
        new_baseline("resnet", "classification", pretrained="imagenet")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--method", "unet", "--task", "classification"], "--method unet is for --task segmentation"),
        (["--method", "resnet", "--task", "segmentation"], "--method resnet is for --task classification"),
        (["--pretrained", "openai"], "a UNet is trained from scratch"),
        (["--method", "resnet", "--task", "classification", "--backbone", "ViT-B-16"], "'ViT-B-16' is unknown"),
        (["--image-size", "72"], "a multiple of 16 pixels, 32 or more, and not 72"),
        *(
            ([option, *({"--keep-adapters": [], "--start": ["identity"]}.get(option, ["1"]))], f"{option} is for")
            for option in _OF_TOWERS.values()
        ),
    ],
)
def test_options_that_are_not_for_it(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_layout(tmp_path / "data")
    assert main(command("train", root, "unet", tmp_path / "out", *more)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_of_a_baseline(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    new_baseline("unet", "segmentation").save(path)
    tensors = load_file(path)
    key = "ht_kernels_baseline"
    whole = '{"network": "unet", "num_classes": %s, "class_names": %s, "image_size": %s}'
    for config in (
        *("{}", '{"network": "unet", "num_classes": 99999999, "class_names": null}', "[", '"unet"'),
        *(whole % values for values in (("2.0", "null", "64"), ("true", "null", "64"), ("2", "null", "64.0"))),
        *(whole % ("2", names, "64") for names in ('["lesion"]', '"ab"', "[1, 2]")),
    ):
        save_file(tensors, path, metadata={key: config})
        with pytest.raises(InputError, match="is damaged"):
            Baseline.load(path)
    save_file(tensors, path)
    with pytest.raises(InputError, match="is not the checkpoint of a UNet or ResNet"):
        Baseline.load(path)
    with pytest.raises(InputError, match="trains no tower"):
        prepare(ht.HTCLIP("timm/vit_tiny_patch16_224", adapter_layers=()), "unet")


@pytest.mark.parametrize("network", ["unet", "resnet18"])
def test_weights_that_make_no_sense(network: str, tmp_path: Path) -> None:
    method = "unet" if network == "unet" else "resnet"
    path = tmp_path / "model.safetensors"
    new_baseline(method, BASELINES[method]).save(path)
    tensors, config = load_file(path), {"network": network, "num_classes": 2, "class_names": None}
    key = "ht_kernels_baseline"
    for name in ("network.fc.bias", "network.bn1.running_var", "network.bn1.num_batches_tracked", next(iter(tensors))):
        if name not in tensors:
            continue
        for value in (float("nan"), float("inf")) if tensors[name].is_floating_point() else ():
            damaged = tensors | {name: torch.full_like(tensors[name], value)}
            save_file(damaged, path, metadata={key: json.dumps(config)})
            with pytest.raises(InputError, match=f"is damaged: {name} has values that are not finite numbers"):
                Baseline.load(path)
        save_file(tensors | {name: tensors[name].half()}, path, metadata={key: json.dumps(config)})
        with pytest.raises(InputError, match=f"is damaged: {name} is torch.float16, expected torch"):
            Baseline.load(path)
    for number in (1, 0, -1, 2.0, "2", True):
        with pytest.raises(InputError, match=r"num_classes is .*, expected a whole number, 2 or more"):
            BaselineConfig(network, number)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"class_names is \('lesion',\), expected a tuple of num_classes = 2"):
        BaselineConfig(network, class_names=("lesion",))


def test_without_monai_a_sentence_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(InputError, match=r"--method unet needs monai.*: pip install 'ht-kernels\[train\]'"):
        new_baseline("unet", "segmentation")
