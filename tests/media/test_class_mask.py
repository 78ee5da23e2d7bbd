"""Masks whose values are numbers of classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ht_kernels.errors import InputError
from ht_kernels.media.class_mask import numbers_in, read_class_mask

NUMBERS = np.repeat(np.arange(32, dtype=np.uint8), 3).reshape(8, 12)
NAMES = tuple(f"class {i}" for i in range(32))


def save(path: Path, pixels: np.ndarray, palette: list[int] | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path, **options)
    return path


ANY_PALETTE = np.random.default_rng(0).integers(0, 256, 3 * 32).tolist()


@pytest.mark.parametrize(
    ("ending", "pixels", "palette"),
    [
        *((ending, NUMBERS, None) for ending in ("png", "bmp", "tif", "gif")),
        *((ending, NUMBERS, ANY_PALETTE) for ending in ("png", "bmp", "tif")),
        *((ending, NUMBERS.astype(np.uint16), None) for ending in ("png", "tif")),
        *((ending, np.dstack([NUMBERS] * 3), None) for ending in ("png", "bmp", "tif")),
    ],
)
def test_numbers_are_read_as_they_stand(
    ending: str, pixels: np.ndarray, palette: list[int] | None, tmp_path: Path
) -> None:
    path = save(tmp_path / f"mask.{ending}", pixels, palette)
    found = read_class_mask(path, NAMES)
    assert found.dtype == np.uint8 and np.array_equal(found, NUMBERS)
    assert numbers_in(path) == tuple(range(32))


def test_a_mask_is_turned_as_its_image_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / "mask.png", NUMBERS, exif=exif)
    assert np.array_equal(read_class_mask(path, NAMES), np.rot90(NUMBERS, -1))


def test_a_value_that_is_no_class_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", np.array([[0, 1, 7, 255]], np.uint8))
    with pytest.raises(InputError, match=r"mask\.png has the values 7, 255, and the classes are 0 \(backg"):
        read_class_mask(path, ("background", "vessel", "cyst"))
    negative = save(tmp_path / "mask.tif", np.array([[0, -1]], np.int32))
    with pytest.raises(InputError, match=r"mask\.tif has the value -1, and"):
        read_class_mask(negative, NAMES)


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("mask.jpg", NUMBERS, "stored as JPEG, which may change values"),
        ("mask.webp", NUMBERS, "stored as WEBP, which may change values"),
        ("mask.pgm", NUMBERS, "stored as PPM, which may change values"),
        ("mask.png", np.dstack([NUMBERS, NUMBERS, 0 * NUMBERS]), "pixels of the kind RGB, expected the numbers"),
        ("mask.tif", NUMBERS.astype(np.float32), "pixels of the kind F, expected the numbers"),
        ("mask.png", np.dstack([NUMBERS] * 4), "pixels of the kind RGBA, expected the numbers"),
    ],
)
def test_files_without_numbers_are_refused(name: str, pixels: np.ndarray, message: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, pixels)
    with pytest.raises(InputError, match=message):
        read_class_mask(path, NAMES)
    assert numbers_in(path) == ()


def test_a_tiff_file_with_a_jpeg_inside_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.tif", NUMBERS, compression="jpeg")
    with pytest.raises(InputError, match="stored as TIFF, which may change values"):
        read_class_mask(path, NAMES)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the mask .* is missing"):
        read_class_mask(tmp_path / "mask.png", NAMES)
    (tmp_path / "mask.png").write_text("text")
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_class_mask(tmp_path / "mask.png", NAMES)


def test_numbers_of_palettes_and_of_levels(tmp_path: Path) -> None:
    """Three grays of a palette are grays, for programs store smooth edges so; two entries, or colours, are numbers."""
    grays = [level for i in range(256) for level in (100 * min(i, 2),) * 3]
    few, two = np.array([[0, 1, 2]], np.uint8), np.array([[0, 2, 2]], np.uint8)
    assert numbers_in(save(tmp_path / "a.png", few, grays)) == (0, 100, 200)
    assert numbers_in(save(tmp_path / "b.png", two, grays)) == (0, 2)
    assert numbers_in(save(tmp_path / "c.png", few, [0, 0, 0, 200, 0, 0, 0, 200, 0])) == (0, 1, 2)
    assert numbers_in(save(tmp_path / "d.png", np.arange(48, dtype=np.uint8)[None])) == ()
