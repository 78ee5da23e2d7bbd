"""Where the scan lies: as a DICOM file says, or found in real and simulated images with text around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from helpers.clips import folded, frames, region, write_dicom
from ht_kernels.data.phantom import Phantom, SectorScan, simulate
from ht_kernels.errors import InputError
from ht_kernels.media.frames import Box
from ht_kernels.video import Stream, open_source
from ht_kernels.video.crop import AutoCrop, find_scan

pytestmark = pytest.mark.usefixtures("one_thread")


def example(name: str) -> np.ndarray:
    return next(iter(open_source(get_testdata_file(name, download=False))))


def assert_between(box: Box | None, inner: tuple[int, ...], outer: tuple[int, ...]) -> None:
    """``inner`` is inside ``box``, and that inside ``outer``; each left, top, right, bottom."""
    assert box is not None
    left, top, right, bottom = box.x, box.y, box.x + box.width, box.y + box.height
    assert outer[0] <= left <= inner[0] and outer[1] <= top <= inner[1]
    assert inner[2] <= right <= outer[2] and inner[3] <= bottom <= outer[3]


@pytest.mark.parametrize("height", [240, 480, 768])
def test_a_sector_among_text(height: int) -> None:
    width, side, text = 4 * height // 3, 3 * height // 4, height // 32
    left, top = (width - side) // 2, height // 6
    sample = simulate(Phantom(kind="cystic", scan=SectorScan(), frequency=3.5, focus=40), seed=0)
    scan = Image.fromarray(sample.image).resize((side, side), Image.Resampling.BILINEAR)
    image = Image.new("L", (width, height))
    image.paste(scan, (left, top))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(text)
    for row, line in enumerate(("GENERAL HOSPITAL", "DOE^JANE 01/02/1970", "ID 000123", "C5-2 28Hz", "MI 0.9 TIS 0.7")):
        draw.text((text // 2, text // 2 + row * 5 * text // 4), line, fill=230, font=font)
    draw.text((width // 3, height - 3 * text // 2), "LEFT KIDNEY, LONG AXIS", fill=255, font=font)
    draw.rectangle((0, 0, width - 1, height - 1), outline=200)
    draw.rectangle((0, height - 4, width - 1, height - 1), fill=120)
    for row in range(height // 3):  # a bar of grays
        draw.line((width - 3 * text, top + row, width - 2 * text, top + row), fill=255 - row * 255 * 3 // height)
    visible = Image.fromarray(np.asarray(scan) > 8).getbbox()
    assert visible is not None
    scan_box = visible[0] + left, visible[1] + top, visible[2] + left, visible[3] + top
    near = height // 40  # the apex and the corners of a sector end in points
    inner = scan_box[0] + near, scan_box[1] + near, scan_box[2] - near, scan_box[3] - near
    outer = scan_box[0] - 4, scan_box[1] - 4, scan_box[2] + 4, scan_box[3] + 4
    assert_between(find_scan(np.asarray(image)), inner, outer)
    assert find_scan(np.repeat(np.asarray(image)[..., None], 3, 2)) == find_scan(np.asarray(image))


def test_real_images() -> None:
    """Where text and bars are was read off the images."""
    heart = example("examples_ybr_color.dcm")
    sector = (42, 15, 298, 208)
    box = find_scan(heart)
    assert_between(box, (90, 30, 220, 200), sector)
    assert box is not None
    light = heart[sector[1] : sector[3], sector[0] : sector[2]].astype(float).sum()
    assert box.of(heart).astype(float).sum() > 0.95 * light
    assert_between(find_scan(example("examples_jpeg2k.dcm")), (16, 112, 620, 330), (0, 98, 640, 344))
    assert_between(find_scan(example("examples_rgb_color.dcm")), (8, 58, 310, 164), (0, 50, 320, 174))
    assert_between(find_scan(example("examples_palette.dcm")), (360, 85, 560, 140), (310, 64, 700, 350))


def test_where_there_is_no_scan() -> None:
    assert find_scan(np.zeros((9, 9), np.uint8)) is None and find_scan(np.full((240, 320), 90, np.uint8)) is None
    assert AutoCrop()(np.zeros((240, 320), np.uint8)) == (0, 0, 320, 240)


@pytest.mark.parametrize(
    ("regions", "scan"),
    [
        ([region(10, 5, 39, 34)], Box(10, 5, 30, 30)),
        ([region(0, 0, 9, 9), region(10, 5, 39, 34), region(0, 0, 63, 47, space=2)], Box(10, 5, 30, 30)),
        ([region(0, 0, 63, 47, kind=2)], None),  # flow in colour
        ([region(10, 5, 64, 48)], Box(10, 5, 54, 43)),  # ends at the number of pixels
        ([region(20, 10, 79, 59)], None),  # of an image that was larger
        ([region(9, 9, 3, 3)], None),
        ([Dataset()], None),
        ([], None),
    ],
)
def test_regions_in_dicom(tmp_path: Path, regions: list[Dataset], scan: Box | None) -> None:
    source = open_source(write_dicom(tmp_path / "a", np.stack(frames()), SequenceOfUltrasoundRegions=regions))
    assert source.scan == scan
    stream = Stream(folded(), crop="auto")
    shown = list(stream.run(source))
    assert {s.state for s in shown} == {"ok"}
    if scan is not None:
        assert stream.report()["crop"] == list(scan)
        outside = np.ones((48, 64), bool)
        outside[5:35, 10:40] = False
        assert any(s.mask.any() for s in shown) and not any(s.mask[outside].any() for s in shown)


def test_boxes() -> None:
    frame = np.zeros((240, 320), np.uint8)
    for wrong in (Box(300, 0, 30, 10), Box(-1, 0, 5, 5), Box(0, 0, 0, 5)):
        with pytest.raises(InputError, match="the crop"):
            wrong.of(frame)
    (shown,) = Stream(folded(), crop=Box(10, 5, 20, 30)).run(frames(1))
    outside = np.ones((48, 64), bool)
    outside[5:35, 10:30] = False
    assert shown.mask is not None and not shown.mask[outside].any()
