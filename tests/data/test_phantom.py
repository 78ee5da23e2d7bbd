"""The phantom simulator: its statistics against theory, its masks against the outline, and the command."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ht_kernels.cli import main
from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.data.phantom import (
    KINDS,
    LABELS,
    Interference,
    LinearScan,
    Motion,
    Phantom,
    PhantomDataset,
    Sample,
    SectorScan,
    caption,
    clip,
    draw_phantom,
    simulate,
)
from ht_kernels.data.phantom.motion import origin
from ht_kernels.data.phantom.scan import beam_grid, beam_space, depths, pixel_grid
from ht_kernels.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

UNIFORM = Phantom(kind="none", layers=False, noise=-200)
SECTOR = SectorScan()
EDGE = 12
"""Samples and lines at the border, where the point-spread function reaches out of the scan."""


def envelopes(config: Phantom, seeds: int) -> np.ndarray:
    """(seeds, samples, lines) without the border."""
    inner = slice(EDGE, -EDGE)
    return np.stack([simulate(config, seed).envelope[inner, inner] for seed in range(seeds)]).astype(np.float64)


def decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power)


@pytest.mark.parametrize("scan", [LinearScan(), SECTOR], ids=["linear", "sector"])
def test_the_envelope_of_uniform_tissue_is_rayleigh(scan: LinearScan | SectorScan) -> None:
    amplitude = envelopes(replace(UNIFORM, scan=scan), 8)
    assert amplitude.mean() / amplitude.std() == pytest.approx(math.sqrt(math.pi / (4 - math.pi)), rel=0.02)
    assert (amplitude**2).mean() == pytest.approx(1, rel=0.02)
    # Samples further apart than the point-spread function is wide are independent.
    independent = np.sort(amplitude[:, ::12, ::24].ravel())
    count, power = len(independent), np.mean(independent**2)
    steps = np.arange(count + 1) / count
    expected = 1 - np.exp(-(independent**2) / power)
    distance = max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())
    assert count > 500 and distance < 1.36 / math.sqrt(count)  # Kolmogorov-Smirnov, 5 %


def test_averaging_looks_smooths_speckle() -> None:
    amplitude = envelopes(replace(UNIFORM, looks=4), 3)
    assert amplitude.mean() / amplitude.std() == pytest.approx(2 * 1.913, rel=0.03)


def width_at_half_maximum(intensity: np.ndarray, axis: int) -> float:
    """Of the autocovariance of (seeds, samples, lines), in samples along an axis; its square is a Gaussian's."""
    fluctuation = np.moveaxis(intensity - intensity.mean(), axis, -1)
    lags = range(1, 8)
    variance = (fluctuation**2).mean()
    covariance = np.array([(fluctuation[..., k:] * fluctuation[..., :-k]).mean() / variance for k in lags])
    k = int(np.argmax(covariance < 0.5))
    # Gaussian through the neighbours of the half maximum: the logarithm is linear in the square of the lag.
    above, below = (covariance[k - 1], covariance[k]) if k else (1.0, covariance[0])
    share = math.log(above / 0.5) / math.log(above / below)
    return 2 * math.sqrt(k**2 + share * ((k + 1) ** 2 - k**2))


@pytest.mark.parametrize("scan", [LinearScan(), SECTOR], ids=["linear", "sector"])
def test_speckle_is_as_large_as_the_point_spread_function(scan: LinearScan | SectorScan) -> None:
    # The autocovariance of the intensity is as wide as the point-spread function (Wagner et al. 1983).
    config = replace(UNIFORM, scan=scan, focus=scan.depth * 0.3, focal_zone=scan.depth * 0.3, f_number=3.5, cycles=4)
    intensity = envelopes(config, 12) ** 2
    z = depths(scan)[EDGE:-EDGE]
    widths = []
    for part in (slice(60, 90), slice(130, 160), slice(190, 220)):
        depth = z[part].mean()
        spacing = float(scan.line_spacing(depth))
        found = width_at_half_maximum(intensity[:, part], 2) * spacing
        assert found == pytest.approx(float(config.beam_width(depth)), rel=0.12)
        widths.append(found)
    assert widths[2] > 1.3 * widths[0]
    step = scan.depth / (scan.samples - 1)
    assert width_at_half_maximum(intensity, 1) * step == pytest.approx(config.pulse_width, rel=0.1)


