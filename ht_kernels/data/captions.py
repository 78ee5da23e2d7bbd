"""Images with captions, in the published layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ht_kernels.errors import InputError

from .layout import image_path, read_pairs, read_rgb, split_names
from .names import find, key


class CaptionDataset(Dataset[tuple[Tensor, tuple[str, ...]]]):
    """A split of a data set: (image, captions) with image (3, S, S) float32 in [0, 1], RGB, and one caption or more.

    Args:
        root: the folder with ``all`` and ``contrastive``.
        name: the data set, such as BUSI.
        split: train, val or test.
        preprocess: makes a tensor of an RGB image: :meth:`ht_kernels.HTCLIP.preprocess` of the model.

    Attributes:
        names: of the images, in the split's order.
        captions: those of each image; captions with the same words count once.

    Raises:
        InputError: the split is missing or empty, or an image has no caption. Reading an item raises it where the image
            is missing or damaged. The message names the file.
    """

    def __init__(self, root: str | Path, name: str, split: str, preprocess: Callable[[Image.Image], Tensor]) -> None:
        self.root, self.preprocess = Path(root), preprocess
        self.names = split_names(self.root, "contrastive", name, split)
        path = self.root / "contrastive" / name / "captions.csv"
        captions = read_captions(path)
        for image in self.names:
            if key(image) not in captions:
                raise InputError(f"{path} has no caption for {image}, which is in the {split} split")
        self.captions = [captions[key(image)] for image in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[str, ...]]:
        return self.image(index), self.captions[index]

    def image(self, index: int) -> Tensor:
        """The image of an item, without its captions."""
        return self.preprocess(read_rgb(find(image_path(self.root, self.names[index]))))


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Captions from a CSV file of image,caption, by the :func:`ht_kernels.data.names.key` of the image's name.

    An image has a row for each of its captions. Commas in a caption need quotes around it. The columns may also be
    named filename and Caption, among others, as in the published tables; folders in front of a name are left out.

    Raises:
        InputError: a row is no such pair, a caption is empty, or two names differ in their folders alone.
    """
    captions: dict[str, dict[str, None]] = {}
    written: dict[str, str] = {}
    for number, name, caption in read_pairs(path, "caption", "a caption (in quotes if it has commas)"):
        image = PurePosixPath(name).name
        other = written.setdefault(key(image), name)
        if len({str(PurePosixPath(each).parent) for each in (other, name)} - {"."}) > 1:
            raise InputError(
                f"{path}, row {number}: {name} and {other} are images in different folders, and all/images has one "
                f"{image}; give each a name of its own, as ht-kernels prepare --dataset captions does"
            )
        captions.setdefault(key(image), {})[" ".join(caption.split())] = None
    if not captions:
        raise InputError(f"{path} has no captions; expected lines of an image's name, a comma and a caption")
    return {image: tuple(found) for image, found in captions.items()}
