"""An exported file as evaluation sees a model, so that it gets the scores and the report that its checkpoint gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ht_kernels.deploy import Session
from ht_kernels.distance_scale import DistanceScale
from ht_kernels.errors import InputError


@dataclass(frozen=True)
class ExportedConfig:
    """What a report says of an exported file and of what runs it."""

    task: str
    num_classes: int
    class_names: tuple[str, ...] | None
    image_size: int
    output: str
    runtime: str
    device: str


class _Familiarity(NamedTuple):
    scale: DistanceScale


class Exported(nn.Module):
    """A session, called as an :class:`ht_kernels.HTCLIP` is: on images (B, 1, S, S) in [0, 1], for logits of size S.

    Args:
        session: of a model for segmentation or classification.

    Raises:
        InputError: the session gives masks or embeddings instead of logits, or its images are not square.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        if session.output not in ("logits", "grid"):
            raise InputError(
                f"the exported file gives {session.output}, and an evaluation needs logits: evaluate its checkpoint, "
                "or export it with --result logits or grid"
            )
        _, height, width = session.frame_shape
        if height != width:
            raise InputError(f"the exported file takes images of {height}x{width}, and an evaluation has square ones")
        self._session = session
        self.familiarity = None if session.familiarity is None else _Familiarity(session.familiarity)
        self.config = ExportedConfig(
            session.task,
            session.num_classes,
            session.class_names,
            height,
            session.output,
            session.runtime,
            session.device,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 of images, (B, K, S, S) for segmentation or (B, K) for classification, on the CPU."""
        return torch.cat([self._whole(self._session(part))[:count] for part, count in self._parts(images)])

    def with_distance(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and the distances (B,) from the training images.

        Raises:
            InputError: the session has no ``familiarity``.
        """
        logits, distances = [], []
        for part, count in self._parts(images):
            result, far = self._session.with_distance(part)
            logits.append(self._whole(result)[:count])
            distances.append(far[:count].float().cpu())
        return torch.cat(logits), torch.cat(distances)

    def _parts(self, images: Tensor) -> list[tuple[Tensor, int]]:
        """The images as frames in batches that the session takes, each with the number of those that count.

        A batch that is too small is filled up with its last image.
        """
        low, _, high = self._session.batch
        frames = (images * 255).round().to(torch.uint8).expand(-1, self._session.frame_shape[0], -1, -1)
        parts = []
        for part in torch.split(frames, high):
            missing = max(0, low - len(part))
            parts.append((torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]).contiguous(), len(part)))
        return parts

    def _whole(self, logits: Tensor) -> Tensor:
        """Logits in the size of the images, of those that a session gives."""
        logits = logits.float().cpu()
        if self._session.output == "logits":
            return logits
        size = self.config.image_size
        return F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
