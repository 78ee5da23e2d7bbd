"""A folded model with the interface of a session: arrays in, arrays out. Torch runs it, on a GPU as a CUDA graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ht_kernels.deploy.folded import FoldedHTCLIP
from ht_kernels.deploy.graph import GraphRunner
from ht_kernels.deploy.torch_compile import check_on_gpu
from ht_kernels.logits import Logits


class FoldedFrames:
    """Runs a folded model on one gray frame at a time, and has what :class:`FrameModel` asks of a session.

    Args:
        model: the folded model.
        compiled: compile it first, as :class:`GraphRunner` does.

    Raises:
        InputError: ``compiled`` is true and the model is not on a GPU.

    Attributes:
        runtime: ``cpu`` or ``cuda_graph``.
        output: ``grid`` for segmentation, else what the model gives.
        device, batch, frame_shape, task, num_classes, class_names, config, familiarity, grid: as a session has them.
    """

    def __init__(self, model: FoldedHTCLIP, compiled: bool) -> None:
        config, device = model.config, model.position.device
        if compiled:
            check_on_gpu(device)
        self._model = model
        self._run: Any = GraphRunner(model, compiled=compiled) if device.type == "cuda" else model
        self.runtime, self.device = "cuda_graph" if device.type == "cuda" else "cpu", str(device)
        self.batch, self.frame_shape = (1, 1, 1), (1, *model.image_size)
        self.task, self.num_classes, self.class_names = config.task, config.num_classes, config.class_names
        self.config = config
        self.output = "grid" if config.task == "segmentation" else model.result
        self.grid = model.grid if config.task == "segmentation" else None
        self.familiarity = None if model.familiarity is None else model.familiarity.scale

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> Logits:
        """Logits float32 of pixels (1, 1, H, W): (1, K, h, w) on the patch grid, or (1, K) for classification."""
        return _array(self._run(torch.from_numpy(pixels), output_size=self.grid))

    @torch.inference_mode()
    def with_distance(self, pixels: NDArray[np.uint8]) -> tuple[Logits, NDArray[np.float32]]:
        """The logits, and the distance (1,) from the training images."""
        logits, distances = self._run.with_distance(torch.from_numpy(pixels), output_size=self.grid)
        return _array(logits), _array(distances)

    def backend(self) -> str | None:
        """Which backend runs the adapters."""
        return self._model.backend()


def _array(values: torch.Tensor) -> NDArray[np.float32]:
    """Values as an array. Only the CUDA stream that computes them is waited for, not the whole GPU.

    To wait for all of it would break another thread's graph capture.
    """
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
