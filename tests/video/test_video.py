"""Clips: every kind of source, preprocessing, overlay, sinks and the stream over them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

import ht_kernels as ht
from helpers.clips import folded, frames, write_dicom, write_video
from helpers.small_towers import small_clip
from ht_kernels.class_colors import COLORS
from ht_kernels.errors import InputError
from ht_kernels.files import output_folder
from ht_kernels.media.preprocess import preprocess
from ht_kernels.video import Stream, open_source, overlay
from ht_kernels.video.overlay import Overlay
from ht_kernels.video.sinks import MaskSink
from ht_kernels.video.stream import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_dicom(tmp_path: Path) -> None:
    given = np.stack(frames())
    source = open_source(write_dicom(tmp_path / "clip", given, FrameTime="40"))
    assert (source.kind, source.frame_count, source.fps, source.size) == ("dicom", 5, 25.0, (48, 64))
    assert all(np.array_equal(a, b) for a, b in zip(source, given, strict=True))
    assert len(list(source)) == 5  # a second time
    color = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    assert np.array_equal(np.stack(list(open_source(write_dicom(tmp_path / "color.dcm", color)))), color)


def test_dicom_values(tmp_path: Path) -> None:
    deep = np.stack(frames()).astype(np.uint16) * 16
    plain = list(open_source(write_dicom(tmp_path / "a", deep, BitsStored=12, HighBit=11)))
    np.testing.assert_allclose(plain[1], deep[1] * (255 / 4095), atol=0.51)
    window = {"WindowCenter": "1000", "WindowWidth": "500", "BitsStored": 12, "HighBit": 11}
    windowed = list(open_source(write_dicom(tmp_path / "b", deep, **window)))
    expected = np.clip(((deep[1].astype(float) - 999.5) / 499 + 0.5) * 255, 0, 255)
    np.testing.assert_allclose(windowed[1], expected, atol=0.51)
    inverted = open_source(write_dicom(tmp_path / "c", np.stack(frames()), PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(next(iter(inverted)), 255 - frames()[0])


@pytest.mark.parametrize(
    ("attributes", "fps"),
    [
        ({"CineRate": "30"}, 30),
        ({"RecommendedDisplayFrameRate": "12"}, 12),
        ({"FrameTimeVector": [0, 20, 60, 40, 40]}, 25),
        ({"FrameTime": "0"}, None),
        ({}, None),
    ],
)
def test_dicom_frame_rates(tmp_path: Path, attributes: dict[str, object], fps: float | None) -> None:
    assert open_source(write_dicom(tmp_path / "a", np.stack(frames()), **attributes)).fps == fps


def test_the_clip_that_comes_with_pydicom() -> None:
    source = open_source(get_testdata_file("examples_ybr_color.dcm", download=False))
    assert (source.kind, source.frame_count, source.size) == ("dicom", 30, (240, 320)) and 29 < (source.fps or 0) < 31
    first = next(iter(source))
    assert first.shape == (240, 320, 3)
    # The tissue is gray: YBR was converted.
    assert np.median(np.ptp(first.astype(int), axis=2)) <= 4


def test_video(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "clip.mp4"))
    assert (source.kind, source.frame_count, source.fps, source.size) == ("video", 5, 25.0, (48, 64))
    for decoded, given in zip(source, frames(), strict=True):
        assert decoded.shape == (48, 64, 3) and np.abs(decoded[..., 1].astype(int) - given).mean() < 4


def test_folder(tmp_path: Path) -> None:
    for i, frame in enumerate(frames(12)):
        Image.fromarray(frame).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_source(tmp_path)
    assert (source.kind, source.frame_count, source.size) == ("images", 12, (48, 64))
    assert all(np.array_equal(a, b) for a, b in zip(source, frames(12), strict=True))  # frame2 before frame10


def test_images(tmp_path: Path) -> None:
    gray = frames(1)[0]
    for name, image, expected in [
        ("gray.png", Image.fromarray(gray), gray),
        ("deep.png", Image.fromarray(gray.astype(np.uint16) * 257), gray),
        ("color.png", Image.fromarray(np.repeat(gray[..., None], 3, 2)), np.repeat(gray[..., None], 3, 2)),
        ("alpha.png", Image.fromarray(gray).convert("RGBA"), np.repeat(gray[..., None], 3, 2)),
        ("palette.png", Image.fromarray(gray).convert("P"), None),
        ("no suffix", Image.fromarray(gray), gray),
    ]:
        image.save(tmp_path / name, format="PNG")
        (frame,) = open_source(tmp_path / name)
        assert frame.dtype == np.uint8 and frame.shape[:2] == gray.shape
        if expected is not None:
            assert np.array_equal(frame, expected), name
    pages = [Image.fromarray(frame) for frame in frames(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert all(np.array_equal(a, b) for a, b in zip(open_source(tmp_path / "pages.tif"), frames(3), strict=True))


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(open_source(path))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_a_device_that_is_no_camera() -> None:
    assert refused(Path("/dev/null")).endswith("): name a V4L2 device, such as /dev/video0")
    assert "there is no file or folder /dev/video99" in refused(Path("/dev/video99"))


def test_what_is_no_clip(tmp_path: Path) -> None:
    assert "no file or folder" in refused(tmp_path / "missing")
    (tmp_path / "empty folder").mkdir()
    assert "has no images" in refused(tmp_path / "empty folder")
    for name, content in [
        ("empty.mp4", b""),
        ("text.mp4", b"hello " * 99),
        ("zeros", bytes(5000)),
        ("t.png", b"x" * 99),
    ]:
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    for name, found in [("CT_small.dcm", "CT"), ("MR_small.dcm", "MR"), ("rtplan.dcm", "RTPLAN")]:
        shutil.copy(get_testdata_file(name, download=False), tmp_path / name)
        assert f"is a DICOM file of {found}" in refused(tmp_path / name)
    assert "without images" in refused(write_dicom(tmp_path / "a", np.zeros((1, 4, 4), np.uint8), Rows=0))


def test_truncated_files_are_refused_or_warned_of(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 60, (240, 320))
    content = video.read_bytes()
    video.write_bytes(content[: int(len(content) * 0.6)])
    source = open_source(video)
    assert 0 < len(list(source)) < 60 and "of 60 frames: it was cut off" in source.warnings[0]
    video.write_bytes(content[:400])
    refused(video)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-3000])
    assert "cannot be read as an image" in refused(tmp_path / "a.png")


def test_a_playlist_reads_nothing_else(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.mp4")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    refused(tmp_path / "list.m3u8")


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about damaged values
def test_any_damage_gives_frames_or_a_sentence(tmp_path: Path) -> None:
    files = [write_dicom(tmp_path / "a.dcm", np.stack(frames())), write_video(tmp_path / "a.mp4")]
    shutil.copy(get_testdata_file("examples_ybr_color.dcm", download=False), tmp_path / "b.dcm")
    Image.fromarray(frames()[0]).save(tmp_path / "a.png")
    generator = random.Random(0)
    for file in [*files, tmp_path / "b.dcm", tmp_path / "a.png"]:
        good, path = file.read_bytes(), tmp_path / f"fuzz{file.suffix}"
        for _ in range(30):
            content = bytearray(good)
            if generator.random() < 0.3:
                del content[generator.randrange(len(content) // 2, len(content)) :]
            for _ in range(generator.randrange(1, 10)):
                content[generator.randrange(min(len(content), 3000))] = generator.randrange(256)
            path.write_bytes(content)
            try:
                for frame in open_source(path):
                    assert frame.dtype == np.uint8 and frame.ndim in (2, 3)
            except InputError as error:
                assert str(path) in str(error)


def test_preprocessing_is_pil_and_torchvision() -> None:
    from torchvision.transforms import functional as transforms

    color = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    got = preprocess(color, (224, 224))
    assert got.shape == (1, 1, 224, 224) and got.dtype == np.uint8
    image = transforms.to_grayscale(Image.fromarray(color))
    expected = np.asarray(transforms.resize(image, [224, 224], transforms.InterpolationMode.BICUBIC))
    assert np.array_equal(got[0, 0], expected)
    gray = preprocess(np.full((9, 9), 7, np.uint8), (16, 32))
    assert gray.shape == (1, 1, 16, 32) and (gray == 7).all()


def test_overlay() -> None:
    frame, mask = np.full((20, 30), 100, np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:15, 10:20], mask[0, 0] = 1, 2
    drawn = Overlay()(frame, mask)
    assert drawn.shape == (20, 30, 3) and (frame == 100).all()
    assert (drawn[mask == 0] == 100).all()
    assert (drawn[5, 10:20] == COLORS[1]).all() and (drawn[0, 0] == COLORS[2]).all()
    inside = drawn[10, 15].astype(int)
    assert (np.abs(inside - (0.75 * 100 + 0.25 * np.array(COLORS[1]))) <= 1).all()
    named = Overlay(("background", "lesion"))(np.zeros((200, 300), np.uint8), np.zeros((200, 300), np.uint8))
    assert (named == COLORS[1]).all(-1).any() and not named[60:].any()


def drawn_in_floats(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An overlay by its definition: a quarter of the class's colour, and the whole of it along the outline."""
    rgb = np.repeat(frame[..., None], 3, 2) if frame.ndim == 2 else frame
    colors = np.array([COLORS[0], *[COLORS[1 + i % (len(COLORS) - 1)] for i in range(255)]], np.float32)[mask]
    around = np.pad(mask, 1, mode="edge")
    neighbours = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
    edge = np.any([mask != other for other in neighbours], axis=0) & (mask > 0)
    drawn = np.where((mask > 0)[..., None], 0.75 * rgb + 0.25 * colors, rgb)
    return np.where(edge[..., None], colors, drawn)


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("place", ["inside", "border", "pixel", "all", "none"])
def test_overlays_are_within_a_level_of_their_definition(
    color: bool, order: Literal["C", "F"], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "_STRIP", 200)
    random = np.random.default_rng(0)
    frame = np.asarray(random.integers(0, 256, (37, 53, 3) if color else (37, 53), dtype=np.uint8), order=order)
    mask = np.zeros((37, 53), np.uint8)
    part = {"inside": np.s_[5:20, 9:30], "border": np.s_[:, 50:], "pixel": np.s_[36, 52], "all": np.s_[:]}
    if place != "none":
        mask[part[place]] = random.choice([1, 1, 1, 1, 1, 1, 2, 9, 255], mask[part[place]].shape)
    before = frame.copy()
    apart = np.abs(Overlay()(frame, mask) - drawn_in_floats(frame, mask))
    assert apart.max() <= 1 and (apart[mask == 0] == 0).all() and np.array_equal(frame, before)