def test_attenuation_and_its_compensation() -> None:
    config = replace(UNIFORM, attenuation=0.5, frequency=5.0, tgc=0.0)
    assert config.attenuation_slope == 5.0  # dB per cm: 2 ways, 0.5 dB/(cm MHz), 5 MHz
    cm = depths(config.scan)[EDGE:-EDGE].numpy() / 10
    for tgc, slope in ((0.0, -5.0), (3.0, -2.0), (None, 0.0)):
        power = (envelopes(replace(config, tgc=tgc), 4) ** 2).mean((0, 2))
        assert np.polyfit(cm, decibels(power), 1)[0] == pytest.approx(slope, abs=0.1)


def test_electronic_noise_rises_with_the_compensation() -> None:
    config = replace(UNIFORM, noise=0.0, attenuation=0.5, frequency=5.0)
    power = (envelopes(config, 4) ** 2).mean((0, 2)) - 1
    cm = depths(config.scan)[EDGE:-EDGE].numpy() / 10
    np.testing.assert_allclose(decibels(power)[20:], 5 * cm[20:], atol=1)


def lesion_power(sample: Sample, config: Phantom) -> tuple[float, float]:
    """Mean power well inside the lesion, and well outside of it on lines that do not cross it."""
    assert sample.lesion is not None
    x, z = beam_space(config.scan)
    depth = sample.lesion.distance(x, z).numpy()
    beside = np.broadcast_to((depth < -2).all(0), depth.shape)
    power = sample.envelope.astype(np.float64) ** 2
    inner = np.zeros_like(beside)
    inner[EDGE:-EDGE, EDGE:-EDGE] = True
    return float(power[depth > 1].mean()), float(power[beside & inner].mean())


@pytest.mark.parametrize("contrast", [-20.0, -8.0, 6.0])
@pytest.mark.parametrize("scan", [LinearScan(), SECTOR], ids=["linear", "sector"])
def test_contrast_is_as_configured(contrast: float, scan: LinearScan | SectorScan) -> None:
    config = replace(UNIFORM, kind="hyperechoic", contrast=contrast, scan=scan)  # attenuates as tissue does
    inside, outside = np.mean([lesion_power(simulate(config, seed), config) for seed in range(6)], axis=0)
    assert float(decibels(inside / outside)) == pytest.approx(contrast, abs=0.5)


@pytest.mark.parametrize("kind", ["cystic", "shadowing"])
def test_behind_a_lesion_is_enhancement_or_shadow(kind: str) -> None:
    config = replace(UNIFORM, kind=kind)
    x, z = beam_space(config.scan)
    behind, expected = [], []
    for seed in range(6):
        sample = simulate(config, seed)
        assert sample.lesion is not None
        inside = sample.lesion.contains(x, z).numpy()
        line = inside.sum(0).argmax()
        bottom = np.flatnonzero(inside[:, line])[-1]
        cm = inside[:, line - 1 : line + 2].sum(0).mean() * config.scan.depth / (config.scan.samples - 1) / 10
        behind.append((sample.envelope[bottom + 15 : -EDGE, line - 1 : line + 2].astype(np.float64) ** 2).mean())
        expected.append(10 ** (config.attenuation_slope * (1 - KINDS[kind].attenuation) * cm / 10))
    difference = decibels(np.array(behind)) - decibels(np.array(expected))
    assert (np.sign(decibels(np.array(behind))) == (1 if kind == "cystic" else -1)).all()
    assert abs(difference.mean()) < 1.5


@pytest.mark.parametrize("kind", ["lines", "stripes"])
@pytest.mark.parametrize("cycles", [(31, 0), (0, 24), (17, 40)])
def test_interference_is_a_peak_at_its_frequency(kind: str, cycles: tuple[int, int]) -> None:
    config = replace(UNIFORM, interference=Interference(kind, cycles, 3.0))
    clean, disturbed = (simulate(c, 0).image.astype(float) for c in (UNIFORM, config))
    found = np.abs(np.fft.rfft2(disturbed - clean))
    found[0, 0] = 0
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert column == cycles[1] and row in (cycles[0], -cycles[0] % 224)
    assert found.max() > 15 * np.median(found)


