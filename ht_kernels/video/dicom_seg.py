"""Masks of a DICOM clip as a DICOM Segmentation that refers to its frames."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ht_kernels
from ht_kernels.class_colors import color_of
from ht_kernels.media.dicom import open_dicom, pixel_spacing
from ht_kernels.media.dicom_file import declared_frames
from ht_kernels.media.scale import Spacing

from .dicom_result import explained, finding, label_of, save

_WHAT = "a DICOM Segmentation"


def check_clip(clip: Path) -> None:
    """Make an empty Segmentation of a clip, to find out whether it can have one before its frames are segmented.

    Raises:
        InputError: as :func:`write_segmentation`.
    """
    count = open_dicom(clip).frame_count
    with explained(clip, _WHAT) as dataset:
        declared = declared_frames(dataset) or 1
        if count != declared:
            raise ValueError(
                f"it has {count} frames and says {declared}, so that other programs would look for frames that do not "
                "exist; correct its NumberOfFrames first"
            )
        shape = declared, int(dataset.Rows), int(dataset.Columns)
        _segmentation(dataset, np.broadcast_to(np.uint8(0), shape), ("background", "class 1"))


def write_segmentation(
    path: Path,
    clip: Path,
    masks: Sequence[NDArray[np.uint8] | None],
    class_names: Sequence[str],
    *,
    spacing: Spacing | None = None,
    ohif: bool = False,
) -> None:
    """Write a binary Segmentation: a segment for each class but the background, and in it a frame for each of the clip.

    The segments have the colours of the overlay. The size of a pixel is in the file where the clip says it.

    Args:
        path: the file to write.
        clip: the DICOM file whose frames were segmented.
        masks: (H, W) class indices for each frame of the clip, or None where there is no valid mask; that frame of the
            Segmentation stays empty.
        class_names: background first. They become the labels of the segments, up to 64 characters, with a slash for a
            backslash, which separates values in DICOM. One class beside the background is coded as a lesion; of
            several nothing is known but the name, so each has a private code for it, and is a spatial concept.
        spacing: the size of a pixel, where a user says it against the clip.
        ohif: also write what the viewer OHIF asks for, as :func:`_place_for_ohif` does.

    Raises:
        InputError: highdicom is not installed, or the clip lacks what a Segmentation must refer to, or has another
            number of frames than it says.
    """
    with explained(clip, _WHAT) as dataset:
        size = int(dataset.Rows), int(dataset.Columns)
        pixels = np.stack([np.zeros(size, np.uint8) if mask is None else mask for mask in masks])
        segmentation = _segmentation(dataset, pixels, class_names)
        _complete(segmentation, dataset, spacing)
        if ohif:
            _place_for_ohif(segmentation)
    save(segmentation, path, class_names[1:])


def _segmentation(dataset: Any, pixels: NDArray[np.uint8], class_names: Sequence[str]) -> Any:
    """A Segmentation of class indices, (frames, H, W).

    highdicom takes several frames only from a clip that says where each lies in the patient, which ultrasound rarely
    does. The frames of other clips differ only in time. For those highdicom gets the first frame as if it were a single
    image, and :func:`_repeat_in_time` adds the other frames to what it made.
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

    concept, structure = codes.SCT.SpatialAndRelationalConcept, codes.SCT.MorphologicallyAbnormalStructure
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=label_of(name),
            segmented_property_category=structure if len(class_names) == 2 else concept,
            segmented_property_type=finding(number, name, len(class_names)),
            algorithm_type="AUTOMATIC",
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name="ht_kernels", version=ht_kernels.__version__, family=codes.DCM.ArtificialIntelligence
            ),
            display_color=highdicom.color.CIELabColor.from_rgb(*color_of(number)),
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
        series_description="Segmentation by ht_kernels",
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="ht_kernels",
        manufacturer_model_name="ht_kernels",
        software_versions=ht_kernels.__version__,
        device_serial_number="0",
        omit_empty_frames=False,
    )


def _complete(segmentation: Any, dataset: Any, spacing: Spacing | None) -> None:
    """Add, in place, what highdicom leaves out of a Segmentation, and the size of a pixel where a user said it.

    PatientOrientation must be there, and may be empty, where there is no orientation of the plane (PS3.3 C.7.6.1).
    """
    from highdicom import PixelMeasuresSequence

    shared = segmentation.SharedFunctionalGroupsSequence[0]
    if "PlaneOrientationSequence" not in shared and "PatientOrientation" not in segmentation:
        segmentation.PatientOrientation = dataset.get("PatientOrientation") or ""
    if spacing is None and "PixelMeasuresSequence" not in shared:
        spacing = pixel_spacing(dataset)
    if spacing is not None:
        shared.PixelMeasuresSequence = PixelMeasuresSequence((spacing.y, spacing.x), None)


def _place_for_ohif(segmentation: Any) -> None:
    """Add, in place, an orientation and pixel measures where there are none.

    OHIF (3.13) stops at a Segmentation without them. It takes an image that states no orientation for one whose rows
    and columns go along the first two axes of the patient, and shows only a Segmentation in the same plane. Where the
    size of a pixel is not known, the pixel measures hold a thickness of 1 mm, which no area depends on.
    """
    from highdicom import PlaneOrientationSequence
    from pydicom.dataset import Dataset

    shared = segmentation.SharedFunctionalGroupsSequence[0]
    if "PlaneOrientationSequence" not in shared:
        shared.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", (1, 0, 0, 0, 1, 0))
    if "PixelMeasuresSequence" not in shared:
        measures = Dataset()
        measures.SliceThickness = 1
        shared.PixelMeasuresSequence = [measures]


def _repeat_in_time(segmentation: Any, pixels: NDArray[np.uint8]) -> None:
    """Extend a Segmentation of the first frame to all frames of a clip, in place; it lists segment after segment."""
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
    # All frames are packed as one row of bits: a frame need not begin at a whole byte.
    segmentation.PixelData = pack_bits(np.concatenate([pixels == number for number in range(1, len(segments) + 1)]))
