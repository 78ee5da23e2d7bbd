"""The content of a DICOM file: its attributes, and where the bytes of each frame lie.

Files that break the rules of PS3.10 are read where what they mean is plain: without a preamble, without file meta
information, or cut off.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from ht_kernels.errors import InputError, reason
from ht_kernels.packages import installed

INFLATED_ATTRIBUTES = 16 << 20
"""Bytes that the attributes of a deflated file may have, before and after its pixels."""
INFLATED = 1 << 30
"""Bytes that a deflated file may have in all: it is inflated in memory."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_LONG_VR = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")
_STARTS = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP"
"""First bytes of a codestream: of JPEG and JPEG-LS, of JPEG 2000, and of a JP2 file, which some writers put there."""

_RLE_HEADER = 64

Spans = list[tuple[int, int]]
"""Places in a file, each with a number of bytes."""


@dataclass(frozen=True)
class PixelData:
    """Where the pixels of a file are.

    Attributes:
        vr: their value representation, OB or OW; OW where the file does not say.
        encapsulated: whether they are compressed, in fragments (PS3.5 A.4).
        spans: one for each fragment, or the only one.
        whole: False where the file ends before they do.
    """

    vr: str
    encapsulated: bool
    spans: Spans
    whole: bool


def is_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file, 400 or more if it has them, are of DICOM.

    They are with ``DICM`` after a preamble of 128 bytes (PS3.10 section 7.1). Without it, they are where they hold two
    data elements as DICOM orders them: in group 2 or 8, the tag of the second above that of the first. That takes
    pydicom's dictionary; where pydicom is not installed, such files are not known as DICOM.
    """
    return head[128:132] == b"DICM" or (
        _knows_elements() and any(_two_elements(head, *encoding) for encoding in ("<e", "<i", ">e"))
    )


@cache
def _knows_elements() -> bool:
    """Whether pydicom is installed. It is looked up once: a folder may have thousands of files that are not DICOM."""
    return installed("pydicom")


def _two_elements(head: bytes, order: str, explicit: str) -> bool:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    at, last = 0, (0, 0)
    for _ in range(2):
        if len(head) < at + 12:
            return False
        tag = struct.unpack_from(f"{order}HH", head, at)
        number, vr = tag[0] << 16 | tag[1], head[at + 4 : at + 6]
        if tag[0] not in (2, 8) or tag <= last or not (dictionary_has_tag(number) or tag[1] == 0):
            return False
        if explicit == "i":
            length, header = struct.unpack_from(f"{order}I", head, at + 4)[0], 8
        elif tag[1] and vr != dictionary_VR(number).encode():
            return False
        elif vr in _LONG_VR:
            length, header = struct.unpack_from(f"{order}I", head, at + 8)[0], 12
        else:
            length, header = struct.unpack_from(f"{order}H", head, at + 6)[0], 8
        at, last = at + header + length, tag
    return True


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, BinaryIO]]:
    """The attributes of a file up to its pixels, and the file, at the data element of the pixels.

    Raises:
        InputError: the file cannot be opened, or it inflates to more than it may.
    """
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        with path.open("rb") as file:
            with quiet():
                meta = _file_meta(file)
                if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                    dataset, content = _inflated(path, file, meta)
                else:
                    file.seek(0)
                    dataset, content = dcmread(file, stop_before_pixels=True, force=True), file
            yield dataset, content
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings of values that the standard forbids."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _file_meta(file: BinaryIO) -> Any:
    """The file meta information, empty where there is none; the file is left behind it."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    read_preamble(file, force=True)
    return _read_file_meta_info(file)


def _inflated(path: Path, file: BinaryIO, meta: Any) -> tuple[Any, BinaryIO]:
    """What :func:`opened` gives, of a file in the deflated transfer syntax (PS3.5 A.5).

    It may have the bytes that its attributes declare for pixels, and :data:`INFLATED_ATTRIBUTES` besides.
    """
    from pydicom.filereader import read_partial
    from pydicom.uid import ExplicitVRLittleEndian

    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    deflated = file.read()
    content = stream.decompress(deflated, INFLATED_ATTRIBUTES)

    def read(content: bytes) -> tuple[Any, BinaryIO]:
        inner = io.BytesIO(content)
        dataset = read_partial(inner, lambda tag, vr, length: tag >= 0x7FE00008, force=True)
        dataset.file_meta = meta
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return dataset, inner

    dataset, inner = read(content)
    if len(content) == INFLATED_ATTRIBUTES:
        most = min(INFLATED, frame_bytes(dataset) * max(1, declared_frames(dataset) or 1) + INFLATED_ATTRIBUTES)
        content += stream.decompress(stream.unconsumed_tail, most - len(content))
        if stream.unconsumed_tail:
            raise InputError(
                f"{path} inflates to more than {most} bytes, which its rows, columns and frames do not need, or which "
                "do not fit; convert it to another transfer syntax"
            )
        dataset, inner = read(content)
    return dataset, inner


