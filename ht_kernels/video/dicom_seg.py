"""Masks of a DICOM clip as a DICOM Segmentation that refers to its frames."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ht_kernels
from ht_kernels.errors import InputError, first_line


def check_clip(clip: Path) -> None:
    """Try a Segmentation without anything in it, before the work of filling one.

    Raises:
        InputError: as :func:`write_segmentation`.
    """
    with _explained(clip) as dataset:
        shape = int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns)
        _segmentation(dataset, np.broadcast_to(np.uint8(0), shape), ("background", "class 1"))


def write_segmentation(
    path: Path, clip: Path, masks: Sequence[NDArray[np.uint8] | None], class_names: Sequence[str]
) -> None:
    """Write a binary Segmentation with a segment per class but the background, and in it a frame per frame of the clip.

    Args:
        path: of the Segmentation.
        clip: the DICOM file that the masks are of.
        masks: one per frame of it, (H, W) class indices; None for a frame without a valid one, which stays empty.
        class_names: background first.

    Raises:
        InputError: highdicom is not installed, or the clip lacks what a Segmentation must refer to.
    """
    with _explained(clip) as dataset:
        size = int(dataset.Rows), int(dataset.Columns)
        pixels = np.stack([np.zeros(size, np.uint8) if mask is None else mask for mask in masks])
        segmentation = _segmentation(dataset, pixels, class_names)
    segmentation.save_as(path)


@contextmanager
def _explained(clip: Path) -> Iterator[Any]:
    """The clip's attributes without its pixels; what pydicom and highdicom then raise, as InputError."""
    try:
        import highdicom  # noqa: F401
        from pydicom import dcmread
    except ImportError as error:
        raise InputError(f"a DICOM Segmentation needs highdicom ({error}): pip install highdicom") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about values that the standard would not allow
            yield dcmread(clip, stop_before_pixels=True)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{clip} cannot have a DICOM Segmentation: {first_line(error)}") from error


def _segmentation(dataset: Any, pixels: NDArray[np.uint8], class_names: Sequence[str]) -> Any:
    """A Segmentation of class indices, (frames, H, W).

    highdicom takes several frames only where the clip says where they lie in the patient, which ultrasound rarely does.
    The frames of such a clip differ in time alone: highdicom is given the first, as an image of its own, and the rest
    are made after what it writes of that.
    """
    from highdicom.spatial import get_image_coordinate_system
    from pydicom.uid import UltrasoundImageStorage

    if "NumberOfFrames" not in dataset or get_image_coordinate_system(dataset) is not None:
        return _by_highdicom(dataset, pixels, class_names)
    clip_class = dataset.SOPClassUID
    dataset.SOPClassUID = UltrasoundImageStorage
    segmentation = _by_highdicom(dataset, pixels[:1], class_names)
    for element in segmentation.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = clip_class
    _repeat_in_time(segmentation, pixels)
    return segmentation


def _by_highdicom(dataset: Any, pixels: NDArray[np.uint8], class_names: Sequence[str]) -> Any:
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=name[:64],  # as long as DICOM takes
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type="AUTOMATIC",
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name="ht_kernels", version=ht_kernels.__version__, family=codes.DCM.ArtificialIntelligence
            ),
        )
        for number, name in enumerate(class_names[1:], 1)
    ]
    return Segmentation(
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


def _repeat_in_time(segmentation: Any, pixels: NDArray[np.uint8]) -> None:
    """From a Segmentation with one frame per segment make one with all frames, segment after segment, in place."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.utils import pack_bits
    from pydicom.tag import Tag

    time = Dataset()
    time.DimensionOrganizationUID = segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID
    time.DimensionIndexPointer = Tag("TemporalPositionIndex")
    time.FunctionalGroupPointer = Tag("FrameContentSequence")
    time.DimensionDescriptionLabel = "Frame of the clip"
    segmentation.DimensionIndexSequence.append(time)
    segments = list(segmentation.PerFrameFunctionalGroupsSequence)
    groups = []
    for number, segment in enumerate(segments, 1):
        for frame in range(1, len(pixels) + 1):
            group = copy.deepcopy(segment)
            group.FrameContentSequence[0].DimensionIndexValues = [number, frame]
            group.FrameContentSequence[0].TemporalPositionIndex = frame
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = frame
            groups.append(group)
    segmentation.PerFrameFunctionalGroupsSequence = groups
    segmentation.NumberOfFrames = len(groups)
    # Bits run on from frame to frame.
    segmentation.PixelData = pack_bits(np.concatenate([pixels == number for number in range(1, len(segments) + 1)]))
