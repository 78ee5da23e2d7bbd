"""Images with masks, in the published layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ht_kernels.arguments import need_side

from .layout import (
    chosen_class_names,
    image_path,
    mask_path,
    read_gray,
    read_mask_of,
    split_names,
    to_input,
)
from .names import find


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
        InputError: the split is missing or empty, ``classes`` contradicts ``classes.txt``, or no image has
            ``image_size``. Reading an item raises it where the image or its mask is missing or damaged, their sizes
            differ, or the mask has a value that is no class. The message names the file.
    """

    def __init__(
        self, root: str | Path, name: str, split: str, image_size: int = 224, classes: Sequence[str] | None = None
    ) -> None:
        self.root, self.name, self.image_size = Path(root), name, need_side("image_size", image_size)
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
        mask = Image.fromarray(read_mask_of(find(mask_path(self.root, name)), path, image.size, self.classes))
        resized = np.array(mask.resize(size, Image.Resampling.NEAREST), dtype=np.int64)
        return to_input(image, self.image_size), torch.from_numpy(resized)

    def image(self, index: int) -> Tensor:
        """The image of an item, without its mask."""
        return to_input(read_gray(find(image_path(self.root, self.names[index]))), self.image_size)
