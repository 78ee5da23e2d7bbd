"""Training data in memory. Every image is read before training starts, so a damaged file is reported at once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from ht_kernels.data import CaptionDataset, ClassificationDataset, SegmentationDataset
from ht_kernels.data.layout import image_path
from ht_kernels.data.names import find
from ht_kernels.data.phantom import draw_phantom, simulate
from ht_kernels.errors import InputError
from ht_kernels.media.image import opened
from ht_kernels.progress import Watch, unwatched, watched
from ht_kernels.words import counted

DataSet = SegmentationDataset | ClassificationDataset | CaptionDataset

_WITHOUT_LESION = 10
"""One in this many phantoms has no lesion."""


@dataclass(frozen=True)
class Examples:
    """Images and their targets, in memory. A gray 224x224 image takes 50 kB, and its mask another 50 kB.

    Attributes:
        images: (N, 1, S, S) uint8, or RGB (N, 3, S, S) uint8 for a contrastive model.
        targets: masks (N, S, S) uint8; labels (N,) int64; or the captions of each image, as indices (N, M) int64 into
            ``texts``, padded with -1.
        names: the name of each image's file.
        bad: for each image left out, the reason, by name.
        texts: all different captions.
    """

    images: Tensor
    targets: Tensor
    names: tuple[str, ...]
    bad: dict[str, str]
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def check_classes(self, classes: int) -> None:
        """Raise InputError if a target, a mask or a label, is none of ``classes`` classes."""
        largest = int(self.targets.max())
        if largest >= classes:
            raise InputError(f"the data has class {largest}, the model has {counted(classes, 'class')} from 0 on")

    def missing_classes(self, names: Sequence[str]) -> list[str]:
        """The ``names`` of classes 0, 1, ... that no pixel of any mask has."""
        there = torch.bincount(self.targets.flatten(), minlength=len(names))
        return [name for name, count in zip(names, there.tolist(), strict=True) if not count]

    def share(self, percent: int, seed: int, shots: int | None = None) -> Examples:
        """A random subset for few-shot training, as published.

        Args:
            percent: the share of the images, rounded down, but at least one image. If the targets are labels, it is the
                share of each class.
            seed: the published code draws the same images with the same seed, if nothing else uses Python's random
                numbers before.
            shots: take so many images of each class instead, or all of a class that has fewer.

        Raises:
            InputError: ``shots`` is given, and the targets are no labels.
        """
        of_classes = self.targets.dim() == 1
        if shots is not None and not of_classes:
            raise InputError("shots are images of a class, and these images have no classes")
        if percent == 100 and shots is None:
            return self
        groups: dict[int, list[int]] = {}
        for i in range(len(self)):
            groups.setdefault(int(self.targets[i]) if of_classes else 0, []).append(i)
        g = random.Random(seed)
        chosen: list[int] = []
        for group in groups.values():
            count = max(1, len(group) * percent // 100) if shots is None else min(shots, len(group))
            chosen += g.sample(group, count)
        names = tuple(self.names[i] for i in chosen)
        return replace(self, images=self.images[chosen], targets=self.targets[chosen], names=names)


def read_examples(
    dataset: DataSet,
    skip_bad: bool = False,
    watch: Watch = unwatched,
) -> Examples:
    """Read a whole data set. ``watch`` receives how many images were read.

    Raises:
        InputError: a file is missing or damaged; the message names it. With ``skip_bad``, such files are left out, and
            this is raised only if no image is left.
    """
    images: list[Tensor] = []
    targets: list[Tensor] = []
    names, bad = [], {}
    texts: dict[str, int] = {}
    for i, name in enumerate(watched(dataset.names, "reading images", watch)):
        try:
            image, target = dataset[i]
        except InputError as error:
            if not skip_bad:
                raise
            bad[name] = str(error)
            continue
        images.append(_pixels(dataset, image))
        if isinstance(target, Tensor):
            target = target.to(torch.uint8)
        elif isinstance(target, tuple):
            target = torch.tensor([texts.setdefault(text, len(texts)) for text in target])
        targets.append(torch.as_tensor(target))
        names.append(name)
    if not images:
        raise InputError(f"none of the {len(bad)} images can be used; the first: {next(iter(bad.values()))}")
    together = pad_sequence(targets, batch_first=True, padding_value=-1) if texts else torch.stack(targets)
    return Examples(torch.stack(images), together, tuple(names), bad, tuple(texts))


def look_alikes(dataset: DataSet, train: Examples, watch: Watch = unwatched) -> Iterator[tuple[str, Tensor]]:
    """The names and pixels of those images of a data set that may have the same pixels as images that are trained on.

    The pixels are as in :class:`Examples`. Images of another size than those have others, and the head of a file, which
    says the size, is read in 0.2 ms, where a picture of 600x500 takes 19 ms and its mask 16 more. So only what is left
    is decoded, without masks. Images that cannot be used are passed over.

    Args:
        dataset: the data set, all images of which lie in one folder.
        train: images of the same folder, by their names.
        watch: receives how many images were looked at.
    """
    sizes = {_size(dataset, name) for name in train.names}
    for i, name in enumerate(watched(dataset.names, "comparing images of the test split", watch)):
        if None not in sizes and _size(dataset, name) not in (None, *sizes):
            continue
        with suppress(InputError):
            yield name, _pixels(dataset, dataset.image(i))


def _size(dataset: DataSet, name: str) -> tuple[int, ...] | None:
    """The sides of an image in a file, the shorter one first, as it may lie on its side; None if Pillow has none."""
    try:
        with opened(find(image_path(dataset.root, name))) as image:
            return tuple(sorted(image.size))
    except Exception:  # Pillow raises errors of any kind on a damaged file
        return None


def _pixels(dataset: DataSet, image: Tensor) -> Tensor:
    """An item's image as :class:`Examples` has it: gray, or RGB where the data set has a preprocessing of its own."""
    rgb = getattr(dataset, "preprocess", None) is not None
    return ((image if rgb else image[:1]) * 255).round().to(torch.uint8)


def simulate_examples(count: int, seed: int, size: int = 224, workers: int = 0, watch: Watch = unwatched) -> Examples:
    """Simulate ``count`` phantoms and their masks, with all kinds of lesions and scans; every tenth has no lesion.

    ``watch`` receives how many were simulated.
    """
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(_Phantoms(count, seed, size), 16, num_workers=workers)
    images, masks = [], []
    done = 0
    for some, of_some in loader:
        images.append(some)
        masks.append(of_some)
        done += len(some)
        watch("simulating phantoms", done, count)
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
