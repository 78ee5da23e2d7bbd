"""Measurements of a DICOM file as a structured report by template TID 1500, which viewers and archives read.

A clip has many frames, and a reader wants the size of a lesion once. So a report has one group (TID 1410) for each
class, of the frame in which it has the most pixels. The tables of measurements have every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import ht_kernels
from ht_kernels.errors import InputError
from ht_kernels.measurement import Measurement, measure
from ht_kernels.media.dicom_file import opened
from ht_kernels.media.scale import Scale
from ht_kernels.outline import outline
from ht_kernels.regions import largest_region

from .dicom_result import explained, finding, save

_MOST_CORNERS = 8190
"""An outline has no more: DICOM writes it as two numbers of 4 bytes for each, in a field of less than 64 KiB."""

_WHAT = "a DICOM report"


class Found(NamedTuple):
    """A class in the frame in which it is largest: the frame's place from 0, the class's pixels, their measurement."""

    place: int
    pixels: NDArray[np.bool_]
    measurement: Measurement


class Largest:
    """Keeps for each class the frame in which it has the most pixels, of those measured in millimetres."""

    def __init__(self) -> None:
        self._found: dict[int, Found] = {}

    def add(self, index: int, mask: NDArray[np.uint8] | None, measurements: Sequence[Measurement] | None) -> None:
        """Look at frame ``index``, its mask (H, W) and the measurements of it; None for a frame without a mask."""
        if mask is None or measurements is None:
            return
        for each in measurements:
            before = self._found.get(each.number)
            if each.pixels and each.unit == "mm" and (before is None or each.pixels > before.measurement.pixels):
                self._found[each.number] = Found(index, mask == each.number, each)

    def found(self) -> list[Found]:
        """What was found, in the order of the classes."""
        return [self._found[number] for number in sorted(self._found)]


def check_file(path: Path, scales: Sequence[Scale]) -> None:
    """Make a report of a DICOM file with one pixel, to find out whether it can have one before it is segmented.

    Args:
        path: the file.
        scales: the sizes of its pixels, as a user or the file says them.

    Raises:
        InputError: nothing says how large a pixel is, or as :func:`write_report`.
    """
    known = [scale for scale in scales if scale.spacing is not None]
    if not known:
        raise InputError(
            f"{path} does not say how large its pixels are, and a DICOM report is in millimetres: pass --spacing"
        )
    with explained(path, _WHAT) as dataset:
        mask = np.ones((1, 1), np.uint8)
        found = Largest()
        found.add(0, mask, measure(mask, known[0].spacing))
        _report(dataset, None, found.found(), 2)


def write_report(
    path: Path, source: Path, found: Sequence[Found], classes: int, segmentation: Path | None = None
) -> None:
    """Write a report with a group for each class that was found.

    A group has a tracking identifier, the class as the finding, the area, the long and the short axis. It refers to the
    class's segment in a Segmentation, and its area is that of all pixels of the class. Without a Segmentation it has
    the outline of the largest region, and the area of that region.

    Args:
        path: the file to write.
        source: the DICOM file that was measured.
        found: the classes, of which there must be one.
        classes: how many classes the model has, the background among them. One class beside the background is coded as
            a lesion; of several nothing is known but the name, so each has a private code for it.
        segmentation: the file of a Segmentation of all frames of the source; None where there is none.

    Raises:
        InputError: highdicom is not installed, or the source lacks what a report must refer to.
    """
    with explained(source, _WHAT) as dataset:
        of_masks = None
        if segmentation is not None:
            with opened(segmentation) as (of_masks, _):
                pass
        report = _report(dataset, of_masks, found, classes)
    save(report, path, (each.measurement.name for each in found))


def _report(dataset: Any, segmentation: Any, found: Sequence[Found], classes: int) -> Any:
    import highdicom
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=highdicom.UID(), name="ht_kernels", manufacturer_name="ht_kernels", model_name=ht_kernels.__version__
    )
    observer = sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.DiagnosticUltrasonography,
        imaging_measurements=[_group(dataset, segmentation, each, classes) for each in found],
    )
    evidence = [dataset] if segmentation is None else [dataset, segmentation]
    return sr.ComprehensiveSR(
        evidence=evidence,
        content=content[0],
        series_instance_uid=highdicom.UID(),
        series_number=901,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="ht_kernels",
        is_complete=True,
    )


def _group(dataset: Any, segmentation: Any, found: Found, classes: int) -> Any:
    import highdicom
    from highdicom import sr
    from pydicom.sr.codedict import codes

    measured = found.measurement
    assert measured.long is not None and measured.short is not None and measured.region_area is not None
    frames = [found.place + 1] if "NumberOfFrames" in dataset else None
    segment = None if segmentation is None else _segment(dataset, segmentation, found, frames)
    region = None
    if segment is None:
        box, pixels = largest_region(found.pixels)
        corners = np.array(outline(pixels), np.float64) + np.array([box.x, box.y])
        corners = corners[:: -(-len(corners) // _MOST_CORNERS)]
        image = sr.SourceImageForRegion(dataset.SOPClassUID, dataset.SOPInstanceUID, frames)
        region = sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, np.concatenate([corners, corners[:1]]), image)
    area = measured.region_area if segment is None else measured.area
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(highdicom.UID(), f"{measured.name}, frame {found.place + 1}"),
        referenced_region=region,
        referenced_segment=segment,
        finding_type=finding(measured.number, measured.name, classes),
        algorithm_id=sr.AlgorithmIdentification("ht_kernels", ht_kernels.__version__),
        measurements=[
            sr.Measurement(codes.SCT.Area, _rounded(area), codes.UCUM.SquareMillimeter),
            sr.Measurement(codes.SCT.LongAxis, _rounded(measured.long.length), codes.UCUM.Millimeter),
            sr.Measurement(codes.SCT.ShortAxis, _rounded(measured.short.length), codes.UCUM.Millimeter),
        ],
    )


def _segment(dataset: Any, segmentation: Any, found: Found, frames: Sequence[int] | None) -> Any:
    """The frame of a Segmentation that has a class in a frame of the source; None where there is none."""
    from highdicom import sr

    shared = segmentation.SharedFunctionalGroupsSequence[0]  # has the segment, where there is one
    for number, group in enumerate(segmentation.PerFrameFunctionalGroupsSequence, 1):
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        of_segment = (group if "SegmentIdentificationSequence" in group else shared).SegmentIdentificationSequence[0]
        segment = of_segment.ReferencedSegmentNumber
        if segment == found.measurement.number and image.get("ReferencedFrameNumber", 1) == found.place + 1:
            came = sr.SourceImageForSegmentation(dataset.SOPClassUID, dataset.SOPInstanceUID, frames)
            uids = segmentation.SOPClassUID, segmentation.SOPInstanceUID
            reference = sr.ReferencedSegmentationFrame(*uids, number, segment, came)
            # The frame says the segment, and a reference has one of the two (PS3.3 table 10-3); highdicom writes both.
            del reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
            return reference
    return None


def _rounded(value: float) -> float:
    """A value of six digits, which a decimal string of DICOM holds."""
    return float(f"{value:.6g}")
