"""The colours of classes: the same in overlays, masks on disk and the pictures of an evaluation.

None is a gray, as tissue is, or the red of an outline that is not to be relied on. The first eight of the foreground
stay apart for protanopia, deuteranopia and tritanopia, all others for normal vision: colours are at least 25 apart in
CIE L*a*b* (1976), colour blindness being simulated as by Machado, Oliveira and Fernandes (2009). So they were searched.
"""

from __future__ import annotations

COLORS = (
    *((0, 0, 0), (0, 200, 180), (255, 170, 0), (160, 80, 255), (255, 255, 160), (240, 0, 100), (160, 160, 255)),
    *((120, 120, 0), (220, 20, 180), (0, 255, 0), (220, 255, 0), (40, 180, 60), (240, 140, 120), (255, 140, 200)),
    *((0, 255, 180), (60, 140, 80), (0, 180, 255), (200, 100, 20), (255, 0, 255), (180, 255, 120), (240, 180, 100)),
    *((0, 120, 255), (240, 220, 60), (180, 100, 200), (0, 255, 120), (140, 180, 0), (180, 255, 180), (120, 220, 0)),
    *((200, 60, 120), (255, 120, 255), (40, 120, 200), (160, 200, 100)),
)
"""RGB of classes 0 to 31. Class 0 is the background, and black."""


def color_of(number: int) -> tuple[int, int, int]:
    """RGB of a class. Beyond the last of :data:`COLORS` those of the foreground begin again."""
    return COLORS[1 + (number - 1) % (len(COLORS) - 1)] if number else COLORS[0]
