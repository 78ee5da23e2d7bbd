"""Frames to calibrate on: how many, whether they are of the model's kind, and that others check the result."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ht_kernels.errors import InputError

from .onnx_run import FRAMES_AT_ONCE

if TYPE_CHECKING:
    from .folded import FoldedHTCLIP

LEAST = 8
"""The smallest number of frames to calibrate on. Scales reach as far as the largest activations of these frames. A new
frame of their kind goes beyond the largest of n with a probability of 1 / (n + 1), in each tensor: one of nine where n
is 8. The gate cannot make up for fewer, because it sees few frames itself, those that were not calibrated on."""


def check_count(frames: int, precision: str) -> None:
    """Refuse to calibrate on too few frames.

    Raises:
        InputError: there are fewer than :data:`LEAST`.
    """
    if frames < LEAST:
        raise InputError(
            f"{precision} needs at least {LEAST} frames to calibrate on, beside those to check on, and there were "
            f"{frames}: one frame in nine goes beyond the largest activations of eight others, and more where they "
            "are fewer. Name more of them"
        )


def why_unlike(folded: FoldedHTCLIP, frames: Tensor, precision: str) -> str | None:
    """A sentence if frames to calibrate on are unlike the training images, as far as the model can tell.

    With new frames of the kind of the training images, about one in a hundred is beyond the limit.
    """
    if folded.familiarity is None:
        return None
    scale, device = folded.familiarity.scale, folded.position.device
    with torch.inference_mode():
        parts = [folded.with_distance(part.to(device))[1] for part in torch.split(frames, FRAMES_AT_ONCE)]
    distances = torch.cat(parts)
    count = sum(map(scale.unfamiliar, distances.tolist()))
    if 2 * count <= len(frames):
        return None
    return (
        f"{count} of the {len(frames)} frames to calibrate on are unlike the training images (median distance "
        f"{distances.median():.2f}, limit {scale.limit:.2f}), so the scales of {precision} are for other images than "
        "those that the model is for: calibrate on training images"
    )


def check_others(frames: Tensor, known: Collection[str]) -> None:
    """Refuse to check on frames that were calibrated with.

    Args:
        frames: the frames (B, C, H, W) to check on.
        known: the hashes of the frames that were calibrated with.

    Raises:
        InputError: some of ``frames`` are among them, so they cannot tell how the model does on others.
    """
    common = len(set(known) & set(hashes(frames)))
    if common:
        raise InputError(f"{common} of the {len(frames)} frames to check on were calibrated with; expected others")


def without(frames: Tensor, others: Tensor) -> Tensor:
    """The frames (B, C, H, W) that are not among ``others``, in their order."""
    known = set(hashes(others))
    return frames[torch.tensor([name not in known for name in hashes(frames)], dtype=torch.bool)]


def hashes(frames: Tensor) -> list[str]:
    """What stands for each of the frames (B, C, H, W) in a list of those that were calibrated with."""
    return [hashlib.sha256(frame.cpu().numpy().tobytes()).hexdigest()[:16] for frame in frames]
