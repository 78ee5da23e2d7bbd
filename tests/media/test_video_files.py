"""Videos: frames are what a player shows, and a file that is not whole gives what there is, and a warning."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from helpers.clips import TINY, folded, frames, write_dicom
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.media.opening import open_file
from ht_kernels.video import LiveSource, Stream, record
from ht_kernels.video.channel import Channel, Closed
from ht_kernels.video.live import VideoConnection

pytestmark = pytest.mark.usefixtures("one_thread")

NOISE = np.random.default_rng(0).integers(0, 60, (30, 48, 64, 3), dtype=np.uint8)


def write(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    count: int = 30,
    options: dict[str, str] | None = None,
    audio: float = 0.0,
    prepare: Callable[[Any], None] = lambda stream: None,
) -> Path:
    """A clip of ``count`` noisy frames at 25 frames per second, with ``audio`` seconds of silence."""
    with av.open(str(path), "w", options=options or {}) as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, pixels
        prepare(video)
        sound = container.add_stream("libopus", rate=48000, layout="mono") if audio else None
        for i in range(count):
            picture = np.linspace(0, 150, 64, dtype=np.uint8)[:, None] + NOISE[i] + np.uint8(i)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        for i in range(round(audio * 50) if sound else 0):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 48000, 960 * i
            container.mux(sound.encode(silence))
        if sound:
            container.mux(sound.encode())
    return path


def read(path: Path) -> tuple[int, list[str]]:
    """How many frames a file gives, and its warnings, the same each time."""
    source = open_file(path)
    assert source.kind == "video"
    count = sum(1 for _ in source)
    said = list(source.warnings)
    assert sum(1 for _ in source) == count and source.warnings == said
    assert all(str(path) in sentence and "\n" not in sentence for sentence in said)
    return count, said


WHOLE = {
    "b.mp4": {"options": {"movflags": "+faststart"}},
    "b.mov": {},
    "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "b.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "b.ts": {},
    "b.flv": {},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "ffv1.mkv": {"codec": "ffv1"},
    "sound.mkv": {"audio": 3.0},
    "sound.webm": {"codec": "libvpx-vp9", "audio": 3.0},
    "sound.mp4": {"audio": 3.0, "options": {"movflags": "+faststart"}},
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_not_warned_of(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name, **WHOLE[name])) == (30, [])


@pytest.mark.parametrize("name", [n for n in WHOLE if n not in ("b.mov", "mpeg2.mpg", "sound.mp4")])
def test_a_file_that_was_cut_off_gives_what_there_is(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **WHOLE[name])
    content = path.read_bytes()
    kept = 0.93 if name == "mpeg4.avi" else 0.6  # most of that file is its header
    path.write_bytes(content[: int(kept * len(content)) + 1])
    count, said = read(path)
    assert 5 <= count <= 26
    assert "ends after" in said[0] and "it was cut off" in said[0]


def test_a_file_without_its_index_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match="Invalid data found when processing input: moov atom not found"):
        open_file(path)


def damage(path: Path, packets: list[int]) -> None:
    """Overwrite the content of some packets, but not their headers."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number in packets:
        place, size = places[number]
        content[place : place + size] = b"\xff" * size
    path.write_bytes(content)


@pytest.mark.parametrize("last", [False, True])
def test_damaged_packets_are_counted_and_left_out(tmp_path: Path, last: bool) -> None:
    path = write(tmp_path / "a.mp4", "mjpeg", "yuvj420p")
    damage(path, [29] if last else [3, 4, 11])
    count, (said,) = read(path)
    assert count == (29 if last else 27)
    assert ("1 packet is damaged and was left out" if last else "3 packets are damaged and were left out") in said
    damage(path, list(range(30)))
    with pytest.raises(InputError, match="no frame can be decoded: Invalid data found"):
        open_file(path)


def test_a_live_source_counts_damaged_packets_and_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "mjpeg", "yuvj420p")
    damage(path, [3, 4, 11])
    connection, channel = VideoConnection(av.open(str(path))), Channel[Any](30)
    source = LiveSource("a", "url", connection, lambda: connection)
    source._read(channel, None)
    assert source.damaged == 3
    for _ in range(27):
        channel.get(0)
    with pytest.raises(Closed):
        channel.get(0)


def test_damage_is_in_the_report_and_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes()[:15000])
    assert main(["stream", str(path), "--output", str(tmp_path / "out"), *TINY]) == 0
    (said,) = json.loads((tmp_path / "out/report.json").read_text())["input"]["warnings"]
    assert "ends after frame" in said
    assert capsys.readouterr().err.count(f"warning: {said}\n") == 1


