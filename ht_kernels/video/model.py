"""A model for one frame at a time, a folded one or a session, and what its logits say of the frame."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ht_kernels.class_names import names_of
from ht_kernels.confidence import mask_confidence
from ht_kernels.deploy.session import Session
from ht_kernels.errors import InputError
from ht_kernels.log import log
from ht_kernels.logits import Logits, mask_of_grid, probabilities, to_grid, upsample
from ht_kernels.media.frames import Box, Frame
from ht_kernels.media.preprocess import preprocess
from ht_kernels.predict_method import Predicts

if TYPE_CHECKING:
    from ht_kernels.deploy import FoldedHTCLIP

    from .folded_model import FoldedFrames


class FrameModel:
    """Logits of single frames, how far the frames are from the training images, and what the logits say.

    Args:
        model: a folded model for segmentation or classification, or a session of one that gives logits of gray frames,
            for segmentation best on the patch grid.
        compiled: compile a folded model, which is on a GPU, as :class:`ht_kernels.deploy.GraphRunner` does.

    Raises:
        InputError: the model is for another task, the session takes or gives something else, or ``compiled`` is true
            and the model is a session or not on a GPU.
        TypeError: the model is neither a folded model nor a session.

    Attributes:
        task: ``segmentation`` or ``classification``.
        size: (height, width) of the images that the model takes.
        class_names: the names of all classes; for segmentation the background comes first.
        familiarity: what distances mean; None for a model that gives none.
    """

    def __init__(self, model: FoldedHTCLIP | Session, *, compiled: bool = False) -> None:
        run = _runnable(model, compiled)
        if run.task not in ("segmentation", "classification"):
            raise InputError(f"frames need a model for segmentation or classification, got one for {run.task}")
        segments = run.task == "segmentation"
        if segments and run.num_classes > 256:
            raise InputError(f"a mask holds up to 256 classes, and the model has {run.num_classes}")
        _check(run, "grid" if segments else "logits")
        self._run = run
        self._grid = _grid_to_return_to(run) if segments and run.output == "logits" else None
        self.task: str = run.task
        self.size: tuple[int, int] = run.frame_shape[1:]
        self.familiarity = run.familiarity
        self.class_names = names_of(run.num_classes, run.class_names)

    def preprocess(self, frame: Frame) -> NDArray[np.uint8]:
        """Pixels uint8 (1, 1, H, W) of the model's size.

        One thread makes them, because the model runs beside it, on the others.
        """
        return preprocess(frame, self.size, threads=1)

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[Logits, float | None]:
        """Logits float32 of pixels (1, 1, H, W) uint8, and their distance from the training images.

        For classification the logits are (1, K). For segmentation they are (1, K, h, w), on the patch grid, so that
        masks and smoothing are the same for every runtime and file; only a file of an older version, which gives logits
        in the image's size and does not say the grid, has them there.

        Both come from one run of the model. The distance is None for a model that gives none.
        """
        distance: float | None = None
        if self.familiarity is None:
            result = self._run(pixels)
        else:
            result, distances = self._run.with_distance(pixels)
            distance = float(distances[0])
        logits: Logits = np.asarray(result, dtype=np.float32)
        return logits if self._grid is None else to_grid(logits, self._grid), distance

    def unfamiliar(self, distance: float | None) -> bool:
        """Whether a frame at this distance is unlike the training images; False for a model that cannot tell."""
        return self.familiarity is not None and distance is not None and self.familiarity.unfamiliar(distance)

    def why_unfamiliar(self, distance: float | None, outlined: bool) -> str:
        """The line in the corner of an unfamiliar frame, in which nothing is drawn, or only the mask's outline."""
        assert self.familiarity is not None and distance is not None
        shown = "outline only" if outlined else "no mask" if self.task == "segmentation" else "no label"
        limit = self.familiarity.limit
        return f"{shown}: unlike the training images (distance {distance:.2f}, limit {limit:.2f})"

    def mask_confidence(self, logits: Logits) -> float | None:
        """The confidence of the mask that logits (1, K, h, w) make, in the size of the model's images."""
        return mask_confidence(upsample(logits, self.size)[0])

    def mask(self, logits: Logits, frame: Frame, box: Box) -> NDArray[np.uint8]:
        """The class of each pixel (H, W) of a frame, of which the model saw a box; the background around it."""
        inside: NDArray[np.uint8] = mask_of_grid(logits, (box.height, box.width))[0]
        if inside.shape == frame.shape[:2]:
            return inside
        whole = np.zeros(frame.shape[:2], dtype=np.uint8)
        box.of(whole)[...] = inside
        return whole

    def probabilities(self, logits: Logits) -> NDArray[np.float32]:
        """The probability of each class (C,), of the logits (1, K) of a classification."""
        found: NDArray[np.float32] = probabilities(logits)[0]
        return found

    def backend(self) -> str | None:
        """Which backend runs the adapters; None where a session runs the model."""
        return None if isinstance(self._run, Session) else self._run.backend()

    def describe(self) -> dict[str, Any]:
        """The model in a report: its configuration, frame size, runtime and device.

        The device is named as by :class:`ht_kernels.deploy.session.Session`: ``cpu``, torch's name of an NVIDIA GPU
        such as ``cuda:0``, ``intel gpu`` or ``npu``.
        """
        run = self._run
        facts = {"task": run.task, "num_classes": run.num_classes, "class_names": run.class_names}
        if run.config is not None:
            facts = asdict(run.config)
        return {**facts, "frame_size": list(self.size), "runtime": run.runtime, "device": run.device}


