"""The diameters of a mask, drawn over a frame as a sonographer's calipers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ht_kernels.measurement import Measurement
from ht_kernels.media.frames import Frame

_BRIGHT, _DARK = (255, 255, 255), (0, 0, 0)

_CROSS = 5
"""Pixels that the crosses at the ends of a diameter reach to each side."""


def draw_diameters(rgb: Frame, measurements: Sequence[Measurement]) -> None:
    """Draw the diameters of each class, with their lengths beside it, into a frame (H, W, 3), in place.

    Only the part of the frame around a class is drawn on, because a whole frame would be copied twice.
    """
    height, width = rgb.shape[:2]
    size = max(11, height // 36)
    font = ImageFont.load_default(size)
    for found in measurements:
        if found.long is None or found.short is None or found.region is None:
            continue
        text = in_words(found)
        margin, (across, deep) = _CROSS + 2, (int(font.getlength(text)) + 9, int(1.5 * size))
        box = found.region
        left = max(0, min(box.x - margin, width - across))
        right = min(width, max(box.x + box.width + margin, left + across))
        below = box.y + box.height + margin + deep <= height
        top = max(0, box.y - margin - (0 if below else deep))
        bottom = min(height, box.y + box.height + margin + (deep if below else 0))
        part = rgb[top:bottom, left:right]
        image = Image.fromarray(part)
        draw = ImageDraw.Draw(image)
        for color, thick in ((_DARK, 3), (_BRIGHT, 1)):
            for line in (found.long, found.short):
                # A place is the corner of a pixel, and Pillow draws at centres.
                (x0, y0), (x1, y1) = [(x - left - 0.5, y - top - 0.5) for x, y in line.ends]
                draw.line((x0, y0, x1, y1), fill=color, width=thick)
                for x, y in ((x0, y0), (x1, y1)):
                    draw.line((x - _CROSS, y, x + _CROSS, y), fill=color, width=thick)
                    draw.line((x, y - _CROSS, x, y + _CROSS), fill=color, width=thick)
        place = (4, (bottom - top) - deep // 2 if below else deep // 2)
        draw.text(place, text, fill=_BRIGHT, font=font, anchor="lm", stroke_width=2, stroke_fill=_DARK)
        part[...] = np.asarray(image)


def in_words(found: Measurement) -> str:
    """The two diameters of a class that was found, as an overlay has them."""
    assert found.long is not None and found.short is not None
    digits = 1 if found.unit == "mm" else 0
    return f"{found.long.length:.{digits}f} x {found.short.length:.{digits}f} {found.unit}"
