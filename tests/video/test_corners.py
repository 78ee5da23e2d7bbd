"""What stands in the corners of an overlay can be read in frames of any width."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from ht_kernels.video.overlay import Overlay, fit, write_label, write_state

NOTES = {
    "ok": "mask of this frame",
    "late": "mask of 124 ms earlier",
    "unfamiliar": "no mask: unlike the training images (distance 2.54, limit 1.41)",
    "stale": "no mask: the newest is 1520 ms old",
    "waiting": "waiting for the model",
    "failed": "model failed: its logits are not finite",
    "no signal": "no signal for 12.3 s",
}
LABELS = "benign: 0.93", "fibroadenoma, calcified: 0.81"
WIDTHS = 120, 150, 224, 640, 1920


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("text", [*NOTES.values(), *LABELS])
def test_a_corner_holds_its_whole_text(text: str, width: int) -> None:
    """But for the distance in a narrow frame."""
    height = 3 * width // 4
    size, lines = fit(text, height, width)
    said = " ".join(lines)
    assert said == text or (width <= 150 and said == "no mask: unlike the training images")
    assert size == max(10, height // 28) and len(lines) <= 2
    assert len(lines) == 1 or width < 640
    font = ImageFont.load_default(size)
    assert all(font.getlength(line) <= width - size for line in lines)


@pytest.mark.parametrize("write", [write_state, write_label])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_letters_end_inside_the_frame(write: object, width: int) -> None:
    assert callable(write)
    for text in (*NOTES.values(), *LABELS):
        rgb = np.full((3 * width // 4, width, 3), 255, np.uint8)
        write(rgb, text)
        ground = rgb[-1, 0] if write is write_state else rgb[0, 0]
        letters = (rgb != ground).any(-1) & (rgb != 255).any(-1)
        assert letters.any() and not letters[:, -4:].any(), text


def test_letters_are_smaller_in_a_tall_frame() -> None:
    """As a phone takes it: 1080 pixels hold no two lines of letters that are a 28th of 2400."""
    size, lines = fit("no mask: unlike the training images, of another organ (distance 2.54)", 2400, 1080)
    assert 40 < size < 85 and len(lines) == 2 and lines[1].endswith("(distance 2.54)")


def test_what_never_fits_ends_in_dots() -> None:
    size, lines = fit("model failed: " + "a reason that goes on and on " * 9, 112, 150)
    assert size == 10 and lines[0].startswith("model failed: a reason") and len(lines) == 2 and lines[1].endswith("…")
    assert fit("Ziliarkörpermelanozytom: 0.81", 60, 80)[1][0].startswith("Ziliark")
    assert fit("mask of this frame", 4, 3)[1], "a frame for no letter"


def test_the_legend_shortens_names_that_the_frame_cannot_hold() -> None:
    """No letter is cut: right of the last there is the darkened ground."""
    frame, mask = np.full((112, 150), 90, np.uint8), np.zeros((112, 150), np.uint8)
    short, long = (Overlay(("background", name))(frame, mask).max(-1) for name in ("lesion", 60 * "W"))
    assert (short[:20, 75:] == 90).all() and (long[:20, 130] < 90).any()
    assert (long[:20, -3:] <= 90).all()
