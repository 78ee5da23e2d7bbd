"""The demo: the images that come with it, what it says, what it draws, and an interrupt."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

import ht_kernels as ht
from helpers.clips import frames, write_dicom
from ht_kernels import weights
from ht_kernels.cli import main, terminal
from ht_kernels.data import phantom
from ht_kernels.data.phantom import clip as phantom_clip
from ht_kernels.demo import breast, clips, comparison, sheet
from ht_kernels.dice import dice
from ht_kernels.media.preprocess import preprocess
from ht_kernels.nn import Familiarity
from ht_kernels.nn.familiarity import pooled
from ht_kernels.published import PublishedHTCLIP
from ht_kernels.video import Stream, example

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
@torch.no_grad()
def model() -> ht.HTCLIP:
    """A small model with random weights that knows the six images and nothing else, and draws mixed masks on them."""
    torch.manual_seed(0)
    options = {"image_size": 64, "bottleneck": 8, "reduce_dim": 16, "feature_layers": (0, 1)}
    model = ht.HTCLIP("timm/vit_tiny_patch16_224", **options).eval()
    images = torch.cat([torch.from_numpy(preprocess(sample.image, (64, 64))) for sample in breast.samples()]) / 255
    model.seg_head[-1].bias.sub_(model(images).transpose(0, 1).flatten(1).median(1).values)
    known = pooled(model.features(images))
    model.familiarity = Familiarity(known.shape[1], 1, 2)
    model.familiarity.mean.copy_(known.mean(0))
    model.familiarity.spread.copy_(known.std(0))
    model.familiarity.directions.copy_(torch.eye(1, known.shape[1]))
    model.familiarity.limit.copy_(1.01 * model.familiarity(known).max())
    model.familiarity.quantiles.copy_(torch.tensor([0.0, 1.0]) * model.familiarity.limit)
    return model


@pytest.fixture
def small(model: ht.HTCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short clips, and the small model in the place of the one that ships."""
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames()[2:] * 5), FrameTime="40")
    monkeypatch.setattr(example, "example_clip", lambda: str(clip))
    monkeypatch.setattr(phantom, "clip", lambda config, seed, frames: phantom_clip(config, seed, frames=5))
    monkeypatch.setattr(comparison, "SECONDS", 0.1)
    monkeypatch.setattr(weights, "BREAST", tmp_path / "small.safetensors")
    model.save(weights.BREAST, tower=True)


def test_the_samples_are_what_their_page_says() -> None:
    page = (breast.SAMPLES / "README.md").read_text()
    rows = re.findall(r"^\| `busi_(\w+)\.png` \| ([\d.]+) % \|$", page, re.MULTILINE)
    samples = breast.samples()
    found = [(sample.name.replace(" ", "_"), f"{100 * sample.truth.mean():.1f}") for sample in samples]
    assert found == rows and len(rows) == 6
    assert all(sample.image.dtype == np.uint8 and sample.image.shape == sample.truth.shape for sample in samples)
    assert "Al-Dhabyani" in page and "CC BY 4.0" in page
    assert sum(path.stat().st_size for path in breast.SAMPLES.rglob("*.png")) < 400_000


def test_images_are_segmented_or_withheld(model: ht.HTCLIP) -> None:
    segmented = breast.segment(ht.fold(model))
    assert [image.shown.state for image in segmented] == ["ok"] * 6
    for image in segmented:
        assert image.shown.mask is not None and 0.1 < (image.shown.mask > 0).mean() < 0.9
        assert image.dice == dice(image.shown.mask > 0, image.sample.truth)
    assert any(image.dice for image in segmented)
    stranger = ht.fold(model)
    stranger.familiarity.limit.zero_()
    assert all(image.shown.mask is None and image.dice is None for image in breast.segment(stranger))


