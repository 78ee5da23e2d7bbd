"""A download or a user's images into the published layout: duplicates found, splits that keep groups together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ht_kernels.errors import InputError
from ht_kernels.files import check_output_folder, output_folder
from ht_kernels.progress import Watch, unwatched, watched
from ht_kernels.words import counted

from ..layout import SPLITS, read_gray
from ..names import key, text_of
from .duplicates import difference_hash, near_duplicates, pixel_hash
from .item import Download, Item, Unusable
from .report import Report
from .splits import SHARES, Groups, split_groups
from .write import (
    check_data_set,
    write_checksums,
    write_classes,
    write_groups,
    write_image,
    write_splits,
    written_before,
)


def lay_out(
    download: Download,
    source: Path,
    output: Path,
    seed: int = 0,
    header: bool = False,
    shares: Mapping[str, float] = SHARES,
    watch: Watch = unwatched,
) -> Report:
    """Write what was found into the published layout.

    Args:
        download: what was found.
        source: where, for messages.
        output: the folder that gets ``all``, and ``segmentation`` and ``classification`` where there are masks and
            labels.
        seed: of the splits that the download does not prescribe.
        header: begin ``labels.csv`` with the line ``image,label``, which the published code cannot read.
        shares: of the splits, which add up to 1.
        watch: receives how many images were read, and then how many were written.

    Raises:
        InputError: a file is damaged, two images would have the same name, nothing is left for a split, or the output
            is no folder or cannot be written. Nothing is written then.
    """
    check_output_folder(output)
    report = Report(download.dataset, {}, left_out=download.left_out, notes=download.notes)
    _check_names(download)
    check_data_set(output, download.dataset, [item.name for item in download.items])
    items, groups = _grouped(download, report, watch)
    if not items:
        raise InputError(f"{source} has no image that can be used{report.first_left_out()}")
    splits = _splits(items, groups, seed, report, shares)
    report.count(splits, groups, source)
    used = [item for item in items if item.name in splits]
    masked = {item.name: splits[item.name] for item in used if item.mask is not None}
    labels = {item.name: item.label for item in used if item.label is not None}
    with output_folder(output, written_before(output, download.dataset), strict=True) as folder:
        for item in watched(used, "writing images", watch):
            image = read_gray(item.image)
            mask = None if item.mask is None else item.mask(item.image, image.size)
            write_image(folder, item.name, np.array(image), mask, max(2, len(download.mask_classes)))
        write_splits(folder, download.dataset, splits, labels, header=header, masked=masked)
        together = {item.name: items[group].name for item, group in zip(items, groups, strict=True)}
        for task, names, classes in (
            ("segmentation", masked, download.mask_classes),
            ("classification", labels, download.classes),
        ):
            if names:
                write_groups(folder / task / download.dataset, {name: together[name] for name in names})
            if names and classes:
                write_classes(folder / task / download.dataset, classes)
        report.checksums = output / write_checksums(folder, download.dataset, list(splits), masked).name
    return report


def _check_names(download: Download) -> None:
    seen: dict[str, Path] = {}
    for item in download.items:
        other = seen.setdefault(key(item.name), item.image)
        if other is not item.image:
            raise InputError(f"{other} and {item.image} would both become {item.name}; rename or remove one")


def _grouped(download: Download, report: Report, watch: Watch) -> tuple[list[Item], list[int]]:
    """The items that can be used, without exact duplicates, and the group of each.

    A group joins a patient's images and near duplicates.
    """
    kept: dict[str, Item] = {}
    hashes = []
    shares: dict[str, float] = {}
    # Of images with the same pixels the first is kept, and those of the download's own test split come first.
    ordered = sorted(download.items, key=lambda item: item.split != "test")
    for item in watched(ordered, "reading images", watch):
        image = read_gray(item.image)
        try:
            if item.mask is not None:  # it is read before anything is written
                shares[text_of(item.image)] = float((item.mask(item.image, image.size) != 0).mean())
        except Unusable as why:
            report.left_out[text_of(item.image)] = str(why)
            continue
        original = kept.setdefault(pixel_hash(image), item)
        if original is item:
            hashes.append(difference_hash(image))
        else:
            report.exact.append((item.name, original.name))
            report.left_out[item.name] = f"the same pixels as {original.name}"
    report.notes += _odd_masks(shares)
    items = list(kept.values())
    groups = Groups(len(items))
    first: dict[str, int] = {}
    for i, item in enumerate(items):
        groups.join(i, first.setdefault(item.group, i))
    for i, j in near_duplicates(hashes) if hashes else []:
        groups.join(i, j)
        report.near.append((items[i].name, items[j].name))
    return items, [groups.find(i) for i in range(len(items))]


def _odd_masks(shares: Mapping[str, float]) -> list[str]:
    """Notes on masks that may be wrong, by the share of the image that is not background, by the image's name."""
    notes = []
    full = [name for name, share in shares.items() if share == 1]
    large = [name for name, share in shares.items() if share > 0.5]
    empty = [name for name, share in shares.items() if share == 0]
    of_all = f"of {counted(len(shares), 'mask')}"
    if 2 * len(large) > len(shares):
        notes.append(f"{len(large)} {of_all} cover more than half of the image, as inverted masks do: look at them")
    elif full:
        others = f" and {len(full) - 1} more" if full[1:] else ""
        notes.append(f"the mask of {full[0]}{others} has no background: look whether the whole image is meant")
    if empty:
        others = f" and {len(empty) - 1} more" if empty[1:] else ""
        notes.append(f"{len(empty)} {of_all} have background alone: {empty[0]}{others}")
    return notes


def _splits(
    items: list[Item], groups: list[int], seed: int, report: Report, shares: Mapping[str, float]
) -> dict[str, str]:
    """The split of each image by name; prescribed splits are kept.

    Where a prescribed image lies in a later split (val, test) than others of its group, those others are left out, so
    that nothing is tested on that resembles what was trained on.
    """
    drawn = split_groups(groups, [item.label for item in items], seed, shares)
    held_out: dict[int, str] = {}
    for item, group in zip(items, groups, strict=True):
        if item.split is not None:
            held_out[group] = max(item.split, held_out.get(group, "train"), key=SPLITS.index)
    tested = "test" in held_out.values()
    splits = {}
    for item, group, split in zip(items, groups, drawn, strict=True):
        wanted = item.split or ("train" if split == "test" and tested else split)
        if wanted == held_out.get(group, wanted):
            splits[item.name] = wanted
        else:
            alike = "nearly the same as" if item.group == item.name else "of one group with"
            report.left_out[item.name] = f"{alike} an image of the {held_out[group]} split"
    return splits
