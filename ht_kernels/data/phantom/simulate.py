"""From a phantom and a seed to images with masks: one image, or a clip that moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ht_kernels.arguments import whole
from ht_kernels.errors import InputError

from .config import LABELS, Phantom
from .echo import compress, envelope, excess_loss
from .lesion import Lesion, draw_lesion
from .motion import moved, origin
from .scan import beam_space, convert, pixel_grid, pixel_space
from .speckle import scatterers
from .tissue import draw_tissue


@dataclass(frozen=True)
class Sample:
    """One simulated image.

    Attributes:
        image: (H, W) uint8.
        mask: (H, W) uint8, 1 where a pixel's centre lies in the lesion, else 0.
        label: index into :data:`LABELS`.
        envelope: (samples, lines) float32, what was compressed and scan converted; 1 in the mean square for tissue
            of 0 dB.
        lesion: its outline in frame 0, None where there is none.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    label: int
    envelope: NDArray[np.float32]
    lesion: Lesion | None

    @property
    def kind(self) -> str:
        """The label's name."""
        return LABELS[self.label]


def simulate(config: Phantom, seed: int) -> Sample:
    """One image of a phantom; the same seed gives the same bits."""
    return next(_frames(config, seed))


def clip(config: Phantom, seed: int, frames: int) -> list[Sample]:
    """A clip of a phantom whose tissue moves as ``config.motion`` says; its first frame is that of ``simulate``.

    Raises:
        InputError: fewer than one frame was asked for.
    """
    if (whole(frames) or 0) < 1:
        raise InputError(f"a clip of {frames!r} frames was asked for, expected 1 or more")
    return list(islice(_frames(config, seed), frames))


def _frames(config: Phantom, seed: int) -> Iterator[Sample]:
    """Frame after frame, without end."""
    scenes, speckles, noise = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    scan, size = config.scan, config.size
    lesion = draw_lesion(config, scenes) if config.kind != "none" else None
    tissue = draw_tissue(config, scenes)
    share, replaced, contrast = torch.zeros(()), 0.0, 0.0
    if lesion is not None:
        share = lesion.share(*beam_space(scan))
        replaced = _mean_level(tissue[share > 0.5])
        contrast = lesion.kind.contrast if config.contrast is None else config.contrast
    fields = scatterers(speckles, config.looks, scan.samples, scan.lines)
    others: Tensor | None = None
    frame = 0
    while True:
        field, background = fields, tissue
        if frame > 0:
            if others is None:
                others = scatterers(speckles, *fields.shape)
            # Cosine and sine mix two independent fields: the power stays 1, and after a quarter turn all has changed.
            turn = math.pi / 2 * frame / config.motion.decorrelation
            field, background = moved(config, frame, fields * math.cos(turn) + others * math.sin(turn), tissue)
            if lesion is not None:
                share = lesion.share(*origin(config, frame, *beam_space(scan)))
        attenuation = torch.ones_like(background)
        if lesion is not None:
            # A lesion is a quarter as uneven as the tissue it replaces.
            background = background + share * (contrast - 0.75 * (background - replaced))
            attenuation = attenuation + share * (lesion.kind.attenuation - 1)
        amplitude = envelope(config, background, excess_loss(config, attenuation), field, noise)
        image = convert(compress(config, amplitude), scan, size).mul_(255).round_().to(torch.uint8)
        mask = torch.zeros(size, dtype=torch.uint8)
        if lesion is not None:
            inside = lesion.contains(*origin(config, frame, *pixel_space(scan, size)))
            mask = (inside & pixel_grid(scan, size)[1]).to(torch.uint8)
        yield Sample(image.numpy(), mask.numpy(), config.label, amplitude.numpy(), lesion)
        frame += 1


def _mean_level(levels: Tensor) -> float:
    """Mean power in dB of levels in dB."""
    return 10 * math.log10(float((levels * (math.log(10) / 10)).exp().mean()))