def outline(sample: Sample, angles: int = 2000) -> np.ndarray:
    """The lesion's outline in mm, (angles, 2), from its definition."""
    lesion = sample.lesion
    assert lesion is not None
    phi = np.linspace(0, 2 * math.pi, angles, endpoint=False)
    radius = 1 + sum((c * np.exp(1j * k * phi)).real for k, c in enumerate(lesion.harmonics, 1))
    a, b = radius * np.cos(phi) * lesion.axes[0], radius * np.sin(phi) * lesion.axes[1]
    cos, sin = math.cos(lesion.rotation), math.sin(lesion.rotation)
    return np.stack((cos * a - sin * b, sin * a + cos * b), 1) + lesion.center


def overlap(mask: np.ndarray, points: np.ndarray, config: Phantom) -> float:
    """Intersection over union of a mask and a polygon in mm, drawn four times as fine."""
    left, right, top, bottom = config.scan.box
    height, width = config.size
    scaled = (points - (left, top)) / (right - left, bottom - top) * (width, height) * 4
    drawn = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(drawn).polygon([tuple(p) for p in scaled], fill=1)
    fine = np.kron(mask, np.ones((4, 4), np.uint8))
    other = np.asarray(drawn)
    return float((fine & other).sum() / (fine | other).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scan", [LinearScan(), SECTOR], ids=["linear", "sector"])
def test_masks_are_the_outline(kind: str, scan: LinearScan | SectorScan) -> None:
    config = Phantom(kind=kind, scan=scan, size=(240, 300))
    for seed in range(5):
        sample = simulate(config, seed)
        assert sample.mask.shape == (240, 300) and set(np.unique(sample.mask)) == {0, 1}
        assert sample.label == LABELS.index(kind) and sample.kind == kind
        assert overlap(sample.mask, outline(sample), config) > 0.96
        assert sample.mask[0].sum() == sample.mask[-1].sum() == sample.mask[:, 0].sum() == sample.mask[:, -1].sum() == 0


def test_a_lesion_is_where_the_mask_is() -> None:
    for seed, scan in ((0, LinearScan()), (1, SECTOR)):
        sample = simulate(replace(UNIFORM, kind="cystic", attenuation=0.0, scan=scan), seed)
        dark, inside, reached = sample.image < 30, sample.mask == 1, pixel_grid(scan, (224, 224))[1].numpy()
        assert dark[inside].mean() > 0.9 and dark[reached & ~inside].mean() < 0.05


def test_no_lesion() -> None:
    sample = simulate(Phantom(kind="none"), 0)
    assert sample.label == 0 and sample.kind == "none" and sample.lesion is None and not sample.mask.any()


def test_sector_geometry() -> None:
    u, v = beam_grid(SECTOR)
    again = SECTOR.to_beams(*SECTOR.to_space(u, v))
    assert torch.allclose(again[0], u, atol=1e-5) and torch.allclose(again[1], v, atol=1e-5)
    image = simulate(replace(UNIFORM, scan=SECTOR), 0).image
    assert (image[-1, :20] == 0).all() and (image[0, 100:124] == 0).all() and image[112, 112] > 0
    assert 0.4 < (image > 0).mean() < 0.8


def test_same_seed_same_bits() -> None:
    for config in (Phantom(), draw_phantom(3), draw_phantom(4, sector=True)):
        first, again, other = simulate(config, 5), simulate(config, 5), simulate(config, 6)
        assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
        assert (first.image != other.image).mean() > 0.3 and not np.array_equal(first.mask, other.mask)
    assert draw_phantom(3) == draw_phantom(3) != draw_phantom(4)


@pytest.mark.parametrize("scan", [LinearScan(), SECTOR], ids=["linear", "sector"])
def test_clips_move_with_their_masks(scan: LinearScan | SectorScan) -> None:
    config = replace(Phantom(kind="cystic", scan=scan), motion=Motion(shift=(3.0, 2.0), strain=0.1, period=16))
    samples = clip(config, 7, 9)
    first = simulate(config, 7)
    assert np.array_equal(samples[0].image, first.image) and np.array_equal(samples[0].mask, first.mask)
    points = outline(first)
    for frame in (4, 8):
        # Where the outline went: the inverse of the map to frame 0, found by fixed-point iteration.
        moved = points.copy()
        for _ in range(60):
            x, z = origin(config, frame, *torch.from_numpy(moved).T)
            moved += points - np.stack((x.numpy(), z.numpy()), 1)
        assert overlap(samples[frame].mask, moved, config) > 0.96
        assert overlap(samples[frame].mask, points, config) < 0.93
    again = clip(config, 7, 9)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(samples, again, strict=True))


