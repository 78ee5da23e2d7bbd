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
