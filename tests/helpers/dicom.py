"""Compressed and calibrated DICOM files, and what a file says of its patient."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid

from helpers.clips import frames, region, write_dicom


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


def calibrated_clip(path: Path, count: int = 4, **more: Any) -> Path:
    """A clip whose pixels are 0.1 mm wide and 0.2 mm high, and that names what a report takes over."""
    names = "PatientName PatientBirthDate PatientSex AccessionNumber ReferringPhysicianName StudyTime StudyID"
    tissue = region(0, 0, 63, 47)
    tissue.PhysicalDeltaX, tissue.PhysicalDeltaY = 0.01, -0.02
    tissue.PhysicalUnitsXDirection = tissue.PhysicalUnitsYDirection = 3
    attributes = {
        **dict.fromkeys(names.split(), ""),
        **{name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")},
        "PatientID": "1",
        "StudyDate": "20200101",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "SequenceOfUltrasoundRegions": [tissue],
    }
    return write_dicom(path, np.stack(frames(count)), **attributes | more)
