"""The memory of an engine as tensors of torch: frames come from any device, and results stay on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ht_kernels.errors import BackendError, reason

from .static_input import StaticInput

if TYPE_CHECKING:
    from .engine_runtime import Described

_TYPES = {"uint8": torch.uint8, "float32": torch.float32}


class TensorMemory:
    """A :class:`ht_kernels.deploy.engine_runtime.Memory` on torch's current GPU.

    Results are on the caller's current stream.

    Raises:
        BackendError: torch can use no GPU.
    """

    on_tensors = True

    def __init__(self, frames: Described, outputs: Sequence[Described]) -> None:
        try:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # TensorRT synchronises the default one
        except (AssertionError, RuntimeError) as error:  # where the GPU's driver is here, and torch is one for the CPU
            raise BackendError(f"torch can use no NVIDIA GPU ({reason(error)}): install a torch for CUDA") from error
        device = self._stream.device
        self.device = str(device)
        name, shape, kind = frames
        with torch.cuda.stream(self._stream):
            self._input = StaticInput(shape, _TYPES[kind], device)
            made = {name: torch.zeros(shape, dtype=_TYPES[kind], device=device) for name, shape, kind in outputs}
        self._outputs = list(made.values())
        self.addresses = {name: tensor.data_ptr() for name, tensor in {name: self._input.frames, **made}.items()}

    def run(self, frames: Tensor, execute: Callable[[tuple[int, ...], int], None]) -> list[Tensor]:
        stream = self._stream
        with torch.cuda.device(stream.device):
            caller = torch.cuda.current_stream()
            outputs = [output[: len(frames)] for output in self._outputs]
            results = [torch.empty_like(output) for output in outputs]
            stream.wait_stream(caller)
            try:
                with torch.cuda.stream(stream):
                    self._input.fill(frames)
                    execute(tuple(frames.shape), stream.cuda_stream)
                    for result, output in zip(results, outputs, strict=True):
                        result.copy_(output)
            finally:
                caller.wait_stream(stream)  # the stream may still read the caller's frames
        return results

    def synchronize(self) -> None:
        self._stream.synchronize()
