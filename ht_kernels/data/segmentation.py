"""Images with masks, in the published layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ht_kernels.errors import InputError
from ht_kernels.media.class_mask import MOST, numbers_in
from ht_kernels.media.mask import read_mask

from .layout import chosen_class_names, image_path, mask_path, read_gray, read_mask_of, split_names, to_input
from .names import find

_ONE = 1, 2**8 - 1, 2**16 - 1
"""What a lesion alone is drawn with: 1, or white in 8 or 16 bits."""


class SegmentationDataset(Dataset[tuple[Tensor, Tensor]]):
    """A split of a data set: (image, mask) with image (3, S, S) float32 in [0, 1] and mask (S, S) int64.

    A mask has the numbers of classes, from 0, the background, on. Of two classes, which are background and lesion where
    nothing names them, its file may have any two values; of more the values in the file are the numbers.

    Args:
        root: the folder with ``all`` and ``segmentation``.
        name: the data set, such as BUSI; see :data:`ht_kernels.data.layout.DATASETS`.
        split: train, val or test.
        image_size: S.
        classes: names of the classes, background first; by default those in ``classes.txt`` of the data set.

    Attributes:
        names: of the images, in the split's order.
        classes: names of the classes, background first.
        named: whether an argument or a file named them.

    Raises:
        InputError: the split is missing or empty, or ``classes`` contradicts ``classes.txt``. Reading an item raises it
            where the image or its mask is missing or damaged, their sizes differ, or the mask has a value that is no
            class. The message names the file.
    """

    def __init__(
        self, root: str | Path, name: str, split: str, image_size: int = 224, classes: Sequence[str] | None = None
    ) -> None:
        self.root, self.name, self.image_size = Path(root), name, image_size
        self.names = split_names(self.root, "segmentation", name, split)
        known = chosen_class_names(self.root, "segmentation", name, classes, "classes")
        self.named = known is not None
        self.classes = known or ("background", "lesion")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        name, size = self.names[index], (self.image_size, self.image_size)
        path = find(image_path(self.root, name))
        image = read_gray(path)
        mask = Image.fromarray(read_mask_of(self._mask(name), path, image.size, self.classes))
        resized = np.array(mask.resize(size, Image.Resampling.NEAREST), dtype=np.int64)
        return to_input(image, self.image_size), torch.from_numpy(resized)

    def image(self, index: int) -> Tensor:
        """The image of an item, without its mask."""
        return to_input(read_gray(find(image_path(self.root, self.names[index]))), self.image_size)

    def _mask(self, name: str) -> Path:
        return find(mask_path(self.root, name))


def check_two_values(sets: Sequence[SegmentationDataset], advice: str) -> None:
    """Raise InputError where the masks of data sets that are read as two classes have the numbers of more.

    A mask alone may have two values, 0 and 2, and another 0 and 1: so all are looked at. Where the classes were named,
    values that are no small numbers may differ from mask to mask. Masks that cannot be read are passed over.

    ``advice`` is the end of the message, and says what to do.
    """
    masks: Counter[int] = Counter()
    lesions: set[int] = set()
    several = False
    for data in sets:
        for name in data.names:
            path = data._mask(name)
            numbers = numbers_in(path)
            masks.update(numbers)
            if len(numbers) > 2:
                several = several or _are_classes(path, numbers)
            elif numbers[-1:] > (0,) and (numbers[-1] < MOST or not data.named):
                lesions.add(1 if numbers[-1] in _ONE else numbers[-1])
    if several or len(lesions) > 1:
        found = ", ".join(f"{value} in {count}" for value, count in sorted(masks.items())[:MOST])
        found += ", ..." if len(masks) > MOST else ""
        count = sum(len(data) for data in sets)
        raise InputError(
            f"the {count} masks of {sets[0].name} have more than two values, so they are not read as two classes. "
            f"The values, and in how many masks they are: {found}. {advice}"
        )


def _are_classes(path: Path, numbers: Sequence[int]) -> bool:
    """Whether three or more values of a mask are classes, and not the gray edges of one."""
    if numbers[-1] < MOST:
        return True
    try:
        read_mask(path)
    except InputError:
        return True
    return False
