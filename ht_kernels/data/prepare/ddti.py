"""DDTI (Pedraza et al., SPIE 9287, 2015): per patient ``12.xml`` with outlines, and images ``12_1.jpg``, ``12_2.jpg``.

The outlines are JSON in the XML: ``<mark><image>1</image><svg>[{"points": [{"x": 1, "y": 2}, ...]}]</svg></mark>``.
Some of the published files are cut off or empty there; their images are left out and reported.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ht_kernels.errors import InputError

from .item import Download, Item

Polygon = list[tuple[float, float]]


def read(source: Path) -> Download:
    """The images with an outline; a patient's images are a group.

    Raises:
        InputError: there are no XML files, or one is no XML.
    """
    files = sorted(source.glob("*.xml"), key=lambda path: (len(path.stem), path.stem))
    if not files:
        raise InputError(f"{source} has no XML files; expected DDTI's 1.xml, 1_1.jpg, 2.xml, ... in one folder")
    download = Download("DDTI", [])
    for path in files:
        try:
            case = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError) as error:
            raise InputError(f"{path} cannot be read as XML: {error}") from error
        outlines: dict[str, list[Polygon]] = {}
        for mark in case.iter("mark"):
            number = (mark.findtext("image") or "").strip()
            try:
                outlines.setdefault(number, []).extend(_polygons(mark.findtext("svg") or ""))
            except (ValueError, KeyError, TypeError):
                download.left_out[f"{path.stem}_{number}.jpg"] = f"the outline in {path.name} is damaged"
        for image in sorted(source.glob(f"{path.stem}_*.jpg")):
            polygons = outlines.get(image.stem.split("_")[-1], [])
            if image.name in download.left_out:
                continue
            if not polygons:
                download.left_out[image.name] = f"no outline in {path.name}"
                continue
            mask = partial(_filled, polygons)
            download.items.append(Item(f"ddti_{image.stem}.png", image, mask, None, group=f"patient {path.stem}"))
    return download


def _polygons(svg: str) -> list[Polygon]:
    polygons = [[(float(p["x"]), float(p["y"])) for p in region["points"]] for region in json.loads(svg)]
    return [polygon for polygon in polygons if len(polygon) > 2]


def _filled(polygons: list[Polygon], image: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    for polygon in polygons:
        draw.polygon(polygon, fill=1)
    filled = np.array(mask)
    if not filled.any():
        raise InputError(f"the outline of {image} lies outside of its {size[0]}x{size[1]} pixels")
    return filled