def test_speckle_moves_with_tissue_and_keeps_its_statistics() -> None:
    still = Motion(shift=(0.0, 0.0), strain=0.0, decorrelation=20)
    frames = [s.envelope.astype(np.float64) for s in clip(replace(UNIFORM, motion=still), 0, 21)]
    correlation = [np.corrcoef(frames[0].ravel(), frame.ravel())[0, 1] for frame in frames]
    assert correlation[1] > 0.97 and all(np.diff(correlation[:15]) < 0) and abs(correlation[20]) < 0.1
    # A shift by whole lines carries speckle along.
    step = 4 * UNIFORM.scan.line_spacing(torch.zeros(())).item()
    shifting = Motion(shift=(step, 0.0), strain=0.0, period=4, decorrelation=1e6)
    first, second = (s.envelope for s in clip(replace(UNIFORM, motion=shifting), 0, 2))
    inner = slice(EDGE, -EDGE)
    assert np.corrcoef(first[inner, 10:-14].ravel(), second[inner, 14:-10].ravel())[0, 1] > 0.999
    deforming = clip(replace(UNIFORM, motion=Motion()), 0, 16)[1:]
    amplitude = np.stack([s.envelope[inner, inner] for s in deforming]).astype(np.float64)
    assert amplitude.mean() / amplitude.std() == pytest.approx(1.913, rel=0.03)
    assert (amplitude**2).mean() == pytest.approx(1, rel=0.05)


def test_drawn_phantoms_cover_what_there_is() -> None:
    drawn = [draw_phantom(seed) for seed in range(200)]
    assert {p.kind for p in drawn} == set(KINDS) and {p.looks for p in drawn} == {1, 2, 3}
    assert 20 < sum(isinstance(p.scan, SectorScan) for p in drawn) < 80
    assert 5 < sum(p.interference is not None for p in drawn) < 40
    assert draw_phantom(0, sector=True).kind == draw_phantom(0, sector=False).kind == drawn[0].kind
    assert draw_phantom(0, kind="none").kind == "none"


