"""The memory of a GPU that a CUDA graph or an engine reads its frames from."""

from __future__ import annotations

import torch
from torch import Tensor


class StaticInput:
    """Frames on a GPU at an address that stays; one thread at a time fills it.

    Args:
        shape, dtype: of as many frames as it holds.
        device: the GPU, which must be the current device here and in :meth:`fill`.

    Attributes:
        frames: the memory; zeros at first.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        with torch.inference_mode(False):  # what inference mode makes can be written in inference mode only
            self.frames = torch.zeros(shape, dtype=dtype, device=device)
            self._staged = torch.empty(shape, dtype=dtype, pin_memory=True)
        self._read = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def fill(self, frames: Tensor) -> None:
        """Put ``frames`` first, from any device, on the current stream; host memory may be refilled at once."""
        target = self.frames[: len(frames)]
        if frames.device.type != "cpu":
            target.copy_(frames, non_blocking=True)
            return
        # A GPU reads pinned memory when its stream comes to that. Waiting for it would hold the caller up behind all
        # that is queued; the CPU copies a frame to pinned memory of our own in a few microseconds.
        self._read.synchronize()
        staged = self._staged[: len(frames)]
        staged.copy_(frames)
        target.copy_(staged, non_blocking=True)
        self._read.record()
