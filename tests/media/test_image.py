"""Images: a frame is what a viewer shows, in training and in streaming alike."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageChops

from helpers.clips import write_dicom
from ht_kernels.data.layout import read_gray
from ht_kernels.errors import InputError
from ht_kernels.media import opening
from ht_kernels.media.frames import Frame
from ht_kernels.media.opening import open_file
from ht_kernels.media.source import Source

RAMP = np.linspace(0, 65535, 16).round().astype(np.uint16)[None].repeat(6, 0)
"""6 x 16 pixels of 16 bits, black at the left and white at the right."""

SHOWN = np.rint(RAMP / 257).astype(np.uint8)
"""What a viewer shows of it."""


def read(path: Path) -> Frame:
    """The one frame of a file; training must see the same."""
    (frame,) = open_file(path)
    assert np.array_equal(Image.fromarray(frame).convert("L"), read_gray(path))
    return frame


def refused(path: Path) -> str:
    """Why streaming and training refuse a file, in the same words."""
    with pytest.raises(InputError) as streamed:
        list(open_file(path))
    with pytest.raises(InputError) as trained:
        read_gray(path)
    assert (
        str(streamed.value) == str(trained.value) and "\n" not in str(trained.value) and str(path) in str(trained.value)
    )
    return str(trained.value)


def write_tiff(path: Path, data: bytes, bits: list[int], order: str = "<", **tags: int) -> Path:
    """An uncompressed TIFF file of 6 x 16 pixels."""
    numbers = {"photometric": 262, "planar": 284, "extra": 338, "format": 339}
    fields = {
        256: [16],
        257: [6],
        258: bits,
        259: [1],
        262: [1],
        273: [0],
        277: [len(bits)],
        278: [6],
        279: [len(data)],
    }
    fields.update({numbers[name]: [value] for name, value in tags.items()})
    end, entries, tail = 8 + 2 + 12 * len(fields) + 4, b"", b""
    for number, values in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if number == 273:
            packed = struct.pack(f"{order}H", end + 2 * (len(bits) if len(bits) > 2 else 0))
        if len(packed) > 4:
            tail, packed = packed, struct.pack(f"{order}I", end)
        entries += struct.pack(f"{order}HHI", number, 3, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(fields))
    path.write_bytes(head + entries + bytes(4) + tail + data)
    return path


def write_png(path: Path, rows: np.ndarray, colour: int, extra: bytes = b"") -> Path:
    """A PNG file of 16 bits: samples (6, 16 times channels), PNG's number of the colour type, more chunks."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 6, 16, colour, 0, 0, 0))
    more = chunk(extra[:4], extra[4:]) if extra else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))
    return path


