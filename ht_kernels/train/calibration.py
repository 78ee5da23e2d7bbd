"""Calibration: what a trained model's features of its training and validation images are like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ht_kernels.clip import HTCLIP
from ht_kernels.clip.weight_file import read_content
from ht_kernels.distance_scale import DistanceScale
from ht_kernels.errors import InputError
from ht_kernels.nn import Familiarity
from ht_kernels.nn.familiarity import pooled

from .examples import Examples
from .methods import merged


def calibrate(model: HTCLIP, train: Examples, val: Examples, batch: int, device: Any) -> None:
    """Set ``model.familiarity`` from the examples that the model was trained on, and those that it was validated on.

    Call it last, with the weights that are kept: further training changes the features.

    Args:
        model: a model for segmentation or classification, on ``device``. It is left in evaluation mode.
        train, val: the examples, whose images are not augmented.
        batch: the number of images to run at once.
        device: where the model is.

    Raises:
        InputError: the model is contrastive, there are too few images, or the features are not finite; see
            :meth:`ht_kernels.nn.Familiarity.fit`.
    """
    if model.config.task == "contrastive":
        raise InputError("a contrastive model has no feature layers to measure a distance with")
    fitted = Familiarity.fit(*(pooled_features(model, examples.images, batch, device) for examples in (train, val)))
    model.familiarity = fitted.to(device)


def calibrate_file(
    path: Path, model: HTCLIP, method: str, train: Examples, val: Examples, batch: int, device: Any
) -> DistanceScale:
    """Calibrate the checkpoint that a training wrote, and return what its distances mean.

    Args:
        path: the checkpoint, which is replaced by the same with its ``familiarity``.
        model: the model that was trained, on ``device``. It gets the weights of the checkpoint.
        method: the method that it was trained by.
        train, val, batch, device: as for :func:`calibrate`.

    Raises:
        InputError: as for :func:`calibrate`, or the checkpoint is missing or damaged; it is then unchanged.
    """
    best = merged(model, method)
    best.load_state_dict(read_content(path, "checkpoint file"), strict=False)
    calibrate(best, train, val, batch, device)
    best.save(path)
    assert best.familiarity is not None
    return best.familiarity.scale


@torch.no_grad()
def pooled_features(model: HTCLIP, images: Tensor, batch: int, device: Any) -> Tensor:
    """The pooled features (N, F) of images (N, C, S, S) uint8, on the CPU, without augmentation and dropout."""
    model.eval()
    parts = [pooled(model.features(part.to(device).float() / 255)) for part in torch.split(images, batch)]
    return torch.cat([part.cpu() for part in parts])
