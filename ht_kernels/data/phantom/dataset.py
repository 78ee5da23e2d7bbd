"""Phantoms without end for training: every index another phantom, scanned with another machine's settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ht_kernels.arguments import whole
from ht_kernels.errors import InputError

from .config import KINDS, Interference, Phantom
from .scan import LinearScan, SectorScan
from .simulate import simulate


def draw_phantom(
    seed: int, sector: bool | None = None, size: tuple[int, int] = (224, 224), kind: str | None = None
) -> Phantom:
    """A random phantom: kind, scan, probe, settings, now and then interference.

    Args:
        seed: the same seed gives the same phantom.
        sector: a sector scan (True), a linear one (False), or either (None).
        size: (height, width) of the image.
        kind: of the lesion, or ``none``; None for any lesion.
    """
    g = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(9,)))
    # All of these are drawn, also those that the arguments replace, so that an argument changes nothing else.
    drawn_kind, is_sector, has_interference = str(g.choice([*KINDS])), g.random() < 0.25, g.random() < 0.1
    far, wide, angle, radius = g.uniform(0.7, 1.3), g.uniform(0.9, 1.25), g.uniform(50, 75), g.uniform(30, 60)
    if is_sector if sector is None else sector:
        scan: LinearScan | SectorScan = SectorScan(depth=90 * far, radius=radius, angle=angle)
        phantom = Phantom(
            frequency=g.uniform(3, 5), f_number=g.uniform(1.8, 3), attenuation=g.uniform(0.4, 0.8), scan=scan
        )
    else:
        scan = LinearScan(depth=40 * far, width=40 * far * wide)
        phantom = Phantom(
            frequency=g.uniform(6, 11), f_number=g.uniform(1.8, 3.2), attenuation=g.uniform(0.4, 0.8), scan=scan
        )
    cycles = float(g.integers(0, 40)), float(g.integers(10, 50))
    added, swing = Interference("lines", cycles, g.uniform(-24, -6)), Interference("stripes", cycles, g.uniform(1, 4))
    interference = added if g.random() < 0.5 else swing
    kind = drawn_kind if kind is None else kind
    contrast = g.uniform(0.6, 1.3)
    slope = phantom.attenuation_slope
    return replace(
        phantom,
        kind=kind,
        size=size,
        cycles=g.uniform(1.8, 3),
        focus=scan.depth * g.uniform(0.3, 0.6),
        focal_zone=scan.depth * g.uniform(0.25, 0.5),
        looks=int(g.integers(1, 4)),
        tgc=slope - g.uniform(0, 8) / (scan.depth / 10),  # up to 8 dB short at the bottom
        # Frequencies are chosen so that echoes from the bottom still stand out of the noise.
        noise=-slope * scan.depth / 10 - g.uniform(15, 40),
        gain=g.uniform(-34, -22),
        dynamic_range=g.uniform(50, 68),
        contrast=KINDS[kind].contrast * contrast if kind in KINDS else None,
        interference=interference if has_interference else None,
    )


class PhantomDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """Simulated images with masks and labels; an item follows from the seed and its index alone.

    Item: image (3, H, W) float32 in [0, 1], gray repeated; mask (H, W) int64, 0 or 1; label, an index into ``LABELS``.

    Args:
        length: how many phantoms there are.
        seed: data sets of different seeds have no phantom in common.
        phantom: scan this phantom every time; None for another one at every index.
        size: (height, width) of drawn phantoms.

    Raises:
        InputError: the length is less than 1.
    """

    def __init__(
        self, length: int, seed: int = 0, phantom: Phantom | None = None, size: tuple[int, int] = (224, 224)
    ) -> None:
        if (whole(length) or 0) < 1:
            raise InputError(f"a dataset of {length!r} phantoms was asked for, expected 1 or more")
        self.length, self.seed, self.phantom, self.size = length, seed, phantom, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        if not -self.length <= index < self.length:
            raise IndexError(f"index {index} is out of range for {self.length} phantoms")
        state: Any = np.random.SeedSequence((self.seed, index % self.length)).generate_state(1, np.uint64)
        seed = int(state[0])
        sample = simulate(self.phantom or draw_phantom(seed, size=self.size), seed)
        image = torch.from_numpy(sample.image).float().div_(255)
        return image.expand(3, -1, -1).contiguous(), torch.from_numpy(sample.mask).long(), sample.label
