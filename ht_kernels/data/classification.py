"""Images with labels, in the published layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ht_kernels.arguments import need_side
from ht_kernels.errors import InputError

from .layout import CLASSES, class_names, image_path, read_gray, read_labels, split_names, to_input
from .names import find, key


class ClassificationDataset(Dataset[tuple[Tensor, int]]):
    """A split of a data set: (image, label) with image (3, S, S) float32 in [0, 1].

    Args:
        root: the folder with ``all`` and ``classification``.
        name: the data set, such as BUSI; see :data:`ht_kernels.data.layout.DATASETS`.
        split: train, val or test.
        image_size: S.
        classes: names of the labels 0, 1, ...; by default those in ``classes.txt`` of the data set, or of
            :data:`ht_kernels.data.layout.CLASSES`. Where no names are known any label below
            :data:`ht_kernels.data.layout.MOST_CLASSES` is accepted.
        preprocess: makes a tensor of an image, which is made gray as published, and given as RGB: such as
            :meth:`ht_kernels.HTCLIP.preprocess` of a contrastive model; by default the published resizing.

    Attributes:
        names: of the images, in the split's order.
        labels: one for each name.
        classes: names of the labels, numbers where no names are known.
        named: whether they are known.

    Raises:
        InputError: the split is missing or empty, an image has no label, a label is not a class, or no image has
            ``image_size``. Reading an item raises it where the image is missing or damaged. The message names the file.
    """

    def __init__(
        self,
        root: str | Path,
        name: str,
        split: str,
        image_size: int = 224,
        classes: Sequence[str] | None = None,
        preprocess: Callable[[Image.Image], Tensor] | None = None,
    ) -> None:
        self.root, self.image_size, self.preprocess = Path(root), need_side("image_size", image_size), preprocess
        self.names = split_names(self.root, "classification", name, split)
        path = self.root / "classification" / name / "labels.csv"
        known = tuple(classes) if classes is not None else class_names(self.root, "classification", name)
        known = known or CLASSES.get(name)
        labels = read_labels(path, known)
        for image in self.names:
            if key(image) not in labels:
                raise InputError(f"{path} has no label for {image}, which is in the {split} split")
        self.named = known is not None
        self.labels = [labels[key(image)] for image in self.names]
        self.classes = known or tuple(str(i) for i in range(max(labels.values()) + 1))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.image(index), self.labels[index]

    def image(self, index: int) -> Tensor:
        """The image of an item, without its label."""
        image = read_gray(find(image_path(self.root, self.names[index])))
        return to_input(image, self.image_size) if self.preprocess is None else self.preprocess(image.convert("RGB"))
