"""The picture of the README: ``python docs/pictures.py`` runs the demo and writes ``docs/images/front.webp``.

The picture is the demo's contact sheet, made smaller, so it shows what a reader gets from the README's first command.
Its times are measured while it is made, so no other program should be busy.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from ht_kernels.cli import main

PICTURE = Path(__file__).parent / "images" / "front.webp"
WIDTH = 1200
"""In pixels: the README is shown narrower, on many screens with more than one pixel for each of a page's."""


def draw() -> None:
    with TemporaryDirectory() as folder:
        if main(["demo", "--output", folder]) != 0:
            raise SystemExit("the demo failed, so there is no picture")
        with Image.open(Path(folder) / "contact_sheet.png") as sheet:
            size = WIDTH, round(WIDTH * sheet.height / sheet.width)
            sheet.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(PICTURE, quality=85, method=6)


if __name__ == "__main__":
    draw()
