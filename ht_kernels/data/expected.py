"""What a folder of data looks like, for the message where there is none."""

from __future__ import annotations

_LISTS = "train.txt, val.txt, test.txt"
_TREES = {
    "segmentation": (
        "all/images/NAME.png",
        "all/masks/NAME.png",
        f"segmentation/DATASET/{_LISTS}   names of images, one a line",
    ),
    "classification": (
        "all/images/NAME.png",
        f"classification/DATASET/{_LISTS}   names of images, one a line",
        "classification/DATASET/labels.csv   image,label",
    ),
    "contrastive": (
        "all/images/NAME.png",
        f"contrastive/DATASET/{_LISTS}   names of images, one a line",
        "contrastive/DATASET/captions.csv   filename,Caption",
    ),
}
_COMMANDS = {
    "segmentation": "folder --images IMAGES --masks MASKS",
    "classification": "folder --images IMAGES --labels labels.csv",
    "contrastive": "captions captions.csv --name DATASET",
}


def expected_layout(task: str) -> str:
    """Lines with the layout of a task's data as a tree, and the command that makes it of one's own images."""
    tree = "".join(f"\n  DATA/{line}" for line in _TREES[task])
    return f"\nexpected{tree}\nwhich ht-kernels prepare makes: ht-kernels prepare {_COMMANDS[task]} --output DATA"
