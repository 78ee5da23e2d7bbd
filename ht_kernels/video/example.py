"""A clip that is there without a download."""

from __future__ import annotations

from ht_kernels.errors import InputError
from ht_kernels.packages import import_package

CLIP = "examples_ybr_color.dcm"


def example_clip() -> str:
    """The path of a cardiac ultrasound of 30 frames, 240x320, among the files that come with pydicom.

    Raises:
        InputError: pydicom or the clip is missing.
    """
    data = import_package("pydicom.data", "the example clip comes with pydicom", "pydicom")
    path = data.get_testdata_file(CLIP, download=False)
    if not isinstance(path, str):
        raise InputError(f"this pydicom does not carry {CLIP}: pip install --upgrade pydicom")
    return path