def _runnable(model: Any, compiled: bool) -> Session | FoldedFrames:
    """What runs a model on arrays.

    Raises:
        InputError: ``compiled`` is true and the model is a session or not on a GPU.
        TypeError: it is neither a folded model nor a session.
    """
    if isinstance(model, Session):
        if compiled:
            raise InputError("compiled is for a model, and this is a session: pass it to Session.open, or leave it out")
        return model
    made = "HTCLIP.from_checkpoint(...)"
    if isinstance(model, Predicts):
        from ht_kernels.deploy.folded import FoldedHTCLIP

        from .folded_model import FoldedFrames

        if isinstance(model, FoldedHTCLIP):
            return FoldedFrames(model, compiled)
        made = "it"
    raise TypeError(
        f"model must be a folded model or a session, got {type(model).__name__}: ht_kernels.fold makes a folded model "
        f"of {made}"
    )


def _check(run: Session | FoldedFrames, result: str) -> None:
    """Raise InputError unless a session takes one gray frame and gives logits; ``result`` is that to export."""
    low, _, high = run.batch
    if run.output not in ("logits", "grid"):
        raise InputError(
            f"frames need a session that gives logits, and this one gives a {run.output}: export it with "
            f"--result {result}"
        )
    if run.frame_shape[0] != 1:
        raise InputError(
            f"frames need a session that takes gray frames, and this one takes frames of {run.frame_shape[0]} "
            "channels: export the model with one channel"
        )
    if low != 1:
        several = str(low) if low == high else f"{low} to {high}"
        raise InputError(
            f"a stream gives one frame at a time, and this session takes {several} at once: export or open the model "
            "with a batch of 1, or of a range that begins with 1, such as --batch 1:4:16"
        )


def _grid_to_return_to(run: Session | FoldedFrames) -> tuple[int, int] | None:
    """The patch grid that logits in the image's size came from, or None, with a warning, where the file has none."""
    if run.grid is None:
        log.warning(
            "stream: the file gives logits in the image's size and, as it is of an older version, does not say the "
            "patch grid, so masks differ from those of its checkpoint, smoothed ones by up to 3 pixels in 100: export "
            "it again"
        )
    return run.grid
