"""``record`` as a program calls it: a stream over a source, into files."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.clips import folded, frames, write_dicom, write_video
from ht_kernels.errors import InputError
from ht_kernels.video import Shown, Stream, open_source, record

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = ["latency.png", "masks", "overlay.mp4", "report.json"]


def test_what_a_stream_shows_is_in_the_files(tmp_path: Path) -> None:
    """In a thread of its own, where no signal handler can be set."""
    source, stream = open_source(write_dicom(tmp_path / "clip.dcm", np.stack(frames()))), Stream(folded())
    seen: list[Shown] = []
    with ThreadPoolExecutor(1) as thread:
        report = thread.submit(record, source, stream, tmp_path / "out", weights="mine", watch=seen.append).result()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    assert [shown.index for shown in seen] == list(range(5))
    for shown, path in zip(seen, sorted((tmp_path / "out/masks").iterdir()), strict=True):
        with Image.open(path) as mask:
            assert np.array_equal(np.asarray(mask), shown.mask)
    assert report["weights"] == "mine" and report["backend"] == "cpu" and not report["interrupted"]
    assert report["states"] == {"ok": 5} and report["input"]["kind"] == "dicom"
    assert json.loads((tmp_path / "out/report.json").read_text()) == json.loads(json.dumps(report))


def test_a_stream_that_is_stopped_keeps_what_it_showed(tmp_path: Path) -> None:
    source, stream = open_source(write_dicom(tmp_path / "clip.dcm", np.stack(frames() * 20))), Stream(folded())
    report = record(source, stream, tmp_path / "out", watch=lambda _: stream.stop())
    assert report["interrupted"] and 0 < report["frames"] < 100
    assert len(list((tmp_path / "out/masks").iterdir())) == report["frames"]
    stopped = Stream(folded())
    stopped.stop()
    with pytest.raises(KeyboardInterrupt):
        record(source, stopped, tmp_path / "nothing")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.dcm", "out"]


def test_a_segmentation_needs_a_dicom_clip_that_is_not_live(tmp_path: Path) -> None:
    clip, video = write_dicom(tmp_path / "a.dcm", np.stack(frames())), write_video(tmp_path / "a.mp4")
    for path, live in ((video, False), (clip, True)):
        with pytest.raises(InputError, match=rf"a DICOM clip not played live, and .*{path.name} is another"):
            record(open_source(path), Stream(folded(), live=live), tmp_path / "out", dicom_seg=True)
    assert not (tmp_path / "out").exists()


def test_what_no_stream_wrote_is_not_replaced(tmp_path: Path) -> None:
    """Masks of an expert, images that are the input, and a video that is; the output of an earlier stream is."""
    model = Stream(folded())
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for i, frame in enumerate(frames(2)):
        Image.fromarray(frame).save(images / f"{i}.png")
    expert = tmp_path / "data" / "masks" / "0.png"
    expert.parent.mkdir()
    expert.write_bytes((images / "0.png").read_bytes())
    with pytest.raises(InputError, match="no stream wrote it"):
        record(open_source(images), model, tmp_path / "data")
    for source, output in ((expert.parent, tmp_path / "data"), (images, images)):
        with pytest.raises(InputError, match="would replace the input"):
            record(open_source(source), model, output)
    assert expert.is_file() and len(list(images.iterdir())) == 2
    for _ in range(2):
        record(open_source(images), Stream(folded()), tmp_path / "out")
    for name in ("overlays", "overlays/0.png", "masks"):
        with pytest.raises(InputError, match="would replace the input"):
            record(open_source(tmp_path / "out" / name), model, tmp_path / "out")
    video = tmp_path / "out" / "overlay.mp4"
    record(open_source(write_video(tmp_path / "a.mp4")), Stream(folded()), tmp_path / "out")
    with pytest.raises(InputError, match="would replace the input"):
        record(open_source(video), model, tmp_path / "out")


def test_pictures_keep_their_names_and_sizes(tmp_path: Path) -> None:
    """A folder of images and one image give a PNG each in place of a video, in which they would be of one size."""
    folder = tmp_path / "images"
    folder.mkdir()
    sizes = {"left.png": (48, 64), "right.jpg": (30, 90), "10.bmp": (64, 48)}
    for name, size in sizes.items():
        Image.fromarray(frames(1, *size)[0]).save(folder / name)
    out = tmp_path / "out"
    record(open_source(write_video(tmp_path / "a.mp4")), Stream(folded()), out)
    report = record(open_source(folder), Stream(folded()), out)
    assert report["files"] == ["overlays", "masks", "latency.png", "report.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(report["files"])  # no video of the earlier stream
    for name, (height, width) in sizes.items():
        for kind in ("overlays", "masks"):
            with Image.open(out / kind / f"{Path(name).stem}.png") as picture:
                assert picture.size == (width, height)
    assert len(list((out / "masks").iterdir())) == 3
    Image.fromarray(frames(1)[0]).save(folder / "left.tif")  # two of one name
    record(open_source(folder), Stream(folded()), out)
    names = {"left.png.png", "left.tif.png", "right.jpg.png", "10.bmp.png"}
    assert {path.name for path in (out / "masks").iterdir()} == names
    for one in (folder / "right.jpg", write_dicom(tmp_path / "still.dcm", np.stack(frames(1)))):
        record(open_source(one), Stream(folded()), out)
        for kind in ("overlays", "masks"):
            assert [path.name for path in (out / kind).iterdir()] == [f"{one.stem}.png"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    """What an earlier stream wrote is removed, and nothing else, whatever its report says."""
    out = tmp_path / "out"
    record(open_source(write_video(tmp_path / "a.mp4")), Stream(folded()), out)
    report = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps(report | {"pictures": ["../../a", "*", 3]}))
    (out / "notes.txt").write_text("mine")
    Image.fromarray(frames(1)[0]).save(tmp_path / "a.png")
    record(open_source(tmp_path / "a.png"), Stream(folded()), out)
    there = {path.name for path in out.iterdir()}
    assert {"notes.txt", "overlays"} <= there and "overlay.mp4" not in there
    assert (tmp_path / "a.mp4").exists() and (tmp_path / "a.png").exists()


def test_masks_of_others_stay(tmp_path: Path) -> None:
    """Those that an earlier stream numbered are removed, and no other."""
    out = tmp_path / "out"
    record(open_source(write_video(tmp_path / "a.mp4")), Stream(folded()), out)
    numbered = {path.name for path in (out / "masks").iterdir()}
    assert "00001.png" in numbered
    for name in ("00001_expert.png", "10023.png", "mine.png"):
        Image.fromarray(frames(1)[0]).save(out / "masks" / name)
    Image.fromarray(frames(1)[0]).save(tmp_path / "a.png")
    record(open_source(tmp_path / "a.png"), Stream(folded()), out)
    left = {path.name for path in (out / "masks").iterdir()}
    assert {"00001_expert.png", "10023.png", "mine.png"} <= left and not left & numbered


@pytest.mark.parametrize("name", ["overlay.mp4", "latency.png", "report.json", "segmentation.dcm"])
def test_a_file_that_no_stream_wrote_is_not_replaced(name: str, tmp_path: Path) -> None:
    clip, output = write_video(tmp_path / "a.mp4"), tmp_path / "out"
    output.mkdir()
    (output / name).write_text('{"mine": 1}')
    with pytest.raises(InputError, match=f"{name} is there already, and no stream wrote it"):
        record(open_source(clip), Stream(folded()), output)
    assert [path.name for path in output.iterdir()] == [name]