def declared_frames(dataset: Any) -> int | None:
    """NumberOfFrames, or None where there is none or it is no number."""
    try:
        return int(dataset.get("NumberOfFrames"))
    except (ValueError, TypeError, OverflowError):
        return None


def frame_bytes(dataset: Any) -> int:
    """The bytes of an uncompressed frame; a frame of one bit per pixel may end inside the last."""
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel") or 1)
    bits *= int(dataset.BitsAllocated)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":  # two pixels share their chroma
        bits = bits * 2 // 3
    return (bits + 7) // 8


def find_pixels(file: BinaryIO, implicit: bool, little: bool) -> PixelData | None:
    """Find the pixels from the data element on at which the file is; None where there is none.

    Offset tables are skipped: they may be wrong or empty, and codestreams say by themselves where they begin.
    """
    order = "<" if little else ">"
    size = _size(file)
    while True:
        head = file.read(8)
        if len(head) < 8:
            return None
        group, element = struct.unpack(f"{order}HH", head[:4])
        if implicit:
            (length,) = struct.unpack(f"{order}I", head[4:])
        elif head[4:6] in _LONG_VR:
            (length,) = struct.unpack(f"{order}I", file.read(4).ljust(4, b"\0"))
        else:
            (length,) = struct.unpack(f"{order}H", head[6:])
        if (group, element) == (0x7FE0, 0x0010):
            break
        file.seek(length, io.SEEK_CUR)
    vr = "OB" if not implicit and head[4:6] == b"OB" else "OW"
    start = file.tell()
    if length != _UNDEFINED:
        return PixelData(vr, False, [(start, min(length, size - start))], start + length <= size)
    spans: Spans = []
    while len(head := file.read(8)) == 8:
        group, element, length = struct.unpack(f"{order}HHI", head)
        if (group, element) != _ITEM or length == _UNDEFINED:
            return PixelData(vr, True, spans[1:], (group, element) == _DELIMITER)
        start = file.tell()
        if start + length > size:
            break
        spans.append((start, length))
        file.seek(length, io.SEEK_CUR)
    return PixelData(vr, True, spans[1:], False)  # the first item is the offset table


def _size(file: BinaryIO) -> int:
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(place)
    return size


def group_fragments(file: BinaryIO, spans: Spans, declared: int | None) -> list[Spans]:
    """The fragments of each frame.

    A fragment that begins as a codestream begins a frame. Where none does, each is a frame, unless the file declares a
    single one.
    """
    frames: list[Spans] = []
    begun = False
    for start, length in spans:
        file.seek(start)
        head = file.read(min(length, _RLE_HEADER))
        begins = head.startswith(_STARTS) or _begins_rle(head)
        begun |= begins
        if begins or not frames:
            frames.append([])
        frames[-1].append((start, length))
    if begun or declared == 1:
        return frames
    return [[span] for span in spans if span[1]]


def _begins_rle(head: bytes) -> bool:
    """Whether a fragment begins with a header of RLE: a number of segments, and the offset of each (PS3.5 G.5)."""
    if len(head) < _RLE_HEADER:
        return False
    count, *offsets = struct.unpack("<16I", head)
    used = offsets[:count]
    return 1 <= count <= 15 and used[0] == _RLE_HEADER and used == sorted(set(used)) and not any(offsets[count:])


def guess_syntax(file: BinaryIO, pixels: PixelData) -> Any:
    """The transfer syntax of compressed pixels, by their first frame; None where it is neither JPEG nor JPEG 2000."""
    from pydicom import uid

    first = read_spans(file, pixels.spans[:1])
    if first.startswith(_STARTS[1]):
        return uid.JPEG2000
    by_marker = {  # of the frame header (ITU-T T.81, table B.1, and T.87)
        0xC0: uid.JPEGBaseline8Bit,
        0xC1: uid.JPEGExtended12Bit,
        0xC3: uid.JPEGLosslessSV1,
        0xF7: uid.JPEGLSLossless,
    }
    at = 2
    while first.startswith(_STARTS[0]) and at + 4 <= len(first) and first[at] == 0xFF:
        if first[at + 1] in by_marker:
            return by_marker[first[at + 1]]
        at += 2 + struct.unpack_from(">H", first, at + 2)[0]
    return None


def read_spans(file: BinaryIO, spans: Spans) -> bytes:
    """The bytes at places in a file, joined."""
    parts = []
    for start, length in spans:
        file.seek(start)
        parts.append(file.read(length))
    return b"".join(parts)
