"""Images in a folder: with masks, which belong to them by name, or with labels."""

from __future__ import annotations

from pathlib import Path

from ht_kernels.errors import InputError

from .found import Found, pictures
from .item import Download, Item
from .mask_values import coding_of
from .own import Own, in_table, labelled, said
from .pairs import Pairs, pair, pair_within


def read_folder(own: Own, images: Path, masks: Path | None = None, labels: Path | None = None) -> Download:
    """Images below a folder.

    Masks lie in the folder ``masks`` or beside the images, and belong to images by their names, as
    :mod:`ht_kernels.data.prepare.pairs` says. With ``labels``, a CSV file of image and label, images have labels.
    Without masks and labels the folders in ``images`` are the classes.

    Raises:
        InputError: a folder is missing or has no pictures, no image has a mask, a table is no table or does not fit, or
            masks have other values than the classes.
    """
    found = _pictures(images)
    if masks is not None and masks.resolve() != images.resolve():
        of_masks = _pictures(masks)
        inside = {each.path.resolve() for each in of_masks}
        others = {each.path.resolve() for each in found}
        if inside < others:
            found = [each for each in found if each.path.resolve() not in inside]
        elif others <= inside:
            of_masks = [each for each in of_masks if each.path.resolve() not in others]
        pairs = pair(found, of_masks)
        if not pairs.pairs:
            raise InputError(
                f"none of the {len(found)} images in {images} has a mask among the {len(of_masks)} in {masks}. Images "
                f"are called {said(found)}; masks {said(of_masks)}. Expected the same names, but for a beginning and "
                "an ending that all masks have, such as _mask; or name the pairs in a table, --table"
            )
        return _with_masks(own, pairs, labels)
    pairs = pair_within(found)
    if pairs.pairs:
        return _with_masks(own, pairs, labels)
    if masks is not None:
        raise InputError(
            f"{images} holds images and masks, and none of its {len(found)} pictures has the name of another and "
            f"something more, such as _mask; they are called {said(found)}. Name the pairs in a table, --table"
        )
    return _with_labels(own, images, found, labels)


def _pictures(folder: Path) -> list[Found]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; expected one with images, also in folders below")
    found = pictures(folder)
    if not found:
        raise InputError(f"{folder} has no images; expected PNG, JPEG, BMP, TIFF, DICOM or the like, also in folders")
    return found


def _with_masks(own: Own, pairs: Pairs, labels: Path | None) -> Download:
    images = [image for image, _ in pairs.pairs]
    read, notes = coding_of([mask.path for _, mask in pairs.pairs], own.classes)
    patients, hints = own.patients(images)
    before, behind = pairs.affix
    if before or behind:
        notes = [f"masks are called {before}NAME{behind}", *notes]
    numbers, names, of_labels = labelled(_in_labels(labels, images), ()) if labels else ({}, (), [])
    download = Download(own.name, [], classes=names, mask_classes=own.classes, notes=[*notes, *of_labels, *hints])
    for image, mask in pairs.pairs:
        name = own.new_name(image)
        label, patient = numbers.get(image.path), patients.get(image.path, name)
        download.items.append(Item(name, image.path, read(mask.path), label, patient))
    download.left_out |= {image.place: "it has no mask" for image in pairs.images}
    download.left_out |= {mask.place: "a mask without an image" for mask in pairs.masks}
    return download


def _with_labels(own: Own, folder: Path, images: list[Found], labels: Path | None) -> Download:
    if labels is not None:
        written = _in_labels(labels, images)
    else:
        written = {image.path: image.folders[0] for image in images if image.folders}
        if len(set(written.values())) < 2:
            raise InputError(
                f"{folder} holds {len(images)} images, called {said(images)}, and nothing to learn: give their masks "
                "with --masks, their labels with --labels, or put the images of each class into a folder of its name"
            )
    numbers, names, notes = labelled(written, own.classes)
    by_class = labels is None
    patients, hints = own.patients(images) if not by_class or own.groups is not None else ({}, [])
    download = Download(own.name, [], classes=names, notes=[*notes, *hints])
    for image in images:
        if image.path in numbers:
            name = own.new_name(image)
            download.items.append(Item(name, image.path, None, numbers[image.path], patients.get(image.path, name)))
        else:
            download.left_out[image.place] = "it has no label"
    return download


def _in_labels(table: Path, images: list[Found]) -> dict[Path, str]:
    labels = in_table(table, "label", images)
    if not labels:
        raise InputError(f"{table} has no label for any of the images {said(images)}; expected rows of image,label")
    return labels