def test_16_bits_are_scaled_from_their_whole_range(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.jp2", "a.pgm"):
        Image.fromarray(RAMP).save(tmp_path / name)
        assert np.array_equal(read(tmp_path / name), SHOWN), name
    Image.fromarray(np.full((6, 16), 99 * 257, np.uint16)).save(tmp_path / "even.png")
    assert (read(tmp_path / "even.png") == 99).all()
    for white in (1023, 4095, 65535):
        (tmp_path / "b.pgm").write_bytes(
            b"P5 16 6 %d\n" % white + np.rint(RAMP * (white / 65535)).astype(">u2").tobytes()
        )
        assert np.abs(read(tmp_path / "b.pgm").astype(int) - SHOWN).max() <= 1, white
    colour = np.stack([RAMP, RAMP[:, ::-1], RAMP // 2], -1)
    shown = np.stack([SHOWN, SHOWN[:, ::-1], RAMP // 2 // 256], -1)
    rgb = read(write_png(tmp_path / "rgb.png", colour.reshape(6, -1), 2))
    assert np.abs(rgb.astype(int) - shown).max() <= 1
    opaque = np.stack([RAMP, np.full_like(RAMP, 65535)], -1)
    assert (
        np.abs(read(write_png(tmp_path / "ga.png", opaque.reshape(6, -1), 4)).astype(int) - SHOWN[..., None]).max() <= 1
    )
    hole = write_png(tmp_path / "hole.png", RAMP, 0, b"tRNS" + struct.pack(">H", 65535))
    assert np.array_equal(read(hole), np.where(SHOWN == 255, 0, SHOWN))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [4, 8, 12, 16, 32])
def test_gray_tiff(tmp_path: Path, order: str, photometric: int, bits: int) -> None:
    """Of any depth, in both orders of bytes, with black or with white at zero."""
    pairs = (RAMP >> (16 - min(bits, 16))).reshape(-1, 2)
    data = {
        4: lambda: bytes(int(a) << 4 | int(b) for a, b in pairs),
        8: lambda: pairs.astype(np.uint8).tobytes(),
        12: lambda: b"".join((int(a) << 12 | int(b)).to_bytes(3, "big") for a, b in pairs),
        16: lambda: RAMP.astype(f"{order}u2").tobytes(),
        32: lambda: (RAMP / 65535).astype(f"{order}f4").tobytes(),
    }[bits]()
    path = write_tiff(tmp_path / "a.tif", data, [bits], order, photometric=photometric, format=3 if bits == 32 else 1)
    shown = read(path).astype(int)
    assert np.abs((shown if photometric else 255 - shown) - SHOWN).max() <= (8 if bits == 4 else 1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_colour_tiff(tmp_path: Path, order: str) -> None:
    colour = np.stack([SHOWN, SHOWN[:, ::-1], SHOWN // 2], -1)
    assert np.array_equal(read(write_tiff(tmp_path / "8", colour.tobytes(), [8] * 3, order, photometric=2)), colour)
    Image.fromarray(colour).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    assert np.array_equal(read(tmp_path / "lzw.tif"), colour)
    wide = (colour.astype(np.uint16) * 257).astype(f"{order}u2").tobytes()
    assert np.array_equal(read(write_tiff(tmp_path / "16", wide, [16] * 3, order, photometric=2)), colour)
    premultiplied = np.concatenate([colour // 2, np.full((6, 16, 1), 128, np.uint8)], -1).tobytes()
    path = write_tiff(tmp_path / "pre", premultiplied, [8] * 4, order, photometric=2, extra=1)
    assert np.abs(read(path).astype(int) - colour // 2).max() <= 1  # on black


def test_what_has_no_white_is_refused(tmp_path: Path) -> None:
    for values, words in [
        (RAMP.astype("<f4"), "its values are 0 to 65535, expected 0 to 1"),
        (np.full((6, 16), np.nan, "<f4"), "its values are nan to nan"),
        (np.full((6, 16), np.inf, "<f4"), "inf"),
        (RAMP.astype("<f4") / 65535 - 0.5, "its values are -0.5 to 0.5"),
    ]:
        assert words in refused(write_tiff(tmp_path / "f.tif", values.tobytes(), [32], format=3))
    signed = write_tiff(tmp_path / "s.tif", (RAMP // 2).astype("<i2").tobytes(), [16], format=2)
    assert "integers with a sign" in refused(signed)
    assert "integers of 32 bits" in refused(write_tiff(tmp_path / "u.tif", RAMP.astype("<u4").tobytes(), [32]))
    assert "kind that is not supported" in refused(write_tiff(tmp_path / "10.tif", bytes(200), [10]))


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = 250, 170, 90
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),  # a camera held so that it must be turned clockwise to be shown
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {"quality": 100} if kind == "jpeg" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a", kind, exif=exif, **options)
    frame = read(tmp_path / "a")
    assert frame.shape == upright.shape and np.abs(frame.astype(int) - upright).max() <= 3
    assert open_file(tmp_path / "a").size == (16, 32)


def test_16_bit_orientation_and_damaged_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for pixels in (RAMP, SHOWN):
        for kind in ("png", "tiff"):
            Image.fromarray(pixels).save(tmp_path / "a", kind, exif=exif)
            assert np.array_equal(read(tmp_path / "a"), np.rot90(SHOWN, -1)), kind
    Image.fromarray(SHOWN).save(tmp_path / "b.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read(tmp_path / "b.png"), SHOWN)


def test_palettes_alpha_and_bits(tmp_path: Path) -> None:
    palette = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(6, 16) % 4)
    palette.putpalette([0, 0, 0, 255, 0, 0, 10, 20, 30, 255, 255, 255])
    palette.save(tmp_path / "p.png")
    expected = np.array([[0, 0, 0], [255, 0, 0], [10, 20, 30], [255, 255, 255]], np.uint8)[np.asarray(palette)]
    assert np.array_equal(read(tmp_path / "p.png"), expected)
    palette.save(tmp_path / "t.png", transparency=3)
    expected[np.asarray(palette) == 3] = 0
    assert np.array_equal(read(tmp_path / "t.png"), expected)
    colour = np.dstack([SHOWN, SHOWN, SHOWN, np.full_like(SHOWN, 51)])
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert np.abs(read(tmp_path / "a.png") - (SHOWN * 0.2)[..., None]).max() <= 1
    Image.fromarray(colour[..., 2:]).save(tmp_path / "la.png")
    assert read(tmp_path / "la.png").shape == (6, 16) and np.abs(read(tmp_path / "la.png") - SHOWN * 0.2).max() <= 1
    Image.fromarray(SHOWN > 127).save(tmp_path / "1.png")
    assert np.array_equal(read(tmp_path / "1.png"), 255 * (SHOWN > 127))


def test_inks_and_lab(tmp_path: Path) -> None:
    rgb = Image.new("RGB", (16, 16), (200, 100, 50))
    rgb.convert("CMYK").save(tmp_path / "adobe.jpg", quality=100)
    assert np.abs(read(tmp_path / "adobe.jpg").astype(int) - (200, 100, 50)).max() <= 3
    ImageChops.invert(rgb.convert("CMYK")).save(tmp_path / "plain.jpg", quality=100)
    content = (tmp_path / "plain.jpg").read_bytes()
    at = content.index(b"\xff\xee")
    (tmp_path / "plain.jpg").write_bytes(content[:at] + content[at + 16 :])  # without Adobe's mark, ink is ink
    assert np.abs(read(tmp_path / "plain.jpg").astype(int) - (200, 100, 50)).max() <= 3
    Image.frombytes("LAB", (1, 1), bytes([136, 0, 0])).resize((4, 4)).save(tmp_path / "lab.tif")
    assert np.ptp(read(tmp_path / "lab.tif").astype(int)) <= 3 and 120 < read(tmp_path / "lab.tif").mean() < 140


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_has_its_own_times(tmp_path: Path, kind: str) -> None:
    pages = [Image.new("RGB", (16, 6), (level,) * 3) for level in (40, 120, 200, 90)]
    options = {"lossless": True} if kind == "webp" else {}
    pages[0].save(tmp_path / "a", kind, save_all=True, append_images=pages[1:], duration=[100, 300, 40, 160], **options)
    source = open_file(tmp_path / "a")
    assert source.frame_count == 4 and source.fps == pytest.approx(4 / 0.6)
    for _ in range(2):
        times, frames = zip(*source.timed(), strict=True)
        assert times == pytest.approx([0, 0.1, 0.4, 0.44])
        assert [int(frame.mean()) for frame in frames] == [40, 120, 200, 90]
    with pytest.raises(InputError, match="has several frames"):
        read_gray(tmp_path / "a")


def by_ffmpeg(path: Path) -> list[np.ndarray]:
    """The frames of an animation as another library lays them over each other."""
    with av.open(path) as container:
        pictures = [Image.fromarray(frame.to_ndarray(format="rgba")) for frame in container.decode(video=0)]
    black = Image.new("RGBA", pictures[0].size, (0, 0, 0, 255))
    return [np.asarray(Image.alpha_composite(black, picture).convert("RGB")) for picture in pictures]


@pytest.mark.parametrize("disposal", [0, 1, 2])
def test_frames_of_an_animation_are_laid_over_each_other(tmp_path: Path, disposal: int) -> None:
    pages = [Image.new("RGBA", (16, 16), (80, 80, 80, 255))]
    for place, level in ((0, 255), (8, 160), (4, 20)):
        pages.append(Image.new("RGBA", (16, 16)))
        pages[-1].paste((level, level, level, 255), (place, place, place + 6, place + 6))
    more = {"save_all": True, "append_images": pages[1:], "duration": 50}
    pages[0].save(tmp_path / "a.png", disposal=disposal, blend=1, **more)
    pages[0].save(tmp_path / "a.gif", disposal=disposal + 1, **more)
    for name in ("a.png", "a.gif"):
        shown, expected = list(open_file(tmp_path / name)), by_ffmpeg(tmp_path / name)
        assert len(shown) == len(expected) == 4
        for a, b in zip(shown, expected, strict=True):
            assert np.array_equal(a if a.ndim == 3 else np.repeat(a[..., None], 3, 2), b), name


def test_the_still_image_of_an_animation_is_no_frame_of_it(tmp_path: Path) -> None:
    still = Image.new("RGB", (16, 16), (7, 7, 7))
    pages = [Image.new("RGB", (16, 16), (level,) * 3) for level in (50, 60)]
    still.save(tmp_path / "b.png", save_all=True, default_image=True, append_images=pages, duration=50)
    assert [int(frame.mean()) for frame in open_file(tmp_path / "b.png")] == [50, 60]
    assert open_file(tmp_path / "b.png").frame_count == 2


def test_pages_are_pictures_of_their_own(tmp_path: Path) -> None:
    image, small = Image.fromarray(SHOWN), Image.new("L", (4, 4), 9)
    small.encoderinfo = {"tiffinfo": {254: 1}}
    image.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    assert np.array_equal(read(tmp_path / "a.tif"), SHOWN)
    image.save(tmp_path / "b.tif", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    source = open_file(tmp_path / "b.tif")
    assert source.frame_count == 2 and [frame.shape for frame in source] == [(6, 16), (4, 4)] and source.fps is None
    small.save(tmp_path / "c.tif", tiffinfo={254: 1})  # a thumbnail alone is better than nothing
    assert (read(tmp_path / "c.tif") == 9).all()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(
        tmp_path / "d.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    )
    assert (read(tmp_path / "d.jpg") == 9).all()


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff", "ppm", "webp", "gif", "jpeg2000"])
def test_truncated(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a", kind)
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[: len(content) * 2 // 3])
    message = refused(tmp_path / "a")
    assert "cannot be read as an image: " in message and not message.endswith((":", ": "))


def test_bombs_and_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(SHOWN).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    assert "exceeds limit of 80 pixels" in refused(tmp_path / "a.png")
    monkeypatch.undo()
    Image.new("L", (1, 1), 77).save(tmp_path / "one.png")
    assert read(tmp_path / "one.png").tolist() == [[77]]
    content = (tmp_path / "one.png").read_bytes()
    head = b"IHDR" + struct.pack(">I", 0) + content[20:29]
    (tmp_path / "none.png").write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])
    with pytest.raises(InputError, match=r"none\.png"):
        open_file(tmp_path / "none.png")


def test_a_dicom_picture_with_a_warning_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(tmp_path, "dicom", 1, None, (6, 16), lambda: iter([(None, SHOWN)]), warnings=["it was cut off"])
    path = write_dicom(tmp_path / "a.dcm", SHOWN[None])
    assert np.array_equal(np.asarray(read_gray(path)), SHOWN)
    monkeypatch.setattr(opening, "open_dicom", lambda path: source)
    with pytest.raises(InputError, match="it was cut off"):
        read_gray(path)


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(SHOWN).save(tmp_path / "a.PNG", "png")
    Image.fromarray(SHOWN).save(tmp_path / "b.jpg", "png")
    Image.fromarray(SHOWN).save(tmp_path / "c.mp4", "tiff")
    for name in ("a.PNG", "b.jpg", "c.mp4"):
        assert np.array_equal(read(tmp_path / name), SHOWN)


def test_a_folder_has_no_hidden_files(tmp_path: Path) -> None:
    for name, size in [("f10.PNG", (8, 8)), ("f2.png", (4, 4)), ("f1.JPG", (8, 8))]:
        Image.new("L", size, 50).save(tmp_path / name)
    for name in ("._f1.png", ".DS_Store", ".f3.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7 no image")
    source = open_file(tmp_path)
    assert source.frame_count == 3 and [frame.shape for frame in source] == [(8, 8), (4, 4), (8, 8)]
    only_hidden = tmp_path / "hidden"
    only_hidden.mkdir()
    (only_hidden / "._a.png").write_bytes(b"x")
    with pytest.raises(InputError, match="has no images"):
        open_file(only_hidden)


def test_a_folder_of_folders_says_which_to_name(tmp_path: Path) -> None:
    for name in ("p10/scan", "p2/scan", "p2/notes", ".thumbnails"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / ("1.png" if name != "p2/notes" else ".1.png"))
    told = re.escape(
        f"{tmp_path} has no images itself, but folders below it have: name one, such as {tmp_path}/p2/scan"
    )
    with pytest.raises(InputError, match=f"^{told}$"):
        open_file(tmp_path)
    with pytest.raises(InputError, match="notes has no images; expected files that end in"):
        open_file(tmp_path / "p2/notes")


def test_a_gif_without_delays_is_shown_as_in_browsers(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((20, 30), value, np.uint8)) for value in (0, 100, 200)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=[0, 0, 0])
    source = open_file(tmp_path / "a.gif")
    assert [seconds for seconds, _ in source.timed()] == pytest.approx([0, 0.1, 0.2])
    assert source.fps == pytest.approx(10)
