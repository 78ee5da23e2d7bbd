"""Splits that keep each group of images together."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from ht_kernels.errors import InputError

from ..layout import SPLITS

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Of the images of public downloads."""

SHARES_OF_OWN = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Of one's own images, of which there are often few."""


def parse_shares(text: str) -> dict[str, float]:
    """The shares in a text such as 70/15/15: whole percentages of train, val and test.

    Raises:
        InputError: they are not three, one is 0, or they do not add up to 100.
    """
    parts = text.split("/")
    percents = [int(part) for part in parts if part.isdecimal()]
    if len(parts) != len(SPLITS) or len(percents) != len(SPLITS) or min(percents) < 1 or sum(percents) != 100:
        raise InputError(
            f"--split {text} was given, expected three percentages above 0 that add up to 100, of train, val and test, "
            "such as 70/15/15"
        )
    return {split: percent / 100 for split, percent in zip(SPLITS, percents, strict=True)}


class Groups:
    """Which images belong together (disjoint sets)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, i: int) -> int:
        """The first image of the group of image i."""
        while self._parent[i] != i:
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Make the groups of images i and j one."""
        first, second = sorted((self.find(i), self.find(j)))
        self._parent[second] = first


def split_groups(
    groups: Sequence[int], labels: Sequence[int | None], seed: int, shares: Mapping[str, float] = SHARES
) -> list[str]:
    """A split for each image; groups stay whole, and each label is divided by the shares as nearly as they allow.

    Groups are taken in random order. Each goes to the split that is least filled with the label of its first image.
    """
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    order = list(members.values())
    random.Random(seed).shuffle(order)
    have = {label: dict.fromkeys(SPLITS, 0) for label in labels}
    splits = [""] * len(groups)
    for together in order:
        filled = have[labels[together[0]]]
        split = min(SPLITS, key=lambda name: filled[name] / shares[name])
        filled[split] += len(together)
        for i in together:
            splits[i] = split
    return splits
