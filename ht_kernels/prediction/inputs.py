"""The files that a user names, alone or by their folders, the names of their results, and where these may go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os.path import abspath, commonpath
from pathlib import Path

from ht_kernels.errors import InputError
from ht_kernels.files import check_foreign, claim, read_object, why, within
from ht_kernels.media.dicom_file import is_dicom
from ht_kernels.media.image import SUFFIXES, is_image
from ht_kernels.media.opening import is_hidden, natural_order
from ht_kernels.outputs import MEASUREMENTS, PREDICTIONS, SETTINGS
from ht_kernels.packages import import_package

_ENDINGS = (
    *SUFFIXES,
    *(".dcm", ".dicom", ".ima"),
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts"),
)
"""How the names of images, DICOM files and videos end. DICOM files may end otherwise, so others are looked into."""


def find_files(paths: Sequence[Path], output: Path) -> dict[str, Path]:
    """The files at ``paths`` and, at any depth, in the folders among them, by the names of their results.

    A file that is named counts, whatever it is. Of a folder, images, DICOM files and videos count; hidden files do not,
    and neither does ``output``. A file that is found twice counts once.

    The name of the result is that of the file, or the file's path in the folder that was named, without the suffix.
    Where two are the same, all results are named by the path from the deepest folder that holds all files, and keep
    their suffix if need be.

    Raises:
        InputError: there is no such file or folder, a folder cannot be read, no file counts, or one is in ``output``.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for path in paths:
        if path.is_dir():
            inside = {file: file.relative_to(path) for file in _inside(path, output.resolve())}
        elif path.exists():
            inside = {path: Path(path.name)}
        else:
            raise InputError(f"there is no file or folder {path}")
        for file, name in inside.items():
            found.setdefault(file.resolve(), (file, name))
    if not found:
        raise InputError(f"there is no image, DICOM file or video in {', '.join(map(str, paths))}")
    for file in found:
        if file.is_relative_to(output.resolve()):
            raise InputError(f"the input {file} lies in the output {output}: name another folder for the output")
    places = [Path(abspath(file)) for file, _ in found.values()]  # a link has its own name
    common = commonpath([place.parent for place in places])
    whole = [place.relative_to(common) for place in places]
    ways = [without_ending(name) for _, name in found.values()], [without_ending(name) for name in whole], whole
    names = next(way for way in ways if _are_apart(way))
    return {str(name): file for name, (file, _) in zip(names, found.values(), strict=True)}


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output folder that cannot be written, or with results of an earlier prediction without ``overwrite``.

    Tables that no prediction wrote are refused in any case.

    Raises:
        InputError: it is such a folder.
    """
    claim(output, (*PREDICTIONS, *MEASUREMENTS, SETTINGS), overwrite)
    check_foreign(output, (*PREDICTIONS, *MEASUREMENTS), earlier_files(output))


def check_names(output: Path, names: Iterable[str]) -> None:
    """Refuse an output folder that holds a file which a result would replace, and which no prediction wrote.

    Raises:
        InputError: it holds one.
    """
    pictures = "overlays/{}.png", "overlays/{}.mp4", "masks/{}.png", "probabilities/{}.npz"
    kinds = *pictures, "segmentations/{}.dcm", "reports/{}.dcm"
    check_foreign(output, [kind.format(name) for name in names for kind in kinds], earlier_files(output))


def dicom_files(option: str, files: Iterable[Path]) -> list[Path]:
    """The DICOM files among the inputs, of which alone there are the DICOM results that ``option`` asks for.

    Raises:
        InputError: there is none, or highdicom is not installed.
    """
    import_package("highdicom", f"{option} needs highdicom", "highdicom")
    found = [file for file in files if _is_dicom_file(file)]
    if not found:
        raise InputError(f"{option} goes with DICOM files, and there is none among the inputs")
    return found


def _is_dicom_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(1024))
    except OSError:
        return False


def earlier_files(output: Path) -> list[Path]:
    """The tables, pictures and arrays that an earlier prediction wrote into a folder, as its predictions.json says."""
    report = read_object(output / "predictions.json")
    if not {"model", "images", "failed"} <= report.keys():
        return []
    kinds = ("overlays", "masks", "probabilities", "segmentations", "reports", *MEASUREMENTS)
    return [*map(Path, PREDICTIONS), *(file for file in within(report.get("files")) if file.parts[0] in kinds)]


def _inside(folder: Path, output: Path) -> Iterator[Path]:
    """The files that count in a folder and the folders in it, in the order of their names."""
    try:
        entries = sorted(folder.iterdir(), key=natural_order)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {why(error)}") from error
    for path in entries:
        if is_hidden(path.name) or path.resolve() == output:
            continue
        if path.is_dir() and not path.is_symlink():  # a link may lead back
            yield from _inside(path, output)
        elif path.is_dir():
            continue
        elif path.suffix.lower() in _ENDINGS or (path.is_file() and _has_picture(path)):
            yield path  # a link that leads nowhere too, so that it is said


def _has_picture(path: Path) -> bool:
    """Whether a file whose name does not say what it is holds DICOM or an image."""
    try:
        return _is_dicom_file(path) or is_image(path)
    except OSError:
        return False


def without_ending(name: Path) -> Path:
    """A name without the suffix, if it is one: DICOM files may be named by numbers with points."""
    return name.with_suffix("") if name.suffix.lower() in _ENDINGS else name


def _are_apart(names: Sequence[Path]) -> bool:
    """Whether no two names are the same, and none is a folder of another."""
    folders = {folder for name in names for folder in name.parents}
    return len(set(names)) == len(names) and folders.isdisjoint(names)
