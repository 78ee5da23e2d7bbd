"""Masks: which pixels are inside, whatever the file keeps them in, and which files are no masks."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, TiffImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset

from helpers.layout import disc, picture
from ht_kernels.errors import InputError
from ht_kernels.media.mask import inside, read_mask

MASK = disc(3, (60, 80))
SHARE = MASK.mean()
WHITE = np.uint8(255)


def colours(outside: tuple[int, ...], within: tuple[int, ...]) -> np.ndarray:
    return np.where(MASK[..., None] == 1, np.array(within), np.array(outside)).astype(np.uint8)


def palette(*entries: tuple[int, int, int], indices: np.ndarray = MASK) -> Image.Image:
    made = Image.new("P", indices.shape[::-1])
    made.putdata(indices.ravel().tolist())
    made.putpalette([value for entry in entries for value in entry])
    return made


def white_is_zero(pixels: np.ndarray) -> tuple[Image.Image, dict[str, object]]:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    return Image.fromarray(pixels), {"tiffinfo": tags}


def save(path: Path, made: Image.Image | np.ndarray, **options: object) -> Path:
    (made if isinstance(made, Image.Image) else Image.fromarray(made)).save(path, **options)
    return path


LOSSLESS: dict[str, tuple[str, Image.Image | np.ndarray]] = {
    "0 and 1": ("png", MASK),
    "0 and 255": ("png", MASK * WHITE),
    "0 and 128": ("png", MASK * np.uint8(128)),
    "1 bit": ("png", MASK.astype(bool)),
    "1 bit TIFF": ("tiff", MASK.astype(bool)),
    "PBM": ("pbm", Image.fromarray(MASK.astype(bool))),
    "16 bits of 0 and 1": ("png", MASK.astype(np.uint16)),
    "16 bits of 0 and 65535": ("png", MASK * np.uint16(65535)),
    "16-bit TIFF": ("tiff", MASK * np.uint16(255)),
    "32 bits": ("tiff", MASK.astype(np.int32)),
    "floating point of 0 and 1": ("tiff", MASK.astype(np.float32)),
    "floating point of 0 and 255": ("tiff", MASK.astype(np.float32) * 255),
    "RGB": ("png", colours((0, 0, 0), (255, 255, 255))),
    "RGB of 0 and 1": ("png", colours((0, 0, 0), (1, 1, 1))),
    "red on black": ("png", colours((0, 0, 0), (255, 0, 0))),
    "dark blue on black": ("bmp", colours((0, 0, 0), (0, 0, 90))),
    "palette, indices": ("png", palette((10, 80, 200), (5, 9, 3))),
    "palette, indices in GIF": ("gif", palette((200, 200, 200), (255, 0, 0))),
    "palette, black and white": ("png", palette((0, 0, 0), (255, 255, 255))),
    "palette, white and black": ("png", palette((255, 255, 255), (0, 0, 0), indices=1 - MASK)),
    "palette, red on black": ("png", palette((0, 0, 0), (9, 9, 9), (9, 9, 9), (200, 0, 0), indices=3 * MASK)),
    "alpha, white": ("png", colours((255, 255, 255, 0), (255, 255, 255, 255))),
    "alpha, black": ("png", colours((0, 0, 0, 0), (0, 0, 0, 255))),
    "alpha, black on transparent white": ("png", colours((255, 255, 255, 0), (0, 0, 0, 255))),
    "alpha, gray": ("png", Image.merge("LA", [Image.new("L", (80, 60), 255), Image.fromarray(MASK * WHITE)])),
    "alpha that is opaque": ("png", colours((0, 0, 0, 255), (255, 255, 255, 255))),
    "alpha that is transparent": ("png", colours((0, 0, 0, 0), (255, 255, 255, 0))),
    "WebP": ("webp", colours((0, 0, 0), (255, 255, 255))),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_what_is_inside(kind: str, tmp_path: Path) -> None:
    ending, made = LOSSLESS[kind]
    found = read_mask(save(tmp_path / f"mask.{ending}", made, **({"lossless": True} if ending == "webp" else {})))
    assert found.dtype == np.uint8 and np.array_equal(found, MASK)


def test_colour_and_alpha_that_both_vary_lie_on_black(tmp_path: Path) -> None:
    shown = np.zeros((60, 80), np.uint8)
    shown[:, 30:] = 255
    pixels = np.dstack([colours((0, 0, 0), (255, 255, 255)), shown])
    assert np.array_equal(read_mask(save(tmp_path / "mask.png", pixels)), MASK * (shown > 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_in_which_white_is_zero(dtype: type, tmp_path: Path) -> None:
    image, options = white_is_zero(MASK * np.array(np.iinfo(dtype).max, dtype))
    stored = save(tmp_path / "mask.tiff", image, **options)
    if dtype is np.uint16:  # Pillow writes 8 bits so that they look alike, and these as they are
        assert np.array_equal(read_mask(stored), 1 - MASK)
    else:
        assert np.array_equal(read_mask(stored), MASK)


@pytest.mark.parametrize("ending", ["jpg", "tiff"])
def test_orientation(ending: str, tmp_path: Path) -> None:
    exif, tags = Image.Exif(), TiffImagePlugin.ImageFileDirectory_v2()
    exif[0x0112] = tags[0x0112] = 6  # to be turned by 90 degrees
    options = {"tiffinfo": tags} if ending == "tiff" else {"exif": exif}
    path = save(tmp_path / f"mask.{ending}", MASK * WHITE, **options)
    assert np.array_equal(read_mask(path), np.rot90(MASK, -1))


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_masks_of_one_value(value: int, ending: str, tmp_path: Path) -> None:
    found = read_mask(save(tmp_path / f"mask.{ending}", np.full((60, 80), value, np.uint8)))
    assert found.shape == (60, 80) and (found == (value > 0)).all()


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95])
@pytest.mark.parametrize("bright", [90, 200, 255])
def test_jpeg(bright: int, quality: int, tmp_path: Path) -> None:
    path = save(tmp_path / "mask.jpg", MASK * np.uint8(bright), quality=quality)
    assert len(np.unique(Image.open(path))) > 2
    found = read_mask(path)
    wrong = np.count_nonzero(found != MASK) / MASK.sum()
    assert wrong <= {10: 0.08, 30: 0.03}.get(quality, 0.01)
    assert abs(found.mean() / SHARE - 1) <= {10: 0.05}.get(quality, 0.02)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (255, 255, 0)])
def test_jpeg_in_colour(colour: tuple[int, int, int], tmp_path: Path) -> None:
    found = read_mask(save(tmp_path / "mask.jpg", colours((0, 0, 0), colour), quality=75))
    assert abs(found.mean() / SHARE - 1) < 0.03


@pytest.mark.parametrize("how", [Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_resized_masks(how: Image.Resampling, tmp_path: Path) -> None:
    large = disc(3, (240, 320))
    for size in ((80, 60), (107, 77), (640, 480), (500, 500)):
        path = save(tmp_path / "mask.png", Image.fromarray(large * WHITE).resize(size, how))
        assert read_mask(path).mean() == pytest.approx(large.mean(), rel=0.03)


def test_dicom(tmp_path: Path) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "US", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = MASK.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = (MASK * WHITE).tobytes()
    dataset.save_as(tmp_path / "mask.dcm", enforce_file_format=True)
    assert np.array_equal(read_mask(tmp_path / "mask.dcm"), MASK)


def levels(*values: int) -> np.ndarray:
    pixels = np.zeros((60, 80), np.uint8)
    for i, value in enumerate(values):
        pixels[10:50, 10 * i : 10 * i + 10] = value
    return pixels


RAMP = np.broadcast_to(np.linspace(0, 255, 80).astype(np.uint8), (60, 80)).copy()
NAN = np.where(MASK == 1, np.float32("nan"), np.float32(0))
NO_MASKS: dict[str, tuple[np.ndarray, str]] = {
    "numbers of classes": (levels(1, 2), "has the values 0, 1, 2; expected two values, black outside and one brighter"),
    "a few pixels of a class": (
        np.where(np.arange(4800).reshape(60, 80) == 900, 1, 2 * MASK).astype(np.uint8),
        "0, 1, 2",
    ),
    "three levels": (levels(127, 255), "has the values 0, 127, 255"),
    "classes and an ignored part": (levels(1, 255), "has the values 0, 1, 255"),
    "a dark level": (levels(50, 255), "has the values 0, 50, 255"),
    "a bright level": (levels(200, 255), "has the values 0, 200, 255"),
    "seven levels": (levels(42, 85, 127, 170, 212, 255), "has 7 values from 0 to 255"),
    "a gradient": (RAMP, "of its pixels are neither black nor bright"),
    "a picture": (picture(5, (60, 80)), "of its pixels are neither black nor bright"),
    "noise": (np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8), "are neither black nor bright"),
    "probabilities": (RAMP.astype(np.float32) / 255, "of its pixels are neither black nor bright"),
    "no black": (np.where(MASK == 1, WHITE, np.uint8(254)), "has the values 254, 255, and none is black"),
    "gray and white": (np.where(MASK == 1, WHITE, np.uint8(100)), "neither black nor bright"),
    "two colours": (np.dstack([levels(255, 0), levels(0, 255), levels(0, 0)]), "has several colours"),
    "red on white": (colours((255, 255, 255), (255, 0, 0)), "has several colours"),
    "negative values": (MASK.astype(np.float32) - 0.5, "has values of -0.5 to 0.5"),
    "no numbers": (NAN, "has values of nan to nan"),
}


@pytest.mark.parametrize("kind", NO_MASKS)
def test_what_is_no_mask(kind: str, tmp_path: Path) -> None:
    pixels, message = NO_MASKS[kind]
    path = save(tmp_path / ("mask.tiff" if pixels.dtype == np.float32 else "mask.png"), pixels)
    with pytest.raises(InputError, match=r"^the mask .*mask\.\w+ has ") as caught:
        read_mask(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_pictures_in_jpeg_are_no_masks(tmp_path: Path) -> None:
    for seed in range(10):
        with pytest.raises(InputError, match="neither black nor bright"):
            read_mask(save(tmp_path / "mask.jpg", picture(seed, (120, 160)), quality=50))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("text"), "cannot be read as an image"),
        (lambda path: path.write_bytes(save(path, MASK).read_bytes()[:60]), "cannot be read as an image"),
        (
            lambda path: save(path, MASK * WHITE, save_all=True, append_images=[Image.new("L", (80, 60))]),
            "has 2 pictures, expected one mask",
        ),
    ],
)
def test_files_without_a_mask(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    make(path)
    with pytest.raises(InputError, match=message):
        read_mask(path)


def test_shapes_in_jpeg_are_never_refused() -> None:
    """Sharp edges along and across JPEG's blocks leave the most levels."""
    generator = np.random.default_rng(0)
    for _ in range(150):
        pixels = np.zeros(generator.integers(40, 120, 2), np.uint8)
        top, left = (generator.integers(0, side - 16) for side in pixels.shape)
        pixels[top : top + generator.integers(8, 40), left : left + generator.integers(8, 40)] = generator.choice(
            [99, 255]
        )
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(generator.integers(30, 96)))
        found = inside(np.asarray(Image.open(file)))
        assert found.sum() == pytest.approx((pixels > 0).sum(), rel=0.1)
