"""COCO's instances: a JSON file of images, annotations and categories, whose outlines become masks of classes.

Class 0 is the background, and the categories follow in the order of their ids. Of instances that overlap, the smaller
lies on top, and of equally large ones the later; a crowd, a region of many instances, is one instance of its class. An
image without annotations is all background.

An outline is polygons in pixels, with (0, 0) at the corner of the first pixel, or run lengths down the columns,
plain or packed into letters, as the API of COCO has them (Lin et al., ECCV 2014). A pixel is inside a polygon if its
centre is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError, reason

from ..layout import read_text
from ..names import key
from .found import ByName, Found, pictures
from .item import Download, Item, Unusable
from .mask_values import MOST_CLASSES
from .own import Own

_BACKGROUND = "background"


def read_coco(own: Own, source: Path, images: Path | None) -> Download:
    """The images that a file of instances names.

    Args:
        own: the name of the data set and its patients.
        source: the JSON file.
        images: the folder of the images; by default that of the file. Names in the file are paths below it; a name
            alone may lie anywhere below, where it is the only one.

    Raises:
        InputError: the file is missing or no such file, or the folder is missing.
    """
    if own.classes:
        raise InputError("--classes is for images in folders and tables; the categories of COCO are the classes")
    folder = source.parent if images is None else images
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; expected that of the images")
    try:
        content = json.loads(read_text(source))
        listed = [(each["id"], str(each["file_name"])) for each in content["images"]]
        sizes = {each["id"]: (each.get("width"), each.get("height")) for each in content["images"]}
        categories = sorted((int(each["id"]), str(each["name"])) for each in content["categories"])
        outlines: dict[Any, list[tuple[int, Any]]] = {}
        for each in content["annotations"]:
            outlines.setdefault(each["image_id"], []).append((int(each["category_id"]), each.get("segmentation")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{source} is no file of COCO's instances ({reason(error)}); expected images with id and file_name, "
            "annotations with image_id, category_id and segmentation, and categories with id and name"
        ) from error
    classes = (_BACKGROUND, *(name for _, name in categories if name.lower() != _BACKGROUND))
    numbers = {number: 0 if name.lower() == _BACKGROUND else classes.index(name) for number, name in categories}
    if not 2 <= len(classes) <= MOST_CLASSES or len(set(classes)) < len(classes):
        raise InputError(f"{source} has the categories {', '.join(classes[1:])}; expected different ones, 1 or more")
    unknown = [number for found in outlines.values() for number, _ in found if number not in numbers]
    if unknown:
        raise InputError(f"{source} has an annotation of category {unknown[0]}, which is not among its categories")
    download = Download(own.name, [], mask_classes=classes)
    known, used, taken = ByName(pictures(folder)), dict[Any, Found](), set[Path]()
    for number, name in listed:
        meant = known.find(name) or known.find(PurePosixPath(name).name)
        if len(meant) == 1 and meant[0].path not in taken:
            used[number] = meant[0]
            taken.add(meant[0].path)
        else:
            why = "there are several of this name" if len(meant) > 1 else "it is there twice"
            download.left_out[key(name)] = why if meant else f"there is no such image in {folder}"
    patients, _ = own.patients(list(used.values()))
    for number, image in used.items():
        new = own.new_name(image)
        parts = [(numbers[category], outline) for category, outline in outlines.get(number, [])]
        download.items.append(
            Item(new, image.path, partial(_drawn, parts, sizes[number]), None, patients.get(image.path, new))
        )
    empty = sum(number not in outlines for number in used)
    if empty:
        download.notes.append(f"{empty} images have no annotation: their masks are background alone")
    return download


def _drawn(
    parts: Sequence[tuple[int, Any]], stated: tuple[Any, Any], image: Path, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The mask (height, width) of instances, each the number of a class and an outline."""
    if None not in stated and stated != size:
        raise Unusable(f"its outlines are for {stated[0]}x{stated[1]} pixels, and the image has {size[0]}x{size[1]}")
    try:
        regions = [(number, decode(outline, size)) for number, outline in parts]
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise Unusable(f"an outline is damaged: {reason(error)}") from error
    mask = np.zeros(size[::-1], np.uint8)
    for number, region in sorted(regions, key=lambda each: -np.count_nonzero(each[1])):
        mask[region] = number
    return mask


def decode(outline: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels (height, width) an outline of COCO holds, of an image whose (width, height) is ``size``.

    Raises:
        ValueError: the run lengths are of another size, or it has no region. KeyError, TypeError, IndexError and
            OverflowError are raised where it is no outline.
    """
    if isinstance(outline, dict):
        height, width = (int(side) for side in outline["size"])
        if (width, height) != size:
            raise ValueError(f"it is for {width}x{height} pixels, and the image has {size[0]}x{size[1]}")
        counts = outline["counts"]
        return _runs(_unpacked(counts) if isinstance(counts, str) else [int(count) for count in counts], size)
    if not outline:
        raise ValueError("an annotation has no segmentation, such as a box alone")
    inside = np.zeros(size[::-1], bool)
    for polygon in outline:
        points = np.array(polygon, np.float64).reshape(-1, 2)
        if len(points) < 3 or not np.isfinite(points).all():
            raise ValueError(f"a polygon has {len(points)} points, or one that is no number")
        inside |= _polygon(points, size)
    return inside


def _polygon(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centres have an odd number of edges on their left."""
    width, height = size
    inside = np.zeros((height, width), bool)
    centres = np.arange(width) + 0.5
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        first, last = np.clip(np.ceil(np.sort([y0, y1]) - 0.5), 0, height).astype(int)
        rows = np.arange(first, last)
        if len(rows):
            crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            inside[rows] ^= centres > crossed[:, None]
    return inside


def _runs(counts: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Runs of pixels outside and inside, in turn, down the columns."""
    width, height = size
    if min(counts, default=0) < 0 or sum(counts) != width * height:
        raise ValueError(f"its run lengths add up to {sum(counts)}, and the image has {width * height} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    """Run lengths from letters of 6 bits above code 48, of which one says that more follow.

    The other five are digits of a number with a sign, the lowest first. From the fourth on, a number is the difference
    from the one two before.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise ValueError(f"its run lengths have the letter {letter!r}")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4) if code & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
