"""A clip that is there without a download."""

from __future__ import annotations

from ht_kernels.errors import InputError

CLIP = "examples_ybr_color.dcm"


def example_clip() -> str:
    """The path of a cardiac ultrasound of 30 frames, 240x320, among the files that come with pydicom.

    Raises:
        InputError: pydicom or the clip is missing.
    """
    try:
        from pydicom.data import get_testdata_file
    except ImportError as error:
        raise InputError("the example clip comes with pydicom, which is not installed: pip install pydicom") from error
    path = get_testdata_file(CLIP, download=False)
    if not isinstance(path, str):
        raise InputError(f"this pydicom does not carry {CLIP}: pip install --upgrade pydicom")
    return path
