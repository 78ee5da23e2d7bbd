"""DDTI (Pedraza et al., SPIE 9287, 2015): per patient ``12.xml`` with outlines, and images ``12_1.jpg``, ``12_2.jpg``.

The outlines are JSON in the XML: ``<mark><image>1</image><svg>[{"points": [{"x": 1, "y": 2}, ...]}]</svg></mark>``.
Some of the published files are cut off or empty there; their images are left out and reported.
"""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ht_kernels.errors import InputError, reason

from ..layout import IMAGE_SUFFIXES
from ..names import text_of, visible
from .item import Download, Item, Unusable

Polygon = list[tuple[float, float]]

_IMAGE = re.compile(r"(?P<patient>.+)_0*(?P<number>\d+)")
_OUTSIDE = 0.1
"""How far an outline may reach out of its image, in parts of the image's width and height."""


def read(source: Path) -> Download:
    """The images with an outline; a patient's images are a group.

    What cannot be used is left out and reported: images without an XML file or an outline, XML files without images,
    and the images of files and outlines that are damaged. An outline that reaches far out of its image is damaged, too.

    Raises:
        InputError: there are no XML files, or two files have the same name.
    """
    cases: dict[str, Path] = {}
    images: dict[str, dict[str, Path]] = {}
    for path in visible(source):
        name = Path(text_of(path))
        if name.suffix.lower() == ".xml":
            _add(cases, name.stem, path)
        elif name.suffix.lower() in IMAGE_SUFFIXES and (match := _IMAGE.fullmatch(name.stem)):
            _add(images.setdefault(match["patient"], {}), match["number"], path)
    if not cases:
        raise InputError(f"{source} has no XML files; expected DDTI's 1.xml, 1_1.jpg, 2.xml, ... in one folder")
    download = Download("DDTI", [])
    for patient, path in sorted(cases.items(), key=lambda case: (len(case[0]), case[0])):
        _read_case(download, patient, path, images.pop(patient, {}))
    for patient, others in images.items():
        for image in others.values():
            download.left_out[text_of(image)] = f"there is no {patient}.xml"
    return download


def _add(files: dict[str, Path], name: str, path: Path) -> None:
    if files.setdefault(name, path) is not path:
        raise InputError(f"{path} and {files[name].name} beside it are the same by name; rename or remove one")


def _read_case(download: Download, patient: str, path: Path, images: dict[str, Path]) -> None:
    """Add the images of a patient to the download."""
    if not images:
        download.left_out[text_of(path)] = "there is no image of this patient"
        return
    try:
        outlines = _outlines(path)
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        for image in images.values():
            download.left_out[text_of(image)] = f"{path.name} cannot be read as XML: {reason(error)}"
        return
    for number in outlines.keys() - images.keys():
        download.left_out[f"{patient}_{number}.jpg"] = f"it is in {path.name}, and missing"
    for number, image in images.items():
        found = outlines.get(number, [])
        if isinstance(found, str):
            download.left_out[text_of(image)] = f"the outline in {path.name} is damaged: {found}"
        elif not found:
            download.left_out[text_of(image)] = f"no outline in {path.name}"
        else:
            name = f"ddti_{Path(text_of(image)).stem}.png"
            download.items.append(Item(name, image, partial(_filled, found), None, group=f"patient {patient}"))


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type: its entities could expand to any length, and DDTI's files have none."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which DDTI's files do not")


def _outlines(path: Path) -> dict[str, list[Polygon] | str]:
    """The outlines of each image, by its number; or what is damaged in them."""
    case = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Builder()))
    outlines: dict[str, list[Polygon] | str] = {}
    for mark in case.iter("mark"):
        number = (mark.findtext("image") or "").strip().lstrip("0")
        before = outlines.setdefault(number, [])
        try:
            polygons = _polygons(mark.findtext("svg") or "[]")
        except (ValueError, OverflowError, RecursionError) as error:
            outlines[number] = reason(error)
            continue
        except (KeyError, TypeError):
            outlines[number] = "it is no list of regions, each with points of two numbers, x and y"
            continue
        if isinstance(before, list):
            before += polygons
    return outlines


def _polygons(svg: str) -> list[Polygon]:
    polygons = [[(float(p["x"]), float(p["y"])) for p in region["points"]] for region in json.loads(svg)]
    for x, y in (point for polygon in polygons for point in polygon):
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"it has a point at {x:g}, {y:g}")
    return [polygon for polygon in polygons if len(polygon) > 2]


def _filled(polygons: list[Polygon], image: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    for point in (point for polygon in polygons for point in polygon):
        if any(not -_OUTSIDE * side <= at <= (1 + _OUTSIDE) * side for at, side in zip(point, size, strict=True)):
            x, y = point
            raise Unusable(f"its outline has a point at {x:g}, {y:g}, far outside of its {size[0]}x{size[1]} pixels")
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    for polygon in polygons:
        draw.polygon(polygon, fill=1)
    filled = np.array(mask)
    if not filled.any():
        raise Unusable(f"its outline lies outside of its {size[0]}x{size[1]} pixels")
    return filled
