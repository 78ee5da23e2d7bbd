"""GPU memory at a fixed address, from which a CUDA graph or an engine reads its frames."""

from __future__ import annotations

import torch
from torch import Tensor


class StaticInput:
    """A buffer of frames at a fixed address on a GPU. Only one thread at a time may fill it.

    Args:
        shape, dtype: shape and dtype of the buffer; the first dimension is the largest number of frames.
        device: the GPU, which must be the current device here and in :meth:`fill`.

    Attributes:
        frames: the buffer, initially zeros.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside it
            self.frames = torch.zeros(shape, dtype=dtype, device=device)
            self._staged = torch.empty(shape, dtype=dtype, pin_memory=True)
        self._read = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def fill(self, frames: Tensor) -> None:
        """Copy ``frames``, from any device, to the start of the buffer, on the current stream.

        The caller may refill host memory as soon as this returns.
        """
        target = self.frames[: len(frames)]
        if frames.device.type != "cpu":
            target.copy_(frames, non_blocking=True)
            return
        # The GPU reads pinned memory only when the stream reaches the copy. If the caller's memory were read directly,
        # the caller would have to wait for everything queued before. Copying a frame to our own pinned memory takes
        # a few microseconds instead.
        self._read.synchronize()
        staged = self._staged[: len(frames)]
        staged.copy_(frames)
        target.copy_(staged, non_blocking=True)
        self._read.record()
