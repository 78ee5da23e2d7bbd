"""The mask over the frame: translucent, with a contour, so that the frame stays readable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ht_kernels.media.frames import Frame

COLORS = ((0, 0, 0), (0, 200, 180), (255, 170, 0), (230, 80, 160), (90, 140, 255), (160, 220, 60), (220, 220, 220))
"""RGB of each class. Class 0, the background, is not drawn; the others are colours that gray tissue does not have."""

_ALPHA = 0.25

_DOUBTFUL = (255, 50, 50)
"""RGB of the outline of a mask that is not to be relied on. No class has it."""


class Overlay:
    """Draws masks over frames.

    Args:
        class_names: names for the legend, background first; None for no legend.
    """

    def __init__(self, class_names: Sequence[str] | None = None) -> None:
        colors = np.array([COLORS[0], *[COLORS[1 + i % (len(COLORS) - 1)] for i in range(255)]], dtype=np.float32)
        self._keep = np.where(np.arange(256) == 0, 1.0, 1 - _ALPHA).astype(np.float32)[:, None]
        self._add = colors * np.where(np.arange(256) == 0, 0.0, _ALPHA).astype(np.float32)[:, None]
        self._solid = colors.astype(np.uint8)
        self._class_names = class_names
        self._legend: Frame | None = None

    def __call__(self, frame: Frame, mask: NDArray[np.uint8]) -> Frame:
        """The frame in RGB (H, W, 3) with the mask (H, W) of class indices over it."""
        rgb = to_rgb(frame)
        inside = mask > 0
        if inside.any():
            labels = mask[inside]
            rgb[inside] = (rgb[inside] * self._keep[labels] + self._add[labels]).astype(np.uint8)
            edge = _edge(mask)
            rgb[edge] = self._solid[mask[edge]]
        if self._class_names is not None:
            legend = self._draw_legend(frame.shape[0])
            height, width = min(legend.shape[0], rgb.shape[0]), min(legend.shape[1], rgb.shape[1])
            rgb[:height, :width] = np.maximum(rgb[:height, :width] // 4, legend[:height, :width])
        return rgb

    def outline(self, frame: Frame, mask: NDArray[np.uint8]) -> Frame:
        """The frame in RGB (H, W, 3) with the outline of a mask that is not to be relied on, in red."""
        rgb = to_rgb(frame)
        rgb[_edge(mask)] = _DOUBTFUL
        return rgb

    def _draw_legend(self, frame_height: int) -> Frame:
        if self._legend is None:
            assert self._class_names is not None
            size = max(10, frame_height // 28)
            font = ImageFont.load_default(size)
            rows = [(self._solid[1 + i], name) for i, name in enumerate(self._class_names[1:])]
            width = int(max(font.getlength(name) for _, name in rows)) + 2 * size + size // 2
            image = Image.new("RGB", (width, int(len(rows) * 1.5 * size) + size // 2))
            draw = ImageDraw.Draw(image)
            for i, (color, name) in enumerate(rows):
                top = int((i + 0.25) * 1.5 * size)
                draw.rectangle((size // 2, top, size // 2 + size, top + size), fill=tuple(int(c) for c in color))
                draw.text((2 * size, top + size // 2), name, fill=(255, 255, 255), font=font, anchor="lm")
            self._legend = np.asarray(image)
        return self._legend


def to_rgb(frame: Frame) -> Frame:
    """A copy of a frame, (H, W, 3)."""
    return np.repeat(frame[..., None], 3, axis=2) if frame.ndim == 2 else frame.copy()


def write_state(rgb: Frame, state: str) -> None:
    """Write a line of text into the lower left corner of a frame (H, W, 3), in place."""
    size = max(10, rgb.shape[0] // 28)
    font = ImageFont.load_default(size)
    label = Image.new("RGB", (int(font.getlength(state)) + size, 3 * size // 2), (40, 0, 0))
    ImageDraw.Draw(label).text((size // 2, 3 * size // 4), state, fill=(255, 210, 120), font=font, anchor="lm")
    height, width = min(label.height, rgb.shape[0]), min(label.width, rgb.shape[1])
    rgb[rgb.shape[0] - height :, :width] = np.asarray(label)[:height, :width]


def _edge(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (H, W) of a class, other than background, with a neighbour above, below or beside of another class."""
    edge = np.zeros(mask.shape, dtype=bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge & (mask > 0)
