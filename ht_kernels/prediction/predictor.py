"""A model that is asked about images and clips, one input at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels.deploy.gpu import capability
from ht_kernels.deploy.places import is_exported
from ht_kernels.deploy.session import Session
from ht_kernels.errors import InputError, did_you_mean
from ht_kernels.media.frames import Box, Frame
from ht_kernels.media.opening import open_file
from ht_kernels.media.scale import Scale, as_spacing
from ht_kernels.media.source import USUAL_FPS, Source
from ht_kernels.packages import need_torch
from ht_kernels.predict_method import Predicts
from ht_kernels.video.crop import AutoCrop, check_crop
from ht_kernels.video.model import FrameModel
from ht_kernels.video.overlay import check_unfamiliar
from ht_kernels.weights import locate

from .pixels import to_frame
from .result import Prediction

if TYPE_CHECKING:
    from ht_kernels.clip import HTCLIP
    from ht_kernels.deploy import FoldedHTCLIP

Picture = str | Path | NDArray[Any] | Image.Image
"""An image: the path of an image file or of a DICOM file with one frame; a NumPy array, (H, W) gray or (H, W, 3) RGB,
uint8, or floating point from 0 to 1; or an image of Pillow."""

_OPTIONS = "crop", "unfamiliar", "compiled", "spacing"
"""The options of a Predictor."""


class Predictor:
    """Predicts masks or labels: ``predictor(image)``, ``predictor([image, ...])`` and ``predictor.frames(clip)``.

    Args:
        model: a checkpoint by its path or by the name of weights that ship, the path of an exported file, a model, a
            folded model, or a session that gives logits of single gray frames. Of a path or a name, the fastest runtime
            that is installed runs it.
        crop: what the model sees of an image: a box; ``auto`` for the scan without the text around it, which some DICOM
            files state and which is otherwise found in the image; None for the whole image.
        unfamiliar: what an overlay shows of an image that is unlike the training images, as a calibrated model tells:
            ``withhold`` for no mask, or ``outline`` for a red outline of it.
        compiled: have torch.compile compile the model, which runs on a GPU, at the first image, as
            :class:`ht_kernels.deploy.GraphRunner` does. That takes a minute or more, and pays for many images. No GPU
            has run it.
        spacing: the side of a pixel in millimetres, or its width and height, for areas and measurements; None for what
            a DICOM file says.

    Attributes:
        task: ``segmentation`` or ``classification``.
        classes: the names of all classes; for segmentation the background comes first.
        spacing: the size of a pixel in millimetres, where the user said it; else None.

    Raises:
        InputError: the file cannot be read, the model is for another task, an argument is none of those above, or
            ``compiled`` is true and the model is an exported file or a session, or runs on the CPU.
        BackendError: nothing here runs the model.
        TypeError: ``model`` is none of these.
    """

    def __init__(
        self,
        model: str | Path | HTCLIP | FoldedHTCLIP | Session,
        *,
        crop: Box | Literal["auto"] | None = None,
        unfamiliar: Literal["withhold", "outline"] = "withhold",
        compiled: bool = False,
        spacing: float | tuple[float, float] | None = None,
    ) -> None:
        check_crop(crop)
        self.spacing = None if spacing is None else as_spacing(spacing)
        self._scales = () if self.spacing is None else (Scale(None, self.spacing),)
        check_unfamiliar(unfamiliar)
        self._crop, self._outline = crop, unfamiliar == "outline"
        self._model = FrameModel(_runnable(model, compiled), compiled=compiled)
        self.task, self.classes = self._model.task, _distinct(self._model.class_names)

    @overload
    def __call__(self, inputs: Picture) -> Prediction: ...

    @overload
    def __call__(self, inputs: list[Picture] | tuple[Picture, ...]) -> list[Prediction]: ...

    def __call__(self, inputs: Picture | list[Picture] | tuple[Picture, ...]) -> Prediction | list[Prediction]:
        """The prediction of one image, or a list of them for a list or tuple of images.

        Args:
            inputs: an image, or a list or tuple of images. An image is the path of an image file or of a DICOM file
                with one frame; a NumPy array, (H, W) gray or (H, W, 3) RGB, uint8, or floating point from 0 to 1; or an
                image of Pillow.

        Raises:
            InputError: a file cannot be read or has several frames, an array does not fit, the crop is not inside an
                image, or the model's logits are not finite.
            TypeError: an input is none of these.
        """
        if isinstance(inputs, (list, tuple)):
            return [self._image(image) for image in inputs]
        return self._image(inputs)

    def frames(self, clip: str | Path | Source | Iterable[NDArray[Any] | Image.Image]) -> Iterator[Prediction]:
        """The prediction of each frame of a clip, in order, one after the other, so that a long clip needs no memory.

        Args:
            clip: the path of a DICOM clip, a video, an animation or a folder of images, what
                :func:`ht_kernels.media.opening.open_file` made of it, or images in memory, as for a call.

        Raises:
            InputError, TypeError: as for a call; while iterating, where a frame turns out to be damaged.
        """
        if isinstance(clip, (str, Path)):
            clip = open_file(clip)
        if isinstance(clip, Source):
            return self._frames(clip.timed(), self._cropper(clip.scan), clip.path, clip.scales)
        timed = ((index / USUAL_FPS, to_frame(image)) for index, image in enumerate(clip))
        return self._frames(timed, self._cropper(None), None, ())

    def describe(self) -> dict[str, Any]:
        """The model in a report: its configuration, frame size, runtime and device."""
        return self._model.describe()

    def _image(self, image: Any) -> Prediction:
        if not isinstance(image, (str, Path)):
            return self._frame(to_frame(image), self._cropper(None))
        if Path(image).is_dir():
            raise InputError(f"{image} is a folder, and a call takes one image: iterate over Predictor.frames of it")
        source = open_file(image)
        if is_clip(source):
            raise InputError(f"{image} has several frames, and a call takes one image: iterate over Predictor.frames")
        frame = next(iter(source))
        made = self._frame(frame, self._cropper(source.scan))
        return replace(made, file=source.path, scales=self._scales or source.scales)

    def _frames(
        self,
        timed: Iterable[tuple[float, Frame]],
        crop: Callable[[Frame], Box],
        file: Path | None,
        scales: tuple[Scale, ...],
    ) -> Iterator[Prediction]:
        for index, (seconds, frame) in enumerate(timed):
            made = self._frame(frame, crop)
            yield replace(made, file=file, index=index, seconds=seconds, scales=self._scales or scales)

    def _cropper(self, scan: Box | None) -> Callable[[Frame], Box]:
        """What says which part of each frame the model sees; ``scan`` is what the file declares as the scan."""
        box = scan if self._crop == "auto" else self._crop
        if box is None and self._crop == "auto":
            return AutoCrop()
        return lambda frame: box or Box(0, 0, frame.shape[1], frame.shape[0])

    def _frame(self, frame: Frame, crop: Callable[[Frame], Box]) -> Prediction:
        model, box = self._model, crop(frame)
        logits, distance = model(model.preprocess(box.of(frame)))
        if not np.isfinite(logits).all():
            raise InputError("the model's logits are not finite: its weights are damaged, or its precision is too low")
        unfamiliar = model.unfamiliar(distance)
        mask = label = confidence = None
        if self.task == "segmentation":
            mask = model.mask(logits, frame, box)
            confidence = None if unfamiliar else model.mask_confidence(logits)
        elif not unfamiliar:
            probabilities = model.probabilities(logits)
            label, confidence = self.classes[int(probabilities.argmax())], float(probabilities.max())
        doubtful = mask if unfamiliar and self._outline else None
        note = model.why_unfamiliar(distance, doubtful is not None) if unfamiliar else ""
        scale = model.familiarity
        return Prediction(
            file=None,
            index=None,
            seconds=0.0,
            frame=frame,
            task=self.task,
            classes=self.classes,
            state="unfamiliar" if unfamiliar else "ok",
            note=note,
            mask=None if unfamiliar else mask,
            label=label,
            confidence=confidence,
            distance=distance,
            percentile=None if scale is None or distance is None else scale.percentile(distance),
            scales=self._scales,
            _logits=None if unfamiliar else logits,
            _box=box,
            _doubtful=doubtful,
        )


def predict(model: str | Path | HTCLIP | FoldedHTCLIP | Session, inputs: Any, **options: Any) -> Any:
    """Return ``Predictor(model, **options)(inputs)``.

    A checkpoint or a file is loaded at each call: make a ``Predictor`` for several.

    Raises:
        InputError, BackendError, TypeError: as a ``Predictor`` and its call raise them; TypeError also for an option
            that a ``Predictor`` does not have.
    """
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(
                f"predict has no option {name}: its options are {', '.join(_OPTIONS[:-1])} and {_OPTIONS[-1]}"
                f"{did_you_mean(name, _OPTIONS)}; a session as the model says what runs it, and where"
            )
    return Predictor(model, **options)(inputs)


def is_clip(source: Source) -> bool:
    """Whether a source has frames, and is not one picture."""
    return source.kind in ("video", "images") or (source.frame_count or 1) > 1


def _runnable(model: Any, compiled: bool) -> FoldedHTCLIP | Session:
    """What runs a model on frames. Torch is not imported for an exported file or a session."""
    if isinstance(model, (str, Path)):
        path = locate(model)
        if is_exported(path):
            return Session.open(path, compiled=compiled)
        need_torch(f"the checkpoint {path}")
        from ht_kernels.clip import HTCLIP
        from ht_kernels.deploy.fastest import fastest

        if compiled and capability() is None:
            raise InputError("compiled needs an NVIDIA GPU, and there is none that torch can use: leave it out")
        return fastest(HTCLIP.from_checkpoint(path).eval())
    if isinstance(model, Session):
        return model
    if isinstance(model, Predicts):
        from ht_kernels.clip import HTCLIP
        from ht_kernels.deploy.folded import FoldedHTCLIP, fold

        if isinstance(model, FoldedHTCLIP):
            return model
        if isinstance(model, HTCLIP):
            return fold(model)
    raise TypeError(
        "model must be a checkpoint or an exported file by path or name, a model, a folded model or a session, got "
        f"{type(model).__name__}"
    )


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of classes, each followed by its number where two are the same: tables have a column for each."""
    return names if len(set(names)) == len(names) else tuple(f"{name} {i}" for i, name in enumerate(names))
