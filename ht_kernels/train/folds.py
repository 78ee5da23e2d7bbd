"""Cross-validation: train and val together are dealt into folds, each of which validates once. Test is not touched."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ht_kernels.data.layout import read_pairs
from ht_kernels.data.names import key
from ht_kernels.errors import InputError

from .examples import Examples


@dataclass(frozen=True)
class Fold:
    """Fold ``number`` of ``count``, counted from 0.

    Raises:
        InputError: there are less than two, or there is no such fold.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count or self.count < 2:
            raise InputError(f"{_came(f'{self.number}/{self.count}')} 2 or more folds, counted from 0")

    @classmethod
    def parse(cls, text: str) -> Fold:
        """A fold as the command line takes it, such as 0/5.

        Raises:
            InputError: it is none.
        """
        written = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text, re.ASCII)
        if written is None:
            raise InputError(f"{_came(text)} a fold and their number")
        return cls(int(written[1]), int(written[2]))


def _came(text: str) -> str:
    return f"--fold {text} was given, expected K/N such as 0/5:"


def take_fold(
    train: Examples, val: Examples, groups: Mapping[str, str], fold: Fold, seed: int
) -> tuple[Examples, Examples]:
    """What a fold trains on, and what it validates on: each image once among all folds, groups kept whole.

    Groups are taken in random order, the same for each fold. Each goes to the fold that has the fewest images of the
    label of its first image.

    Args:
        train, val: the splits, with masks or labels.
        groups: the group of each image, by the :func:`ht_kernels.data.names.key` of its name; an image that is not
            there is a group of its own.
        fold: which.
        seed: of the order.

    Raises:
        InputError: there are fewer groups than folds, or for labels than folds of any label.
    """
    names = (*train.names, *val.names)
    targets = torch.cat([train.targets, val.targets])
    members: dict[tuple[bool, str], list[int]] = {}
    for i, name in enumerate(names):
        known = groups.get(key(name))
        members.setdefault((known is not None, known or name), []).append(i)
    order = list(members.values())
    random.Random(seed).shuffle(order)
    have: dict[int, list[int]] = {}
    held_out: list[int] = []
    filled = [0] * fold.count
    for together in order:
        label = int(targets[together[0]]) if targets.dim() == 1 else 0
        counts = have.setdefault(label, [0] * fold.count)
        chosen = min(range(fold.count), key=lambda number: (counts[number], filled[number]))
        counts[chosen] += len(together)
        filled[chosen] += len(together)
        if chosen == fold.number:
            held_out += together
    if not all(filled):
        raise InputError(
            f"{len(names)} images of train and val are {len(order)} groups that stay together, too few for "
            f"{fold.count} folds; take fewer folds"
        )
    images = torch.cat([train.images, val.images])

    def of(indices: list[int]) -> Examples:
        return replace(train, images=images[indices], targets=targets[indices], names=tuple(names[i] for i in indices))

    out = set(held_out)
    kept = of([i for i in range(len(names)) if i not in out])
    return kept, replace(of(sorted(held_out)), bad=val.bad)


def read_groups(root: Path, task: str, dataset: str) -> dict[str, str]:
    """The group of each image by the key of its name, from ``groups.csv`` beside the lists; empty without the file.

    Raises:
        InputError: it is no table of ``image,group``.
    """
    path = root / task / dataset / "groups.csv"
    if not path.exists():
        return {}
    return {key(name): group for _, name, group in read_pairs(path, "group", "a group")}
