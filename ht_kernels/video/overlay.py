"""The mask over the frame: translucent, with a contour, so that the frame stays readable.

An overlay is drawn for every frame, beside a model that wants the same cores. So arithmetic is in uint8, channel by
channel, in the box around the mask alone, and in strips of it, whose memory is in the cache and not asked of the system
again for every frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ht_kernels.class_colors import color_of
from ht_kernels.errors import InputError
from ht_kernels.measurement import Measurement
from ht_kernels.media.frames import Box, Frame

from .calipers import draw_diameters

_SHIFT = 2
"""A pixel inside a mask has 1 / 2^2 of its class's colour and keeps the rest of its own, to one of 256 levels."""

_STRIP = 1 << 17
"""Pixels of a strip."""

_SMALLEST = 10
"""The smallest letters that can be read, in pixels."""

_LINES = 2
"""Most lines of a text in a corner."""

_DOUBTFUL = (255, 50, 50)
"""RGB of the outline of a mask that is not to be relied on. No class has it."""


class Overlay:
    """Draws masks over frames, in the colours of :mod:`ht_kernels.class_colors`.

    Args:
        class_names: names for the legend, background first; None for no legend. Of two classes the legend is always
            there; of more it has the classes that are in the mask, so that it covers no more of the frame than it must.
    """

    def __init__(self, class_names: Sequence[str] | None = None) -> None:
        self._colors = np.array([color_of(number) for number in range(256)], dtype=np.uint8)
        self._class_names = class_names

    def __call__(self, frame: Frame, mask: NDArray[np.uint8]) -> Frame:
        """The frame in RGB (H, W, 3) with the mask (H, W) of class indices over it."""
        rgb = to_rgb(frame)
        box = _box(mask)
        found: set[int] = set()
        if box is not None:
            frame, mask, inside = box.of(frame), box.of(mask), box.of(rgb)
            rows = max(1, _STRIP // box.width)
            for top in range(0, box.height, rows):
                strip = slice(top, top + rows)
                edge = _edge(mask[max(0, top - 1) : top + rows + 1])[min(1, top) :][:rows]
                found |= self._draw_strip(frame[strip], mask[strip], edge, inside[strip])
        names = self._class_names or ()
        listed = (1,) if len(names) == 2 else tuple(label for label in sorted(found) if label < len(names))
        if listed:
            legend = _legend(tuple((label, names[label]) for label in listed), rgb.shape[0], rgb.shape[1])
            height, width = min(legend.shape[0], rgb.shape[0]), min(legend.shape[1], rgb.shape[1])
            rgb[:height, :width] = np.maximum(rgb[:height, :width] >> 2, legend[:height, :width])
        return rgb

    def draw(
        self,
        frame: Frame,
        mask: NDArray[np.uint8] | None,
        doubtful: NDArray[np.uint8] | None = None,
        label: str = "",
        note: str = "",
        measurements: Sequence[Measurement] = (),
    ) -> Frame:
        """The frame in RGB (H, W, 3) with all that is shown of it.

        Args:
            frame: (H, W) or (H, W, 3).
            mask: the mask (H, W) to draw; None for none.
            doubtful: without a mask, one (H, W) of which only the outline is drawn; None for none.
            label: the text in the upper left corner.
            note: the text in the lower left corner.
            measurements: of the mask, whose diameters are drawn.
        """
        if mask is not None:
            rgb = self(frame, mask)
        elif doubtful is not None:
            rgb = self.outline(frame, doubtful)
        else:
            rgb = to_rgb(frame)
        if measurements:
            draw_diameters(rgb, measurements)
        if label:
            write_label(rgb, label)
        if note:
            write_state(rgb, note)
        return rgb

    def outline(self, frame: Frame, mask: NDArray[np.uint8]) -> Frame:
        """The frame in RGB (H, W, 3) with the outline of a mask that is not to be relied on, in red."""
        rgb = to_rgb(frame)
        box = _box(mask)
        if box is not None:
            box.of(rgb)[_edge(box.of(mask))] = _DOUBTFUL
        return rgb

    def _draw_strip(self, frame: Frame, mask: NDArray[np.uint8], edge: NDArray[np.bool_], rgb: Frame) -> set[int]:
        """Write a part of a frame with its mask and the mask's outline over it into the same part of an RGB frame.

        Returns the classes of the foreground that are there.
        """
        found: set[int] = set()
        inside = _all_bits(mask > 0)
        gray = _keep(frame, inside) if frame.ndim == 2 else None
        planes = [_keep(frame[..., c], inside) if gray is None else gray.copy() for c in range(3)]
        for label in range(1, int(mask.max()) + 1):
            here = _all_bits(mask == label)
            if here.any():
                found.add(label)
                for plane, level in zip(planes, self._colors[label] >> _SHIFT, strict=True):
                    plane += here & level
        places = np.flatnonzero(edge)
        colors = self._colors[mask.take(places)]
        for c, plane in enumerate(planes):
            plane.put(places, colors[:, c])
            rgb[..., c] = plane
        return found


def to_rgb(frame: Frame) -> Frame:
    """A copy of a frame, (H, W, 3)."""
    if frame.ndim == 3:
        return frame.copy()
    rgb = np.empty((*frame.shape, 3), dtype=np.uint8)
    for c in range(3):  # np.repeat takes twice as long
        rgb[..., c] = frame
    return rgb


def write_state(rgb: Frame, state: str) -> None:
    """Write a text into the lower left corner of a frame (H, W, 3), in place, as :func:`fit` makes it fit."""
    label = _label(state, rgb.shape[0], rgb.shape[1], (255, 210, 120), (40, 0, 0))
    height, width = min(label.shape[0], rgb.shape[0]), min(label.shape[1], rgb.shape[1])
    rgb[rgb.shape[0] - height :, :width] = label[:height, :width]


def write_label(rgb: Frame, label: str) -> None:
    """Write a text into the upper left corner of a frame (H, W, 3), in place, as :func:`fit` makes it fit."""
    line = _label(label, rgb.shape[0], rgb.shape[1], (255, 255, 255), (30, 30, 30))
    height, width = min(line.shape[0], rgb.shape[0]), min(line.shape[1], rgb.shape[1])
    rgb[:height, :width] = line[:height, :width]


def fit(text: str, frame_height: int, frame_width: int) -> tuple[int, list[str]]:
    """The size of letters, in pixels, and the one or two lines in which a text fits into a corner of a frame.

    The letters are as high as the frame asks for, or smaller where two lines of these are too short. Where the smallest
    letters are still too large, what stands in brackets at the end is left out, or the end itself, with "…" for it.
    """
    without_brackets = re.sub(r" \([^()]*\)$", "", text)
    for words in (text, without_brackets):
        for size in range(_usual_size(frame_height), _SMALLEST - 1, -1):
            font = ImageFont.load_default(size)
            lines = _wrap(words, font, frame_width - size)
            if len(lines) <= _LINES and all(font.getlength(line) <= frame_width - size for line in lines):
                return size, lines
    font, width = ImageFont.load_default(_SMALLEST), frame_width - _SMALLEST
    first, *rest = _wrap(without_brackets, font, width)
    kept = [first, " ".join(rest)] if rest else [first]
    return _SMALLEST, [_shorten(line, font, width) for line in kept]


def in_words(label: str, probability: float) -> str:
    """A class and its probability, as an overlay has them."""
    return f"{label}: {probability:.2f}"


def check_unfamiliar(unfamiliar: str) -> None:
    """Raise InputError unless ``unfamiliar`` says what is drawn over a frame unlike the training images."""
    if unfamiliar not in ("withhold", "outline"):
        raise InputError(f"unfamiliar is {unfamiliar!r}, expected withhold or outline")


def _usual_size(frame_height: int) -> int:
    """The size of letters over a frame, in pixels."""
    return max(_SMALLEST, frame_height // 28)


def _wrap(text: str, font: Any, width: float) -> list[str]:
    """A text in lines that are no longer than ``width``, unless a word is."""
    first, *words = text.split() or [""]
    lines = [first]
    for word in words:
        longer = f"{lines[-1]} {word}"
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _shorten(line: str, font: Any, width: float) -> str:
    """A line that is no longer than ``width``, with "…" for what was left out at its end."""
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line.rstrip()}…"


@lru_cache(maxsize=32)  # drawing one takes longer than the mask of a small frame
def _label(
    text: str, frame_height: int, frame_width: int, color: tuple[int, int, int], ground: tuple[int, int, int]
) -> Frame:
    """A text in lines that fit into a corner of a frame, (H, W, 3)."""
    size, lines = fit(text, frame_height, frame_width)
    font, pitch = ImageFont.load_default(size), 3 * size // 2
    longest = max(int(font.getlength(line)) for line in lines)
    label = Image.new("RGB", (longest + size, len(lines) * pitch), ground)
    draw = ImageDraw.Draw(label)
    for i, line in enumerate(lines):
        draw.text((size // 2, i * pitch + pitch // 2), line, fill=color, font=font, anchor="lm")
    return np.asarray(label)


@lru_cache(maxsize=64)
def _legend(rows: tuple[tuple[int, str], ...], frame_height: int, frame_width: int) -> Frame:
    """The names of classes, given with their numbers, and their colours, (H, W, 3), in columns that fit into a frame.

    Where not all fit, the last row says how many are left out.
    """
    size = _usual_size(frame_height)
    font = ImageFont.load_default(size)
    most = max(1, int(frame_height / (1.5 * size)) - _LINES)  # these stay free for the state of a stream
    rows = tuple((number, _shorten(name, font, frame_width - 2.5 * size)) for number, name in rows)
    width = int(max(font.getlength(name) for _, name in rows)) + 2 * size + size // 2
    columns = max(1, min(-(-len(rows) // most), frame_width // width))
    if len(rows) > columns * most:
        kept = columns * most - 1
        rows = (*rows[:kept], (0, f"and {len(rows) - kept} more"))
    deep = min(most, len(rows))
    image = Image.new("RGB", (columns * width, int(deep * 1.5 * size) + size // 2))
    draw = ImageDraw.Draw(image)
    for i, (number, name) in enumerate(rows):
        left, top = i // deep * width, int((i % deep + 0.25) * 1.5 * size)
        draw.rectangle((left + size // 2, top, left + size // 2 + size, top + size), fill=color_of(number))
        draw.text((left + 2 * size, top + size // 2), name, fill=(255, 255, 255), font=font, anchor="lm")
    return np.asarray(image)


def _box(mask: NDArray[np.uint8]) -> Box | None:
    """The box around the classes of a mask, with a margin of one pixel inside the frame; None if all is background."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    bottom, right = min(mask.shape[0], rows[-1] + 2), min(mask.shape[1], columns[-1] + 2)
    return Box(int(left), int(top), int(right - left), int(bottom - top))


def _all_bits(chosen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """255 where a pixel is chosen, else 0."""
    bits: NDArray[np.uint8] = -chosen.view(np.uint8)
    return bits


def _keep(channel: NDArray[np.uint8], inside: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A channel less the share that a class's colour takes, where ``inside`` is 255."""
    kept: NDArray[np.uint8] = channel - ((channel >> _SHIFT) & inside)
    return kept


def _edge(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (H, W) of a class, other than background, with a neighbour above, below or beside of another class."""
    edge = np.zeros(mask.shape, dtype=bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge & (mask > 0)
