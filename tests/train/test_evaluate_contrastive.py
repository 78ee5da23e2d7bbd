"""The commands for image-text models: from phantoms with captions to zero-shot classification and retrieval."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from helpers.clip_folder import clip_folder
from helpers.layout import make_layout
from ht_kernels.cli import main
from ht_kernels.clip import HTCLIP
from ht_kernels.clip.published_checkpoint import save_published
from ht_kernels.data.captions import read_captions
from ht_kernels.deploy import GraphRunner, Session, fold, read_manifest
from ht_kernels.train.zero_shot import embed_classes, fill
from ht_kernels.weights import PHANTOM


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, the CLIP model it was tuned from, and the run."""
    root = tmp_path_factory.mktemp("contrastive")
    place = clip_folder(root / "clip")
    assert main(["phantom", "--output", str(root / "data"), "--count", "20", "--size", "64"]) == 0
    command = ["train", "--task", "contrastive", str(root / "data"), "--dataset", "PHANTOM", "--output"]
    options = ["--backbone", f"local-dir:{place}", "--epochs", "1", "--batch", "8", "--augment", "gray"]
    assert main([*command, str(root / "run"), *options]) == 0
    return root


def results(folder: Path) -> dict[str, object]:
    return json.loads((folder / "results.json").read_text())