@pytest.mark.usefixtures("small")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On small clips and a small model; CI runs the command itself."""
    output = tmp_path / "out"
    assert main(["demo", "--output", str(output)]) == 0
    said = capsys.readouterr().out
    rows = re.findall(r"^(?:benign|malignant) \d{3} +(0\.\d{3}) +0\.\d\d +[\d.]+ +\d+  ok$", said, re.MULTILINE)
    assert len(rows) == 6
    assert float(said.split("Dice ")[2].split()[0]) >= 0.9  # of the phantom
    assert "15 frames (15 unfamiliar)" in said and list((output / "masks").iterdir()) == []
    difference = float(said.split("largest difference of logits")[1].split()[0])
    assert 0 < difference < 1e-4 and "times as fast" in said
    with Image.open(output / "contact_sheet.png") as picture:
        assert picture.size[0] > 2000 and len(picture.getcolors(1 << 24) or ()) > 100
    names = ["contact_sheet.png", "latency.png", "masks", "overlay.mp4", "report.json"]
    assert sorted(path.name for path in output.iterdir()) == names


def test_the_comparison_runs_the_published_computation(model: ht.HTCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    published = PublishedHTCLIP.forward
    monkeypatch.setattr(PublishedHTCLIP, "forward", lambda self, images: published(self, images) + 0.5)
    monkeypatch.setattr(comparison, "SECONDS", 0.0)
    compared = comparison.compare(model, ht.fold(model), breast.samples()[0].image)
    assert compared.difference == pytest.approx(0.5, abs=1e-4) and compared.agreement == 1
    assert compared.ratio == compared.published / compared.ours > 0


@pytest.mark.usefixtures("small")
def test_no_text_of_the_sheet_is_cut_or_covered(model: ht.HTCLIP, tmp_path: Path) -> None:
    """Where all is unfamiliar and numbers are long, the words are longest."""
    folded = ht.fold(model)
    folded.familiarity.limit.fill_(1e-4)
    segmented = breast.segment(folded)
    moving = clips.segment_phantom(ht.fold(ht.HTCLIP.from_checkpoint(weights.PHANTOM).eval()))
    heart = clips.record_heart(clips.heart(), Stream(folded), tmp_path / "out", "small", lambda shown: None)
    compared = comparison.Comparison(12345.6, 1234.5, 5, 1.2e-05, 98.7, 0.99999, 128)
    figure = sheet.draw(segmented, moving, heart, compared)
    figure.draw_without_rendering()
    off = {
        text
        for axes in figure.axes
        if not axes.axison
        for side in (axes.xaxis, axes.yaxis)
        for text in side.findobj(Text)
    }
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in off]
    # A text's box has room for letters that reach below the line, which may stand over the next one's box.
    boxes = [(text.get_text(), text.get_window_extent().padded(0, -3)) for text in texts]
    assert len(boxes) > 40
    width, height = figure.bbox.max
    cut = [words for words, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]
    covered = [(one[0], other[0]) for one, other in combinations(boxes, 2) if one[1].overlaps(other[1])]
    assert cut == []
    assert covered == []


@pytest.mark.usefixtures("small")
def test_an_interrupt_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C within the heart's clip keeps its frames so far and goes on to nothing else."""
    clip = write_dicom(tmp_path / "clip.dcm", np.stack(frames() * 9), FrameTime="40")
    monkeypatch.setattr(example, "example_clip", lambda: str(clip))
    monkeypatch.setattr(comparison, "compare", lambda *_: pytest.fail("the demo went on"))

    @contextmanager
    def progress(total: int | None) -> Iterator[Callable[[object], None]]:
        yield lambda shown: signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal, "progress", progress)
    assert main(["demo", "--output", str(tmp_path / "out")]) == 130
    assert "ht-kernels demo: interrupted" in capsys.readouterr().err
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["interrupted"] and 0 < report["frames"] < 45


def test_the_demo_looks_at_its_folder_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--output", str(tmp_path / "file")]) == 2
    captured = capsys.readouterr()
    assert "is a file, expected a folder" in captured.err and captured.out == ""


def test_the_demo_replaces_nothing_that_no_stream_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text("{}")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "report.json is there already: name another output" in captured.err and captured.out == ""