def test_masks_and_video_are_written_as_given(tmp_path: Path) -> None:
    masks = MaskSink(tmp_path / "masks")
    mask = np.random.default_rng(0).integers(0, 5, (33, 47), dtype=np.uint8)
    masks.write(mask, 0)
    with Image.open(tmp_path / "masks/00001.png") as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), mask)
        assert tuple(image.convert("RGB").getpixel((0, 0))) == COLORS[mask[0, 0]]
    write_video(tmp_path / "odd.mp4", 4, (47, 33), 12.5)
    with av.open(tmp_path / "odd.mp4") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.average_rate == 12.5 and stream.frames == 4
        assert (stream.height, stream.width, stream.pix_fmt) == (48, 34, "yuv420p")


def test_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out") as folder:
        (folder / "masks").mkdir()
        (folder / "masks/1").write_text("new")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out/masks/1").read_text() == "new"
    (tmp_path / "out/mine").write_text("kept")
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "out") as folder:
        (folder / "masks").mkdir()
        raise KeyboardInterrupt
    with output_folder(tmp_path / "out", ["masks/1"]) as folder:
        (folder / "masks").mkdir()
        (folder / "masks/2").write_text("newer")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["2", "masks", "mine"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"), output_folder(tmp_path / "file"):
        pass


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_masks_are_those_of_the_model(classes: int) -> None:
    model = folded(classes)
    stream = Stream(model)
    given = [*frames(), np.repeat(frames(1)[0][..., None], 3, 2)]
    results = list(stream.run(given))
    assert [r.index for r in results] == list(range(6))
    for result, frame in zip(results, given, strict=True):
        assert result.mask is not None
        assert result.frame is frame and result.mask.shape == (48, 64) and result.overlay.shape == (48, 64, 3)
        logits = model(torch.from_numpy(preprocess(frame, model.image_size)), output_size=(48, 64))[0]
        expected = logits.argmax(0) if classes > 1 else logits[0] > 0
        assert np.array_equal(result.mask, expected.numpy())
    assert np.array_equal(results[0].mask, results[5].mask)
    report = stream.report()
    assert report["frames"] == 6 and report["fps"] > 0
    stages = report["latency_ms"]
    assert set(stages) == {*STAGES, "end_to_end", "frame_age", "mask_age"}
    for row in stages.values():
        assert 0 <= row["p50"] <= row["p95"] <= row["p99"]
    assert stages["end_to_end"]["p50"] >= stages["infer"]["p50"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.full((8, 8), np.nan, np.float32), "frame 1 has values that are not finite"),
        (np.zeros((8, 8), np.float32), "frame 1 has dtype float32, expected uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"frame 1 has shape \(8, 8, 4\)"),
        (np.zeros((0, 8), np.uint8), "frame 1 is empty"),
        ([[1]], "expected an array"),
    ],
)
def test_wrong_frames(frame: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(Stream(folded()).run([frames()[0], frame]))  # type: ignore[list-item]


def test_wrong_models_and_empty_clips() -> None:
    with pytest.raises(InputError, match="segmentation or classification, got one for contrastive"):
        Stream(ht.fold(ht.HTCLIP(small_clip(), task="contrastive", bottleneck=8).eval().float()))
    with pytest.raises(InputError, match="the clip has no frames"):
        list(Stream(folded()).run([]))
