"""Small clips, files of them, and a small model that segments them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

import ht_kernels as ht
from helpers.small_towers import shake, small_tower
from ht_kernels.media.preprocess import preprocess
from ht_kernels.nn import Familiarity
from ht_kernels.nn.familiarity import pooled
from ht_kernels.video.sinks import VideoSink

TINY = ["--backbone", "timm/vit_tiny_patch16_224"]
"""The smallest model that commands make by themselves."""


def frames(count: int = 5, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Gray frames, each brighter than the one before, with a ramp to tell rows from columns."""
    ramp = np.linspace(0, 100, width, dtype=np.uint8)[None] + np.linspace(0, 40, height, dtype=np.uint8)[:, None]
    return [ramp + np.uint8(20 * i % 120) for i in range(count)]


def write_video(path: Path, count: int = 5, size: tuple[int, int] = (48, 64), fps: float = 25) -> Path:
    sink = VideoSink(path, fps)
    for frame in frames(count, *size):
        sink.write(np.repeat(frame[..., None], 3, 2))
    sink.close()
    return path


def write_dicom(path: Path, pixels: np.ndarray, **attributes: object) -> Path:
    """Uncompressed: pixels (frames, H, W) or (frames, H, W, 3)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality = "US"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = pixels.shape[:3]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    if pixels.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def folded(classes: int = 3, task: str = "segmentation") -> ht.deploy.FoldedHTCLIP:
    model = ht.HTCLIP(
        small_tower("timm").float(), task=task, num_classes=classes, bottleneck=8, reduce_dim=16, feature_layers=(0, 2)
    )
    shake(model.reduces)
    shake(model.blocks)
    return ht.fold(model)


KNOWN = frames(1)[0]
OTHER = KNOWN + np.uint8(20)
"""Too little brighter than the known frame for a scene cut."""


@torch.no_grad()
def calibrated(task: str = "segmentation") -> ht.deploy.FoldedHTCLIP:
    """A model to which the known frame is at distance 0, and the other at twice the limit."""
    tower = small_tower("timm").float()
    options = {"num_classes": 3, "bottleneck": 8, "reduce_dim": 16, "feature_layers": (0, 2)}
    model = ht.HTCLIP(tower, task=task, **options).eval()
    shake(model.reduces)
    shake(model.blocks)
    frame, another = (torch.from_numpy(preprocess(frame, (64, 64))) / 255 for frame in (KNOWN, OTHER))
    if task == "segmentation":
        logits = model(frame)
        model.seg_head[-1].bias.sub_(logits.flatten(2).median(2).values[0])  # so that masks are mixed
    known, other = (pooled(model.features(pixels)) for pixels in (frame, another))
    familiarity = Familiarity(known.shape[1], 1, 2)
    familiarity.directions.copy_(torch.eye(1, known.shape[1]))
    familiarity.mean.copy_(known[0])
    familiarity.limit.copy_(familiarity(other)[0] / 2)
    familiarity.quantiles.copy_(torch.tensor([0.0, 1.0]) * familiarity.limit)
    model.familiarity = familiarity
    return ht.fold(model)


def region(left: int, top: int, right: int, bottom: int, space: int = 1, kind: int = 1) -> Dataset:
    found = Dataset()
    found.RegionSpatialFormat, found.RegionDataType = space, kind
    found.RegionLocationMinX0, found.RegionLocationMinY0 = left, top
    found.RegionLocationMaxX1, found.RegionLocationMaxY1 = right, bottom
    return found