def test_dataset() -> None:
    dataset = PhantomDataset(4, seed=1, size=(64, 96))
    image, mask, label = dataset[2]
    assert image.shape == (3, 64, 96) and image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
    assert mask.shape == (64, 96) and mask.dtype == torch.int64 and label in range(1, 5)
    assert torch.equal(dataset[2][0], image) and torch.equal(dataset[-2][0], image)
    assert not torch.equal(dataset[1][0], image)
    assert not torch.equal(PhantomDataset(4, seed=2, size=(64, 96))[2][0], image)
    assert len(list(torch.utils.data.DataLoader(dataset, batch_size=2))) == 2
    cyst = Phantom(kind="cystic", size=(64, 64))
    assert PhantomDataset(2, phantom=cyst)[0][2] == LABELS.index("cystic")
    with pytest.raises(IndexError):
        dataset[4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Phantom(kind="cyst"), "'cyst' is unknown; expected one of none, hypoechoic"),
        (lambda: Phantom(frequency=0), "frequency is 0, expected a positive number"),
        (lambda: Phantom(dynamic_range=math.nan), "dynamic_range is nan"),
        (lambda: Phantom(attenuation=-1), "attenuation is -1"),
        (lambda: Phantom(size=(224, 2)), "size is"),
        (lambda: Phantom(looks=0), "looks is 0"),
        (lambda: LinearScan(depth=0), "expected positive numbers"),
        (lambda: LinearScan(lines=3), "expected 16 or more"),
        (lambda: SectorScan(angle=200), "200 degrees"),
        (lambda: Interference("noise"), "expected lines or stripes"),
        (lambda: Motion(strain=1), "strain is 1"),
        (lambda: Motion(period=0), "period is 0"),
        (lambda: clip(Phantom(), 0, 0), "a clip of 0 frames"),
        (lambda: PhantomDataset(0), "a dataset of 0 phantoms"),
    ],
)
def test_what_makes_no_sense(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_command_writes_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["phantom", "--count", "10", "--size", "64", "--seed", "3"]
    assert main([*arguments, "--output", str(tmp_path / "a")]) == 0
    assert "wrote 10 images" in capsys.readouterr().out
    assert main([*arguments, "--output", str(tmp_path / "b"), "--sector"]) == 0
    total = 0
    for split, count in (("train", 7), ("val", 1), ("test", 2)):
        images = SegmentationDataset(tmp_path / "a", "PHANTOM", split, 64)
        labels = ClassificationDataset(tmp_path / "a", "PHANTOM", split, 64, classes=LABELS)
        assert len(images) == len(labels) == count
        for (image, mask), (_, label), name in zip(images, labels, images.names, strict=True):
            assert image.shape == (3, 64, 64) and mask.any() and LABELS[label] in name
        total += len(images)
    assert total == 10
    first = next(iter((tmp_path / "a/all/images").iterdir()))
    with Image.open(first) as image:
        assert image.size == (64, 64) and image.mode == "L"


def test_command_writes_tables_as_the_published_code_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, first in (([], "phantom_cystic_00000.png,3"), (["--header"], "image,label")):
        output = tmp_path / f"out{len(options)}"
        command = ["phantom", "--count", "1", "--size", "64", "--kind", "cystic", "--output", str(output), *options]
        assert main(command) == 0
        assert "no image is left for val and test: make 3 or more" in capsys.readouterr().out
        assert (output / "classification/PHANTOM/labels.csv").read_text().splitlines()[0] == first
        captions = (output / "contrastive/PHANTOM/captions.csv").read_text().splitlines()
        assert captions[0] == "filename,Caption" and captions[1].startswith("phantom_cystic_00000.png,a cystic lesion")
    assert main(["phantom", "--count", "3", "--size", "64", "--output", str(tmp_path / "three")]) == 0
    assert "no image" not in capsys.readouterr().out


def test_command_writes_clips(tmp_path: Path) -> None:
    command = ["phantom", "--clip", "4", "--kind", "cystic", "--size", "64", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    checksums, folder, settings = sorted((tmp_path / "out").iterdir())
    assert settings.name == "settings.yaml" and folder.name == "phantom_cystic_00000"
    assert checksums.name == "phantom_clips.sha256" and len(checksums.read_text().splitlines()) == 5
    with av.open(folder / "clip.mp4") as container:
        assert container.streams.video[0].frames == 4
    masks = [np.asarray(Image.open(path)) for path in sorted((folder / "masks").iterdir())]
    assert len(masks) == 4 and all(set(np.unique(mask)) == {0, 1} for mask in masks)


def test_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/PHANTOM.sha256").write_text("")
    for arguments, message in [
        (["--count", "0"], "--count 0 was given, expected 1 or more"),
        (["--clip", "0"], "--clip 0 was given, expected 1 or more"),
        (["--seed", "-1"], "--seed -1 was given, expected 0 or more"),
        (["--kind", "tumour"], "--kind tumour is unknown; expected one of hypoechoic"),
        (["--size", "4"], "--size 4 was given, expected 8 to 4096 pixels"),
        (["--output", str(tmp_path / "full")], "PHANTOM.sha256 is there already"),
    ]:
        assert main(["phantom", "--output", str(tmp_path / "out"), *arguments]) == 2
        assert message in capsys.readouterr().err
        assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_captions_say_kind_and_place() -> None:
    sample = simulate(Phantom(kind="cystic", size=(60, 90)), 0)
    for rows, columns, place in (((0, 20), (0, 30), "upper left"), ((20, 40), (60, 90), "middle right")):
        mask = np.zeros((60, 90), np.uint8)
        mask[slice(*rows), slice(*columns)] = 1
        assert caption(replace(sample, mask=mask)) == f"a cystic lesion at the {place}"
    assert caption(simulate(Phantom(kind="none", size=(60, 90)), 0)) == "no lesion"
