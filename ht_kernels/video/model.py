"""A model for one frame at a time, a folded one or a session, and what its logits say of the frame."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ht_kernels.classes import names_of, probabilities_of
from ht_kernels.clip import HTCLIP
from ht_kernels.confidence import mask_confidence
from ht_kernels.deploy import FoldedHTCLIP, GraphRunner, Session
from ht_kernels.distance_scale import DistanceScale
from ht_kernels.errors import InputError
from ht_kernels.functional import grid_to_mask
from ht_kernels.media.frames import Box, Frame
from ht_kernels.media.preprocess import preprocess

_log = logging.getLogger("ht_kernels")


class FrameModel:
    """Logits of single frames, how far the frames are from the training images, and what the logits say.

    Args:
        model: a folded model for segmentation or classification, or a session of one that gives logits of gray frames,
            for segmentation best on the patch grid.

    Raises:
        InputError: the model is for another task, or the session takes or gives something else.
        TypeError: the model is neither a folded model nor a session.

    Attributes:
        task: ``segmentation`` or ``classification``.
        size: (height, width) of the images that the model takes.
        class_names: the names of all classes; for segmentation the background comes first.
        familiarity: what distances mean; None for a model that gives none.
    """

    def __init__(self, model: FoldedHTCLIP | Session) -> None:
        if not isinstance(model, (FoldedHTCLIP, Session)):
            made = "it" if isinstance(model, HTCLIP) else "HTCLIP.from_checkpoint(...)"
            raise TypeError(
                f"model must be a folded model or a session, got {type(model).__name__}: ht_kernels.fold makes a "
                f"folded model of {made}"
            )
        task, count, names = _facts(model)
        self._shrink: tuple[Tensor, Tensor] | None = None
        if task not in ("segmentation", "classification"):
            raise InputError(f"frames need a model for segmentation or classification, got one for {task}")
        segments = task == "segmentation"
        if segments and count > 256:
            raise InputError(f"a mask holds up to 256 classes, and the model has {count}")
        self.task = task
        if isinstance(model, Session):
            if segments and model.output == "logits":
                self._shrink = _shrinking(model)
            _check_session(model, "grid" if segments else "logits")
            self.size: tuple[int, int] = model.frame_shape[1:]
        else:
            self.size = model.image_size
        self.familiarity = _familiarity(model)
        self.model = model
        self.class_names = names_of(count, names)
        self._graphs = GraphRunner(model) if isinstance(model, FoldedHTCLIP) and model.position.is_cuda else None

    def preprocess(self, frame: Frame) -> Tensor:
        """Pixels uint8 (1, 1, H, W) of the model's size.

        One thread makes them, because the model runs beside it, on the others.
        """
        return preprocess(frame, self.size, threads=1)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, float | None]:
        """Logits of pixels (1, 1, H, W) uint8, and their distance from the training images.

        For classification the logits are (1, K). For segmentation they are (1, K, h, w), on the patch grid, so that
        masks and smoothing are the same for every runtime and file; only a file of an older version, which gives logits
        in the image's size and does not say the grid, has them there.

        Both come from one run of the model. The distance is None for a model that gives none. A GPU has computed the
        logits when this returns.
        """
        distances: Tensor | None = None
        if isinstance(self.model, Session):
            if self.familiarity is None:
                logits = self.model(pixels)
            else:
                logits, distances = self.model.with_distance(pixels)
            if self._shrink is not None:
                rows, columns = (one.to(logits.device) for one in self._shrink)
                logits = rows @ logits @ columns.T
        else:
            run = self._graphs or self.model
            size = self.model.grid if self.task == "segmentation" else None
            if self.familiarity is None:
                logits = run(pixels, output_size=size)
            else:
                logits, distances = run.with_distance(pixels, output_size=size)
        if logits.is_cuda:
            # Only this CUDA stream is waited for: to wait for the whole GPU would break another thread's graph capture.
            torch.cuda.current_stream(logits.device).synchronize()
        return logits, None if distances is None else float(distances[0])

    def unfamiliar(self, distance: float | None) -> bool:
        """Whether a frame at this distance is unlike the training images; False for a model that cannot tell."""
        return self.familiarity is not None and distance is not None and self.familiarity.unfamiliar(distance)

    def why_unfamiliar(self, distance: float | None, outlined: bool) -> str:
        """The line in the corner of an unfamiliar frame, in which nothing is drawn, or only the mask's outline."""
        assert self.familiarity is not None and distance is not None
        shown = "outline only" if outlined else "no mask" if self.task == "segmentation" else "no label"
        limit = self.familiarity.limit
        return f"{shown}: unlike the training images (distance {distance:.2f}, limit {limit:.2f})"

    @torch.inference_mode()
    def mask_confidence(self, logits: Tensor) -> float | None:
        """The confidence of the mask that logits (1, K, h, w) make, in the size of the model's images."""
        whole = F.interpolate(logits, self.size, mode="bilinear", align_corners=False)
        return mask_confidence(whole[0])

    @torch.inference_mode()
    def mask(self, logits: Tensor, frame: Frame, box: Box) -> NDArray[np.uint8]:
        """The class of each pixel (H, W) of a frame, of which the model saw a box; the background around it."""
        whole = np.zeros(frame.shape[:2], dtype=np.uint8)
        box.of(whole)[...] = grid_to_mask(logits, (box.height, box.width))[0].cpu().numpy()
        return whole

    @torch.inference_mode()
    def probabilities(self, logits: Tensor) -> NDArray[np.float32]:
        """The probability of each class (C,), of the logits (1, K) of a classification."""
        found: NDArray[np.float32] = probabilities_of(logits.float())[0].cpu().numpy()
        return found

    def backend(self) -> str | None:
        """Which backend runs the adapters; None where a session runs the model."""
        return self.model.backend() if isinstance(self.model, FoldedHTCLIP) else None

    def describe(self) -> dict[str, Any]:
        """The model in a report: its configuration, frame size, runtime and device.

        The device is named as by :class:`ht_kernels.deploy.session.Session`: ``cpu``, torch's name of an NVIDIA GPU
        such as ``cuda:0``, ``intel gpu`` or ``npu``.
        """
        if isinstance(self.model, Session):
            task, count, names = _facts(self.model)
            facts: dict[str, Any] = {"task": task, "num_classes": count, "class_names": names}
            if self.model.config is not None:
                facts = asdict(self.model.config)
            return {
                **facts,
                "frame_size": list(self.size),
                "runtime": self.model.runtime,
                "device": self.model.device,
            }
        config = asdict(self.model.config)
        runtime = "cpu" if self._graphs is None else "cuda_graph"
        device = str(self.model.position.device)
        return {**config, "frame_size": list(self.size), "runtime": runtime, "device": device}


