"""Images with captions from a table: MedPix, PMC-CURD and ROCOv2 as the published code has them, and others like them.

The table is a CSV file with the columns ``filename`` and ``Caption``, beside or above the images, with a row for each
caption. A name may have folders, and images of the same name in two folders stay two images.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ht_kernels.errors import InputError
from ht_kernels.files import check_output_folder, output_folder
from ht_kernels.progress import Watch, unwatched, watched

from ..layout import IMAGE_SUFFIXES, image_path, read_pairs, read_rgb
from ..names import key, text_of, visible
from .duplicates import difference_hash, near_duplicates, pixel_hash
from .found import files_below
from .report import Report
from .splits import Groups, split_groups
from .write import check_data_set, check_name, write_captions, write_checksums, write_groups, written_before

_Place = tuple[str, ...]
"""The folders of an image below the table, and its name, each as a :func:`ht_kernels.data.names.key`."""


def prepare_captions(
    source: str | Path, name: str, output: str | Path, seed: int = 0, watch: Watch = unwatched
) -> Report:
    """Turn a table of captions and its images into the published layout.

    Images are copied as they are, under the name of the data set, their folders and their own name. Of images with the
    same pixels the first is kept, with the captions of all. Near duplicates share a split. Images that are missing or
    damaged, and rows without a caption, are left out and reported. Other data sets in the output folder stay. The new
    one appears complete or not at all.

    Args:
        source: the table, or a folder with one table; images lie in its folder, or below it.
        name: the data set's name in the layout, such as MedPix: letters, digits, - and _.
        output: the folder that gets ``all`` and ``contrastive``.
        seed: of the splits.
        watch: receives how many images were read, and then how many were written.

    Raises:
        InputError: there is no such table or several, a row is no pair, two names of the table mean the same file, no
            image can be used, nothing is left for a split, or the output is no folder or cannot be written. Nothing is
            written then.
    """
    source, output = Path(source), Path(output)
    check_name(name)
    table = _table(source)
    check_output_folder(output)
    report = Report(name, {})
    captions = _captions_of_files(table, report)
    check_data_set(output, name, [_new_name(name, path.relative_to(table.parent)) for path in captions])
    kept: dict[str, Path] = {}
    becomes: dict[str, Path] = {}
    hashes = []
    first: dict[str, str] = {}
    words: dict[str, dict[str, None]] = {}
    for path, found in watched(list(captions.items()), "reading images", watch):
        try:
            image = read_rgb(path)
        except InputError as error:
            report.left_out[path.relative_to(table.parent).as_posix()] = str(error)
            continue
        new = _new_name(name, path.relative_to(table.parent))
        original = first.setdefault(pixel_hash(image), new)
        words.setdefault(original, {}).update(found)
        if original is not new:
            report.exact.append((new, original))
            continue
        other = becomes.setdefault(key(new), path)
        if other is not path:
            raise InputError(f"{other} and {path} would both become {new}; rename or remove one")
        kept[new] = path
        hashes.append(difference_hash(image.convert("L")))
    if not kept:
        raise InputError(f"{table} has no image with a caption that can be used{report.first_left_out()}")
    names, groups = list(kept), Groups(len(kept))
    for i, j in near_duplicates(hashes):
        groups.join(i, j)
        report.near.append((names[i], names[j]))
    of_images = [groups.find(i) for i in range(len(names))]
    splits = dict(zip(names, split_groups(of_images, [None] * len(names), seed), strict=True))
    report.count(splits, of_images, table)
    with output_folder(output, written_before(output, name), strict=True) as folder:
        for new, path in watched(list(kept.items()), "writing images", watch):
            target = image_path(folder, new)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        write_captions(folder, name, splits, words)
        together = {new: names[group] for new, group in zip(names, of_images, strict=True)}
        write_groups(folder / "contrastive" / name, together)
        report.checksums = output / write_checksums(folder, name, names, masked=()).name
    return report


def _table(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise InputError(f"there is no file or folder {source}; expected a table of captions, or a folder with one")
    tables = [path for path in visible(source) if path.suffix.lower() == ".csv"]
    if len(tables) != 1:
        came = f"several CSV files, {', '.join(path.name for path in tables)}" if tables else "no CSV file"
        raise InputError(f"{source} has {came}, expected one of filename,Caption: name the file itself instead")
    return tables[0]


def _captions_of_files(table: Path, report: Report) -> dict[Path, dict[str, None]]:
    """The captions of each file that the table names, in its order."""
    places = _places(table.parent)
    captions: dict[Path, dict[str, None]] = {}
    meant: dict[Path, _Place] = {}
    for number, name, caption in read_pairs(
        table, "caption", "a caption (in quotes if it has commas)", report.left_out
    ):
        written = PurePosixPath(name.replace("\\", "/"))
        place = tuple(key(part) for part in written.parts if part not in ("/", ".."))
        path = _file(place, places, table.parent)
        if isinstance(path, str):
            report.left_out.setdefault(name, path)
            continue
        other = meant.get(path, place)
        if not (_ends_with(other, place) or _ends_with(place, other)):
            raise InputError(
                f"{table}, row {number}: {name} and {'/'.join(other)} are images in different folders, and there is "
                f"{path} alone; put each image where the table says"
            )
        meant[path] = max(other, place, key=len)
        captions.setdefault(path, {})[" ".join(caption.split())] = None
    return captions


def _places(folder: Path) -> dict[str, dict[_Place, Path]]:
    """The images below a folder by their place, for each name."""
    places: dict[str, dict[_Place, Path]] = {}
    for folders, path in files_below(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            place = tuple(map(key, (*folders, text_of(path))))
            places.setdefault(place[-1], {})[place] = path
    return places


def _file(place: _Place, places: Mapping[str, Mapping[_Place, Path]], folder: Path) -> Path | str:
    """The file that a name in the table means, or a clause that says why there is none.

    That is the file at this place below the table or its folder ``images``; else the only one whose place ends with the
    name, or whose place the name ends with.
    """
    known = places.get(place[-1], {}) if place else {}
    for exact in (place, ("images", *place)):
        if exact in known:
            return known[exact]
    fitting = [path for other, path in sorted(known.items()) if _ends_with(other, place) or _ends_with(place, other)]
    if len(fitting) > 1:
        shown = " and ".join(path.relative_to(folder).as_posix() for path in fitting[:2])
        return f"it is {shown}; write the folder in the table"
    return fitting[0] if fitting else f"there is no such image below {folder}"


def _ends_with(place: _Place, end: _Place) -> bool:
    return place[-len(end) :] == end


def _new_name(dataset: str, place: Path) -> str:
    parts = [text_of(Path(part)) for part in place.parts]
    return "_".join([dataset.lower(), *(parts[1:] if len(parts) > 1 and parts[0] == "images" else parts)])
