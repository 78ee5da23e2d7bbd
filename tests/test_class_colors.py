"""Colours of classes."""

from __future__ import annotations

import itertools

import numpy as np

from ht_kernels.class_colors import COLORS, color_of

VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB."""


def lab(color: tuple[int, ...], vision: str = "normal") -> np.ndarray:
    """CIE L*a*b* of an sRGB colour, as an eye sees it."""
    levels = np.array(color) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    linear = (np.asarray(VISIONS[vision]) @ linear).clip(0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(xyz / (0.9505, 1, 1.089))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(colors: tuple[tuple[int, ...], ...], vision: str) -> float:
    return min(float(np.linalg.norm(lab(a, vision) - lab(b, vision))) for a, b in itertools.combinations(colors, 2))


def test_colours_stay_apart() -> None:
    assert len(COLORS) == 32 and closest(COLORS[1:], "normal") >= 25
    assert {vision: closest(COLORS[1:9], vision) >= 25 for vision in VISIONS} == dict.fromkeys(VISIONS, True)


def test_no_colour_is_gray_or_the_red_of_doubt() -> None:
    for color in COLORS[1:]:
        found = lab(color)
        assert np.hypot(*found[1:]) >= 40 and found[0] > 45 and np.linalg.norm(found - lab((255, 50, 50))) > 25


def test_more_classes_than_colours() -> None:
    assert [color_of(number) for number in range(32)] == list(COLORS)
    assert color_of(32) == COLORS[1] and color_of(255) == COLORS[7]