def corners(frame: np.ndarray) -> list[int]:
    """Levels of the corners, clockwise from the upper left."""
    return [round(float(frame[y, x].mean()) / 50) for y, x in ((4, 4), (4, -5), (-5, -5), (-5, 4))]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), [1, 2, 3, 4]),
        ((0, 1, -1, 0), [4, 1, 2, 3]),  # clockwise, as a phone held upright writes
        ((-1, 0, 0, -1), [3, 4, 1, 2]),
        ((0, -1, 1, 0), [2, 3, 4, 1]),
        ((-1, 0, 0, 1), [2, 1, 4, 3]),
        ((1, 0, 0, -1), [4, 3, 2, 1]),
        ((0, 1, 1, 0), [1, 4, 3, 2]),
        ((0, -1, -1, 0), [3, 2, 1, 4]),
    ],
)
def test_phone_videos_are_shown_upright(tmp_path: Path, matrix: tuple[int, ...], expected: list[int]) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, 32:], picture[24:, :32] = 50, 100, 150, 200
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    a, b, c, d = (65536 * value for value in matrix)
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = content.index(upright, content.index(b"tkhd"))
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:at] + turned + content[at + 36 :])
    source = open_file(path)
    (frame,) = source
    assert corners(frame) == expected
    assert source.size == frame.shape[:2] == ((48, 64) if matrix[0] else (64, 48))


def test_pixels_that_are_no_squares(tmp_path: Path) -> None:
    def wide(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = Fraction(3, 2)

    source = open_file(write(tmp_path / "a.mp4", count=3, prepare=wide))
    assert source.size == (48, 96) and next(iter(source)).shape == (48, 96, 3)


@pytest.mark.parametrize("space", ["bt601", "bt709"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_colours_follow_the_tags(tmp_path: Path, space: str, full: bool, deep: bool) -> None:
    """Against the equations of the two recommendations."""
    red, green, blue = 200.0, 60.0, 30.0
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[space]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    u, v = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    planes = (y, u + 128, v + 128) if full else (16 + y * 219 / 255, 128 + u * 224 / 255, 128 + v * 224 / 255)
    pixels, kind = ("yuv444p10le", np.dtype("<u2")) if deep else ("yuv444p", np.dtype("u1"))
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = (1 if space == "bt709" else 6), 1 + full
        frame = av.VideoFrame(64, 48, pixels)
        frame.colorspace, frame.color_range = (1 if space == "bt709" else 6), 1 + full
        for plane, value in zip(frame.planes, planes, strict=True):
            level = value * 1023 / 255 if deep and full else value * 4 if deep else value
            plane.update(np.full(plane.buffer_size // kind.itemsize, round(level), kind).tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (shown,) = open_file(path)
    assert np.abs(shown[24, 32].astype(int) - (red, green, blue)).max() <= 2


@pytest.mark.parametrize(("pixels", "bits"), [("gray", 8), ("gray10le", 10), ("gray16le", 16)])
def test_gray_videos(tmp_path: Path, pixels: str, bits: int) -> None:
    levels = np.arange(48 * 64).reshape(48, 64) % 256
    kind = np.dtype("u1" if bits == 8 else "<u2")
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        frame = av.VideoFrame(64, 48, pixels)
        rows = np.zeros((48, frame.planes[0].line_size // kind.itemsize), kind)
        rows[:, :64] = np.rint(levels * ((2**bits - 1) / 255))
        frame.planes[0].update(rows.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (shown,) = open_file(path)
    assert np.abs(shown.astype(int) - levels[..., None]).max() <= 1


def test_a_cover_is_no_video_and_the_default_one_is_taken(tmp_path: Path) -> None:
    def two(first: Disposition, second: Disposition) -> list[int]:
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as container:
            for disposition in (first, second):
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                stream.disposition = disposition
            for level, stream in zip((40, 200), container.streams.video, strict=True):
                picture = np.full((48, 64, 3), level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                container.mux(stream.encode())
        return [round(float(frame.mean()) / 40) for frame in open_file(path)]

    assert two(Disposition.default, Disposition(0)) == [1]
    assert two(Disposition(0), Disposition.default) == [5]


def test_the_overlay_plays_at_the_pace_of_the_clip(tmp_path: Path) -> None:
    pages = [Image.fromarray(frame) for frame in frames(4)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=[100, 400, 50, 50])
    write_dicom(tmp_path / "b.dcm", np.stack(frames(4)), FrameTime="125")
    for name, times in (("a.gif", [0, 0.1, 0.5, 0.55]), ("b.dcm", [0, 0.125, 0.25, 0.375])):
        record(open_file(tmp_path / name), Stream(folded()), tmp_path / "out")
        with av.open(str(tmp_path / "out/overlay.mp4")) as container:
            assert [frame.time for frame in container.decode(video=0)] == pytest.approx(times, abs=1e-4)
