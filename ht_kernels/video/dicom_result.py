"""What DICOM files have in common that are made of another: its attributes, their findings, and how they are saved."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ht_kernels.errors import InputError, reason
from ht_kernels.media.dicom_file import opened, quiet
from ht_kernels.packages import import_package


@contextmanager
def explained(source: Path, what: str) -> Iterator[Any]:
    """Give a DICOM file's attributes without its pixels, and turn what pydicom and highdicom raise into InputError.

    Args:
        source: the file.
        what: what is made of it, such as ``a DICOM report``.
    """
    import_package("highdicom", f"{what} needs highdicom", "highdicom")
    try:
        with opened(source) as (dataset, _), quiet():
            yield dataset
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        of_file = isinstance(error, AttributeError) and hasattr(error.obj, "original_encoding")
        why = f"it has no {getattr(error, 'name', '')}" if of_file else reason(error)
        raise InputError(f"{source} cannot have {what}: {why}") from error


def label_of(name: str) -> str:
    """The name of a class as a label: up to 64 characters, with a slash for a backslash, which separates values."""
    return name.replace("\\", "/")[:64]


def finding(number: int, name: str, classes: int) -> Any:
    """The code of class ``number`` of a model with so many classes, the background among them.

    One class beside the background is a lesion. Of several nothing is known but the name, so the code is private.
    """
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    return codes.SCT.Lesion if classes == 2 else CodedConcept(f"class{number}", "99HTKERNELS", label_of(name))


def save(dataset: Any, path: Path, names: Iterable[str]) -> None:
    """Write a data set that has these names of classes. The source's character set may lack their letters.

    Raises:
        OSError: it cannot be written.
    """
    if not all(map(str.isascii, names)):
        dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8 has the letters of the names and of the patient
    content = io.BytesIO()  # pydicom puts a traceback into the error of a file that cannot be written
    dataset.save_as(content)
    path.write_bytes(content.getvalue())