def _check_session(session: Session, result: str) -> None:
    """Raise InputError unless a session takes one gray frame and gives logits; ``result`` is that to export."""
    low, _, high = session.batch
    if session.output not in ("logits", "grid"):
        raise InputError(
            f"frames need a session that gives logits, and this one gives a {session.output}: export it with "
            f"--result {result}"
        )
    if session.frame_shape[0] != 1:
        raise InputError(
            f"frames need a session that takes gray frames, and this one takes frames of {session.frame_shape[0]} "
            "channels: export the model with one channel"
        )
    if low != 1:
        several = str(low) if low == high else f"{low} to {high}"
        raise InputError(
            f"a stream gives one frame at a time, and this session takes {several} at once: export or open the model "
            "with a batch of 1, or of a range that begins with 1, such as --batch 1:4:16"
        )


def _shrinking(session: Session) -> tuple[Tensor, Tensor] | None:
    """The matrices (h, H) and (w, W) that take logits in the image's size back to the patch grid, from left and right.

    They are the pseudo-inverses of bilinear upsampling, which the logits come from, so they give the very logits on the
    grid, to rounding.
    """
    if session.grid is None:
        _log.warning(
            "stream: the file gives logits in the image's size and, as it is of an older version, does not say the "
            "patch grid, so masks differ from those of its checkpoint, smoothed ones by up to 3 pixels in 100: export "
            "it again"
        )
        return None

    def back(cells: int, pixels: int) -> Tensor:
        upsampled = F.interpolate(torch.eye(cells, dtype=torch.float64)[None], pixels, mode="linear")[0]
        matrix: Tensor = torch.linalg.pinv(upsampled.T).float()
        return matrix

    return back(session.grid[0], session.frame_shape[1]), back(session.grid[1], session.frame_shape[2])


def _facts(model: FoldedHTCLIP | Session) -> tuple[str, int, tuple[str, ...] | None]:
    facts = model if isinstance(model, Session) else model.config
    return facts.task, facts.num_classes, facts.class_names


def _familiarity(model: FoldedHTCLIP | Session) -> DistanceScale | None:
    if isinstance(model, Session):
        return model.familiarity
    return None if model.familiarity is None else model.familiarity.scale
