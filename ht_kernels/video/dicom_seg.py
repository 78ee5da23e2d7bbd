"""Masks of a DICOM clip as a DICOM Segmentation that refers to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ht_kernels
from ht_kernels.errors import InputError

from .frames import words


def check_clip(clip: Path) -> None:
    """Whether highdicom can refer to a DICOM file.

    Raises:
        InputError: highdicom is not installed; or the file has several frames and does not say where they lie in the
            patient, which highdicom does not take.
    """
    from pydicom import dcmread

    try:
        from highdicom.spatial import get_image_coordinate_system
    except ImportError as error:
        raise _missing(error) from error
    dataset = dcmread(clip, stop_before_pixels=True)
    if int(dataset.get("NumberOfFrames") or 1) > 1 and get_image_coordinate_system(dataset) is None:
        raise InputError(
            f"{clip} has several frames and no positions in a frame of reference: highdicom then writes a DICOM "
            "Segmentation of a single frame only; leave --dicom-seg out"
        )


def _missing(error: ImportError) -> InputError:
    return InputError(f"a DICOM Segmentation needs highdicom ({error}): pip install highdicom")


def write_segmentation(
    path: Path, clip: Path, masks: Sequence[NDArray[np.uint8] | None], class_names: Sequence[str]
) -> None:
    """Write a binary Segmentation with a segment per class but the background.

    Args:
        path: of the Segmentation.
        clip: the DICOM file that the masks are of.
        masks: one per frame of it, (H, W) class indices; None for a frame without a valid one, which stays empty.
        class_names: background first.

    Raises:
        InputError: highdicom is not installed, or the clip lacks what a Segmentation must refer to.
    """
    try:
        import highdicom
        from highdicom.seg import Segmentation, SegmentDescription
        from pydicom import dcmread
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise _missing(error) from error

    dataset = dcmread(clip)
    size = int(dataset.Rows), int(dataset.Columns)
    pixels = np.stack([np.zeros(size, np.uint8) if mask is None else mask for mask in masks])
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type="AUTOMATIC",
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name="ht_kernels", version=ht_kernels.__version__, family=codes.DCM.ArtificialIntelligence
            ),
        )
        for number, name in enumerate(class_names[1:], 1)
    ]
    try:
        segmentation = Segmentation(
            source_images=[dataset],
            pixel_array=pixels,
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=highdicom.UID(),
            series_number=900,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="ht_kernels",
            manufacturer_model_name="ht_kernels",
            software_versions=ht_kernels.__version__,
            device_serial_number="0",
            omit_empty_frames=False,
        )
        segmentation.save_as(path)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{clip} cannot have a DICOM Segmentation: {words(error)}") from error
