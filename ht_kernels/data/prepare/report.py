"""What became of a download."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ht_kernels.errors import InputError

from ..layout import SPLITS


@dataclass
class Report:
    """What became of a download.

    Attributes:
        dataset: its name in the layout.
        splits: number of images by split.
        exact: (left out, kept) of images with the same pixels.
        near: pairs of images that look nearly the same; they share a split.
        left_out: for each image left out, why; also for each row of a table of captions.
        checksums: the file of checksums.
        notes: what the user should know about how it was read, a sentence each.
    """

    dataset: str
    splits: dict[str, int]
    exact: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    checksums: Path = Path()
    notes: list[str] = field(default_factory=list)

    def count(self, splits: Mapping[str, str], groups: Sequence[int], source: Path) -> None:
        """Count the images of each split.

        Args:
            splits: split by name.
            groups: the group of each image.
            source: the download, for the message.

        Raises:
            InputError: a split is empty.
        """
        counts = Counter(splits.values())
        self.splits = {split: counts[split] for split in SPLITS}
        for split, count in self.splits.items():
            if not count:
                raise InputError(
                    f"{source}: {len(groups)} images leave the {split} split empty; those of one patient and those "
                    f"that look alike were kept together, in {len(set(groups))} groups, and the three splits need "
                    f"{len(SPLITS)} or more (with labels, of one label): add other images"
                )

    def first_left_out(self) -> str:
        """The end of a sentence with the first image that was left out, or "" if there is none."""
        return "; the first: {}: {}".format(*next(iter(self.left_out.items()))) if self.left_out else ""
