"""Compressed DICOM files, and what a file says of its patient."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate

from helpers.clips import write_dicom


def compressed(path: Path, syntax: str, streams: list[bytes], pixels: np.ndarray, **attributes: Any) -> Path:
    """A file whose frames are the codestreams given."""
    write_dicom(path, pixels, **attributes)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def jpeg(frame: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "jpeg", quality=95, **options)
    return content.getvalue()


def patient(**more: object) -> dict[str, object]:
    """What a Segmentation takes over from its image."""
    names = "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime"
    uids = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
    return {**dict.fromkeys(names.split(), ""), **uids, **more}
