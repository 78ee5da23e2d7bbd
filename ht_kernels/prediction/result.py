"""What a model says of one image or frame: the mask or the label, how sure it is, and how it is drawn and saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ht_kernels.class_colors import color_of
from ht_kernels.errors import InputError
from ht_kernels.files import output_folder
from ht_kernels.logits import Logits, probabilities, upsample
from ht_kernels.measurement import Measurement, measure
from ht_kernels.media.frames import Box, Frame
from ht_kernels.media.scale import Scale, pixel_area
from ht_kernels.packages import import_package
from ht_kernels.video.overlay import Overlay, in_words
from ht_kernels.video.sinks import save_mask

from .inputs import without_ending


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of one image, or of one frame of a clip.

    Where the image is unlike the training images, ``state`` is ``unfamiliar`` and the result is withheld: ``mask``,
    ``probability``, ``areas``, ``label`` and ``confidence`` are None.

    Attributes:
        file: the file it is of; None for an array or an image of Pillow.
        index: the number of the frame in a clip, from 0; None for an image of its own.
        seconds: the frame's time in a clip, from 0.
        frame: the image, (H, W) gray or (H, W, 3) RGB, uint8.
        task: ``segmentation`` or ``classification``.
        classes: the names of all classes; for segmentation the background comes first.
        state: ``ok`` or ``unfamiliar``. A model that is not calibrated cannot tell, and gives ``ok``.
        note: the line that explains an unfamiliar state, with the distance and its limit; else empty.
        mask: for segmentation, the class of each pixel, (H, W) uint8; else None.
        label: for classification, the name of the likeliest class; else None.
        confidence: how sure the model is, from 0 to 1. For segmentation it is that of
            :func:`ht_kernels.confidence.mask_confidence`, None where the mask has no outline; for classification it is
            the probability of the label.
        distance: how far the image is from the training images; None for a model that cannot tell.
        percentile: the share of validation images that are nearer, from 0 to 100; None like ``distance``.
        scales: the sizes of pixels: one for the whole frame where the user gave it, else what a DICOM file says.
    """

    file: Path | None
    index: int | None
    seconds: float
    frame: Frame = field(repr=False)
    task: str
    classes: tuple[str, ...]
    state: str
    note: str
    mask: NDArray[np.uint8] | None = field(repr=False)
    label: str | None
    confidence: float | None
    distance: float | None
    percentile: float | None
    scales: tuple[Scale, ...] = field(repr=False)
    _logits: Logits | None = field(repr=False)
    _box: Box = field(repr=False)
    _doubtful: NDArray[np.uint8] | None = field(repr=False)  # the mask of which an overlay has the outline

    @property
    def probability(self) -> NDArray[np.float32] | None:
        """The probability of each class, float32: (C, H, W) for segmentation, (C,) for classification; or None.

        It is computed at each access. Outside a crop the background has probability 1.
        """
        if self._logits is None:
            return None
        if self.task == "classification":
            of_classes: NDArray[np.float32] = probabilities(self._logits)[0]
            return of_classes
        box, (height, width) = self._box, self.frame.shape[:2]
        inside: NDArray[np.float32] = probabilities(upsample(self._logits, (box.height, box.width)))[0]
        if inside.shape[1:] == (height, width):
            return inside
        whole = np.zeros((len(inside), height, width), dtype=np.float32)
        whole[0] = 1
        whole[:, box.y : box.y + box.height, box.x : box.x + box.width] = inside
        return whole

    @property
    def areas(self) -> dict[str, int] | None:
        """The number of pixels of each class but the background, by its name; None without a mask."""
        if self.mask is None:
            return None
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes[1:], counts[1:], strict=True)}

    @property
    def pixel_mm2(self) -> float | None:
        """The area of a pixel in mm², where it is known and the same for the whole scan; else None."""
        return pixel_area(self.scales)

    @property
    def areas_mm2(self) -> dict[str, float] | None:
        """The areas in mm²; None without a mask, or where ``pixel_mm2`` is None."""
        if self.areas is None or self.pixel_mm2 is None:
            return None
        return {name: count * self.pixel_mm2 for name, count in self.areas.items()}

    @cached_property
    def measurements(self) -> tuple[Measurement, ...] | None:
        """The areas, diameters and places of all classes but the background; None without a mask."""
        return None if self.mask is None else measure(self.mask, class_names=self.classes, scales=self.scales)

    def overlay(self, measured: bool = False) -> Frame:
        """The image with the mask over it, or the label in its corner, as a stream shows it: (H, W, 3) uint8 RGB.

        Args:
            measured: also draw the diameters of each class.
        """
        return self._draw(_overlay(self.classes), measured)

    def _draw(self, overlay: Overlay, measured: bool = False) -> Frame:
        label = "" if self.label is None else in_words(self.label, self.confidence or 0.0)
        measurements = (measured and self.measurements) or ()
        return overlay.draw(self.frame, self.mask, self._doubtful, label, self.note, measurements)

    def _share(self, pixels: int) -> float:
        """The share of the image, from 0 to 1, that so many pixels are."""
        height, width = self.frame.shape[:2]
        return float(pixels / (height * width))

    def row(self) -> dict[str, Any]:
        """What a table says of it: by segmentation the area of each class, by classification all probabilities.

        ``NAME_pixels`` is the area of a class, ``NAME_share`` its share of the image from 0 to 1, and ``NAME_mm2`` the
        area in mm² where that is known. ``frame`` counts from 1, and is None for a single image.
        """
        row: dict[str, Any] = {
            "file": None if self.file is None else str(self.file),
            "frame": None if self.index is None else self.index + 1,
            "state": self.state,
            "distance": self.distance,
            "percentile": self.percentile,
            "confidence": self.confidence,
        }
        if self.label is not None:
            probability = self.probability
            assert probability is not None
            row["class"] = self.label
            row |= {f"{name}_probability": float(p) for name, p in zip(self.classes, probability, strict=True)}
        for name, pixels in (self.areas or {}).items():
            row |= {f"{name}_pixels": pixels, f"{name}_share": self._share(pixels)}
            if self.areas_mm2 is not None:
                row[f"{name}_mm2"] = self.areas_mm2[name]
        return row

    def save(self, folder: str | Path, name: str | None = None, probability: bool = False) -> None:
        """Write ``overlays/NAME.png``, and for segmentation ``masks/NAME.png`` where there is a mask, into a folder.

        Pixel values of the mask are class numbers, and a palette shows them in the overlay's colours.

        Args:
            folder: made where there is none; other files in it stay.
            name: NAME, which may have folders in it; None for the file's name without its suffix, or ``image`` where
                there is no file, and for frames of a clip behind it their number from 1 on, as ``NAME/00001``.
            probability: also write ``probabilities/NAME.npz``, in which ``probability`` is what :attr:`probability`
                is, and ``classes`` are their names; not for an unfamiliar image.

        Raises:
            InputError: the folder cannot be written, or the name leads out of it or is empty.
        """
        if name is not None and (Path(name).name in ("", "..") or Path(name).is_absolute() or ".." in Path(name).parts):
            raise InputError(f"the name of the result is {name!r}, expected one within the folder, such as case/first")
        if name is None:
            name = "image" if self.file is None else without_ending(Path(self.file.name)).name
            name = name if self.index is None else f"{name}/{self.index + 1:05}"
        stale = f"masks/{name}.png", f"probabilities/{name}.npz"  # an unfamiliar image has none
        with output_folder(folder, stale) as part:
            save_into(part, name, self, probability)

    def plot(self, axes: Any = None) -> Any:
        """Draw the overlay, with a title that says what it is and a legend of the classes that are in it.

        Args:
            axes: matplotlib's axes to draw on; None for new ones.

        Returns:
            The axes.

        Raises:
            InputError: matplotlib is not installed.
        """
        if axes is None:
            pyplot = import_package("matplotlib.pyplot", "a plot needs matplotlib", "matplotlib")
            axes = pyplot.figure(layout="constrained").subplots()
        axes.imshow(self._draw(Overlay()))
        axes.set_axis_off()
        words = [] if self.file is None else [self.file.name]
        if self.state == "unfamiliar":
            words.append("unfamiliar")
        elif self.label is not None:
            words.append(in_words(self.label, self.confidence or 0.0))
        elif self.confidence is not None:
            words.append(f"confidence {self.confidence:.2f}")
        axes.set_title(", ".join(words), fontsize="medium")
        patches = import_package("matplotlib.patches", "a plot needs matplotlib", "matplotlib")
        handles = [
            patches.Patch(color=[c / 255 for c in color_of(label)], label=f"{name}, {self._share(pixels):.1%}")
            for label, (name, pixels) in enumerate((self.areas or {}).items(), 1)
            if pixels
        ]
        if handles:
            axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False)
        return axes


@lru_cache(maxsize=8)
def _overlay(classes: tuple[str, ...]) -> Overlay:
    return Overlay(classes)


def save_into(folder: Path, name: str, prediction: Prediction, probability: bool, measured: bool = False) -> None:
    """Write what :meth:`Prediction.save` writes into a folder that is there.

    Raises:
        OSError: it cannot be written.
    """
    Image.fromarray(prediction.overlay(measured)).save(place(folder, "overlays", f"{name}.png"), compress_level=1)
    if prediction.mask is not None:
        save_mask(prediction.mask, place(folder, "masks", f"{name}.png"))
    if probability:
        save_probability(folder, name, prediction)


def save_probability(folder: Path, name: str, prediction: Prediction) -> None:
    """Write ``probabilities/NAME.npz`` into a folder that is there, unless the probability is withheld."""
    found = prediction.probability
    if found is not None:
        path = place(folder, "probabilities", f"{name}.npz")
        np.savez_compressed(path, probability=found, classes=np.array(prediction.classes))


def place(folder: Path, kind: str, name: str) -> Path:
    """The path of an output, whose folder is made."""
    path = folder / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
