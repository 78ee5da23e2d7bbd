"""Operators for Holoscan around a session: frames of a clip, the model's input, and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from holoscan.conditions import BooleanCondition
from holoscan.core import Operator, OperatorSpec
from numpy.typing import NDArray

import ht_kernels as ht
from ht_kernels.logits import mask_of_grid
from ht_kernels.media.preprocess import preprocess


class ClipOp(Operator):
    """Gives the frames of a DICOM clip, a video or a folder of images once, as ``video`` (H, W, 3) uint8."""

    def __init__(self, fragment: Any, *conditions: Any, clip: Path, **options: Any) -> None:
        self.frames = iter(ht.video.open_source(str(clip)))
        self.frame = next(self.frames, None)
        self.more = BooleanCondition(fragment, name="more", enable_tick=self.frame is not None)
        super().__init__(fragment, self.more, *conditions, **options)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("video")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        frame = self.frame
        rgb = np.dstack([frame] * 3) if frame.ndim == 2 else np.ascontiguousarray(frame)
        op_output.emit({"video": rgb}, "video")
        self.frame = next(self.frames, None)
        if self.frame is None:
            self.more.disable_tick()


class PrepareOp(Operator):
    """Makes what a model takes of ``video``: ``frames`` (1, 1, *size) uint8, gray and in the model's size."""

    def __init__(self, fragment: Any, *, size: tuple[int, int], **options: Any) -> None:
        self.size = size
        super().__init__(fragment, **options)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("video")
        spec.output("frames")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        op_output.emit({"frames": preprocess(pixels(op_input, "video"), self.size)}, "frames")


class SegmentOp(Operator):
    """Gives the class of each pixel of ``video``, as ``mask`` (H, W, 1) uint8.

    Of a frame that is unlike the training images, as a calibrated model tells, all pixels are background.
    """

    def __init__(self, fragment: Any, *, session: ht.deploy.Session, **options: Any) -> None:
        self.session = session
        super().__init__(fragment, **options)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("video")
        spec.output("mask")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        op_output.emit({"mask": self.mask(pixels(op_input, "video"))[..., None]}, "mask")

    def mask(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask (H, W) of a frame."""
        frames = preprocess(frame, self.session.frame_shape[1:])
        if self.session.familiarity is None:
            logits = self.session(frames)
        else:
            logits, distances = self.session.with_distance(frames)
            if self.session.familiarity.unfamiliar(float(distances[0])):
                return np.zeros(frame.shape[:2], np.uint8)
        return mask_of_grid(logits, frame.shape[:2])[0]


def pixels(op_input: Any, port: str) -> NDArray[np.uint8]:
    """The only tensor of a message as an array in host memory: (H, W) or (H, W, 3); a fourth channel is left out."""
    (tensor,) = op_input.receive(port).values()
    if hasattr(tensor, "__cuda_array_interface__"):
        import cupy

        with cupy.cuda.ExternalStream(op_input.receive_cuda_stream(port)):
            array = cupy.asnumpy(cupy.asarray(tensor))
    else:
        array = np.asarray(tensor)
    return array[..., 0] if array.shape[2:] == (1,) else array[..., :3]
