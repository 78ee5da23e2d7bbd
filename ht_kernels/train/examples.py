"""Training data in memory: every image is read once, so what is wrong with one is known before training starts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ht_kernels.data import ClassificationDataset, SegmentationDataset
from ht_kernels.data.phantom import draw_phantom, simulate
from ht_kernels.errors import InputError

_WITHOUT_LESION = 10
"""Every tenth phantom has no lesion."""


@dataclass(frozen=True)
class Examples:
    """Images with what they should give; a 224x224 image takes 50 kB, and its mask another 50 kB.

    Attributes:
        images: (N, 1, S, S) uint8.
        targets: masks (N, S, S) uint8, or labels (N,) int64.
        names: N, of the files.
        bad: why an image was left out, by name.
    """

    images: Tensor
    targets: Tensor
    names: tuple[str, ...]
    bad: dict[str, str]

    def __len__(self) -> int:
        return len(self.names)

    def share(self, percent: int, seed: int) -> Examples:
        """A random part of ``percent``, at least one image: the few shots of few-shot training."""
        if percent == 100:
            return self
        chosen = random.Random(seed).sample(range(len(self)), max(1, len(self) * percent // 100))
        return Examples(self.images[chosen], self.targets[chosen], tuple(self.names[i] for i in chosen), self.bad)


def read_examples(dataset: SegmentationDataset | ClassificationDataset, skip_bad: bool = False) -> Examples:
    """All of a data set.

    Raises:
        InputError: a file is missing or damaged, named in the message; with ``skip_bad`` only if all of them are.
    """
    images, targets, names, bad = [], [], [], {}
    for i, name in enumerate(dataset.names):
        try:
            image, target = dataset[i]
        except InputError as error:
            if not skip_bad:
                raise
            bad[name] = str(error)
            continue
        images.append((image[:1] * 255).round().to(torch.uint8))
        targets.append(target.to(torch.uint8) if isinstance(target, Tensor) else torch.tensor(target))
        names.append(name)
    if not images:
        raise InputError(f"none of the {len(bad)} images can be used; the first: {next(iter(bad.values()))}")
    return Examples(torch.stack(images), torch.stack(targets), tuple(names), bad)


def simulate_examples(count: int, seed: int, size: int = 224, workers: int = 0) -> Examples:
    """Phantoms of all kinds of lesions and scans, every tenth without a lesion, with their masks."""
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(_Phantoms(count, seed, size), 16, num_workers=workers)
    images, masks = zip(*loader, strict=True)
    return Examples(torch.cat(images), torch.cat(masks), tuple(f"phantom {i} of seed {seed}" for i in range(count)), {})


class _Phantoms(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, count: int, seed: int, size: int) -> None:
        self.count, self.seed, self.size = count, seed, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        state: Sequence[int] = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64).tolist()
        kind = "none" if index % _WITHOUT_LESION == _WITHOUT_LESION - 1 else None
        sample = simulate(draw_phantom(state[0], size=(self.size, self.size), kind=kind), state[0])
        return torch.from_numpy(sample.image)[None], torch.from_numpy(sample.mask)