def test_zero_shot(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, best = str(trained / "data"), str(trained / "run/best.safetensors")
    templates = tmp_path / "templates.txt"
    templates.write_text("a {} lesion\n\nultrasound of a {} lesion\n")
    command = ["evaluate", best, data, "--dataset", "PHANTOM", "--split", "train", "--output", str(tmp_path / "out")]
    command.append("--overwrite")
    assert main([*command, "--templates", str(templates)]) == 0
    assert "| accuracy |" in capsys.readouterr().out
    found = results(tmp_path / "out")
    assert list(found["prompts"]) == ["none", "hypoechoic", "hyperechoic", "cystic", "shadowing"]
    assert found["prompts"]["cystic"] == ["a cystic lesion", "ultrasound of a cystic lesion"]
    with (tmp_path / "out/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    guesses = [max(range(5), key=json.loads(row["probabilities"]).__getitem__) for row in rows]
    right = [int(row["label"]) == guess for row, guess in zip(rows, guesses, strict=True)]
    assert found["summary"]["accuracy"] == pytest.approx(sum(right) / len(right)) and found["images"] == len(rows)
    report = (tmp_path / "out/report.md").read_text()
    assert (
        "![roc.png]" in report
        and "![confusion.png](confusion.png)" in report
        and "Sentences for none: a none lesion; ultrasound of a none lesion" in report
    )
    for words, expected in (
        (["--classes", "one"], "expected one of 0 (one)"),
        (["--templates", str(trained / "data/PHANTOM.sha256")], "expected a sentence with {} once"),
    ):
        assert main([*command, *words]) == 2
        assert expected in capsys.readouterr().err


def test_retrieval(trained: Path, tmp_path: Path) -> None:
    best = str(trained / "run/best.safetensors")
    command = ["evaluate", best, str(trained / "data"), "--dataset", "PHANTOM", "--retrieval", "--split", "train"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    summary = results(tmp_path / "out")["summary"]
    with (tmp_path / "out/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for what, way in (("text", "image_to_text"), ("image", "text_to_image")):
        found = [int(row["rank"]) for row in rows if row["found"] == what]
        assert summary[f"{way}_mean_rank"] == pytest.approx(statistics.mean(found))
        assert summary[f"{way}_median_rank"] == statistics.median(found)
        for k in (1, 2, 5, 10):
            assert summary[f"{way}_recall_{k}"] == pytest.approx(sum(rank <= k for rank in found) / len(found))
    assert summary["rsum"] == pytest.approx(100 * sum(value for name, value in summary.items() if "_recall_" in name))
    assert "| median rank, text to image |" in (tmp_path / "out/report.md").read_text()


def test_clip_as_it_is(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"local-dir:{trained / 'clip'}"
    command = ["evaluate", "clip", str(trained / "data"), "--dataset", "PHANTOM", "--output", str(tmp_path / "out")]
    command.append("--overwrite")
    assert main([*command, "--backbone", place, "--retrieval"]) == 0
    found = results(tmp_path / "out")
    assert found["title"] == f"CLIP as it is ({place}) on PHANTOM, test split"
    assert found["model"]["adapter_layers"] == []
    capsys.readouterr()
    assert main([*command, "--backbone", "timm/vit_tiny_patch16_224"]) == 2
    assert "has no text tower" in capsys.readouterr().err


def test_a_published_file_of_tuned_adapters(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no heads, so it is for sentences and retrieval, in the CLIP model that has to be named."""
    place, path = f"local-dir:{trained / 'clip'}", tmp_path / "mona.pth"
    torch.manual_seed(4)
    model = HTCLIP(place, task="contrastive", bottleneck=8, normalization="published")
    model.save(tmp_path / "ours.safetensors")
    save_published(model, path)
    where = [str(trained / "data"), "--dataset", "PHANTOM", "--retrieval", "--output"]
    assert main(["evaluate", str(tmp_path / "ours.safetensors"), *where, str(tmp_path / "ours")]) == 0
    assert main(["evaluate", str(path), *where, str(tmp_path / "theirs"), "--backbone", place]) == 0
    expected, found = (results(tmp_path / name) for name in ("ours", "theirs"))
    assert found["summary"] == expected["summary"]
    assert found["model"]["task"] == "contrastive" and found["model"]["normalization"] == "published"
    capsys.readouterr()
    for more in ([], ["--backbone", "ViT-B-16"]):
        assert main(["evaluate", str(path), *where, str(tmp_path / "no"), *more]) == 2
        said = capsys.readouterr().err
        assert "holds tuned adapters alone, and an evaluation needs the CLIP model" in said
        assert "with --backbone and its weights with --pretrained" in said and not (tmp_path / "no").exists()


def test_a_data_set_that_is_named_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    command = ["evaluate", str(PHANTOM), str(root), "--dataset", "BUSI", "BUSI", "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "--dataset names BUSI more than once: name each data set once" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_data_sets_make_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data")
    make_layout(tmp_path / "data", "TN3K")
    command = ["evaluate", str(PHANTOM), str(root), "--dataset", "BUSI", "TN3K", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    each = [results(tmp_path / "out" / name) for name in ("BUSI", "TN3K")]
    for name, one in zip(("BUSI", "TN3K"), each, strict=True):
        row = f"| {name} | 3 | {one['summary']['dice']:.4f} ± {one['summary']['dice_std']:.4f} |"
        assert row in shown and row in (tmp_path / "out/report.md").read_text()
    assert results(tmp_path / "out")["datasets"] == dict(zip(("BUSI", "TN3K"), each, strict=True))
    with (tmp_path / "out/results.csv").open() as file:
        assert [row["dataset"] for row in csv.DictReader(file)] == ["BUSI", "TN3K"]
    assert main([*command, "--retrieval"]) == 2
    assert "need a contrastive model, and this one is for segmentation" in capsys.readouterr().err


def test_classes_without_names(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_layout(tmp_path / "data", "TN3K")
    command = ["evaluate", str(trained / "run/best.safetensors"), str(root), "--dataset", "TN3K"]
    command += ["--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "the classes of TN3K have no names to ask for: give them with --classes" in capsys.readouterr().err
    assert main([*command, "--classes", "benign", "malignant"]) == 0


def test_an_ensemble_is_the_mean_of_its_prompts(tmp_path: Path) -> None:
    model = HTCLIP(f"local-dir:{clip_folder(tmp_path / 'clip')}", task="contrastive").eval()
    with torch.no_grad():
        got = embed_classes(model, fill(["benign", "cyst {x}"], ["a {} lesion", "{} tumour"]))
        for row, name in zip(got, ("benign", "cyst {x}"), strict=True):
            mean = model.encode_text([f"a {name} lesion", f"{name} tumour"]).mean(0)
            torch.testing.assert_close(row, mean)


def test_sentences_for_each_class(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Different ones, and different numbers of them: the mean of the similarities to the sentences, times 100."""
    root = make_layout(tmp_path / "data")
    colour = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(colour).save(root / "all/images/BUSI_0.png")
    path, best = tmp_path / "prompts.txt", trained / "run/best.safetensors"
    path.write_text("benign: an oval mass, well-defined\nmalignant: spiculated margins\nbenign: a simple cyst\n")
    command = ["evaluate", str(best), str(root), "--dataset", "BUSI", "--output", str(tmp_path / "out")]
    command.append("--overwrite")
    assert main([*command, "--templates", str(path), "--split", "all"]) == 0
    prompts = {"benign": ["an oval mass, well-defined", "a simple cyst"], "malignant": ["spiculated margins"]}
    found = results(tmp_path / "out")
    assert found["prompts"] == prompts and found["images"] == 10
    model = HTCLIP.from_checkpoint(best).eval()
    image = model.preprocess(Image.fromarray(colour).convert("L"))
    pixels = (image * 255).round()[None] / 255
    with torch.no_grad():
        scores = [100 * (model(pixels) @ model.encode_text(words).t()).mean() for words in prompts.values()]
    with (tmp_path / "out/results.csv").open() as file:
        first = next(row for row in csv.DictReader(file) if row["name"] == "BUSI_0.png")
    odds = torch.tensor(json.loads(first["probabilities"])).log().diff()
    assert float(odds) == pytest.approx(float(scores[1] - scores[0]), rel=1e-2)
    for text, expected in (
        ("\n", "has no sentences"),
        ("benign: a {} mass\na cyst\n", "'a cyst' came, expected a sentence with {} once"),
        ("benign: a mass\nother: a cyst\n", "'other: a cyst' came"),
        ("benign: a mass\n", "has no sentence for malignant"),
    ):
        path.write_text(text)
        assert main([*command, "--templates", str(path)]) == 2
        assert expected in capsys.readouterr().err


def test_published_captions(tmp_path: Path) -> None:
    """Columns in any order beside others, and names with folders."""
    path = tmp_path / "captions.csv"
    path.write_text('Caption,source,filename\n"a mass, oval",x,images/a.png\na cyst,y,b.png\na mass,z,a.png\n')
    assert read_captions(path) == {"a.png": ("a mass, oval", "a mass"), "b.png": ("a cyst",)}


def test_bad_captions(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, place = make_layout(tmp_path / "data"), f"local-dir:{trained / 'clip'}"
    command = ["train", "--task", "contrastive", str(data), "--dataset", "BUSI", "--backbone", place]
    command += ["--output", str(tmp_path / "out")]
    folder = data / "contrastive/BUSI"
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        (folder / f"{split}.txt").write_text((data / f"segmentation/BUSI/{split}.txt").read_text())
    for text, expected in (
        ("image,caption\n", "has no captions"),
        ("BUSI_0.png,a mass, large\n", "'BUSI_0.png,a mass,large' came"),
        ("BUSI_0.png,\n", "expected an image's name and a caption"),
        ("BUSI_0.png,a mass\n", "has no caption for BUSI_1.png, which is in the train split"),
    ):
        (folder / "captions.csv").write_text(text)
        assert main(command) == 2
        assert expected in capsys.readouterr().err
    for words, expected in ((["--reduce-dim", "8"], "is of a head"), (["--phantoms", "3"], "phantoms with captions")):
        assert main([*command, *words]) == 2
        assert expected in capsys.readouterr().err


def test_other_commands(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = str(trained / "run/best.safetensors")
    image = str(next((trained / "data/all/images").iterdir()))
    assert main(["stream", image, "--checkpoint", best, "--output", str(tmp_path / "out")]) == 2
    assert "need a model for segmentation or classification, got one for contrastive" in capsys.readouterr().err
    with pytest.raises(ValueError, match="masks=True needs a model with classes"):
        GraphRunner(fold(HTCLIP.from_checkpoint(best)), masks=True)
    assert main(["inspect", best, "--output", str(tmp_path / "pictures"), "--frames", image]) == 0
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "activations.png",
        "filters.png",
        "noise_weights.png",
    }


def test_export_of_the_image_encoder(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best, file = str(trained / "run/best.safetensors"), tmp_path / "model.onnx"
    image = str(next((trained / "data/all/images").iterdir()))
    command = ["export", best, "--output", str(file), "--frames", image]
    for words in (["--result", "mask"], ["--result", "logits"]):
        assert main([*command, *words]) == 2
        assert "embeddings" in capsys.readouterr().err
    assert main([*command, "--batch", "1:2:4"]) == 0
    manifest = read_manifest(tmp_path / "model.json")
    assert (manifest.output_name, manifest.output_shape, manifest.input_shape) == (
        "embeddings",
        ("batch", 8),
        ("batch", 3, 64, 64),
    )
    assert manifest.preprocessing.startswith(
        "RGB, shrunk until the shorter side fits, and the middle cropped, to 64x64"
    )
    assert manifest.pixel_mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    model = HTCLIP.from_checkpoint(best).eval()
    frames = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(frames / 255)
    torch.testing.assert_close(Session.open(file, runtime="onnxruntime")(frames), expected, atol=1e-5, rtol=1e-4)
    session = Session.open(fold(model), runtime="cpu", batch=3)
    assert session.output == "embeddings"
    with torch.no_grad():
        torch.testing.assert_close(session(frames[:, :1]), model(frames[:, :1] / 255), atol=1e-5, rtol=1e-4)
