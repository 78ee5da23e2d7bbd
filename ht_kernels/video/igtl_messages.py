"""Messages of OpenIGTLink, as bytes: the header, the IMAGE message in and out, and the checksum.

The layout is that of the protocol's versions 1 and 2 (http://openigtlink.org/protocols). Numbers are big-endian. Of
version 2 the extended header and the metadata around the content are skipped. Version 3 has the header of version 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ht_kernels import compiled
from ht_kernels.errors import BackendError, InputError
from ht_kernels.media.frames import Frame

from .placement import Placement, plane_axes

HEADER = 58
"""Bytes of a message's header."""

MOST_BYTES = 64 << 20
"""Bytes of a message's body at most: an RGB image of 4096x4096 pixels has 48 MiB. A sender may claim any number."""

_HEADER = struct.Struct(">H12s20sQQQ")
_EXTENDED = struct.Struct(">HHII")
_IMAGE = struct.Struct(">HBBBB3H12f3H3H")
_TYPES = {2: "int8", 3: "uint8", 4: "int16", 5: "uint16", 6: "int32", 7: "uint32", 10: "float32", 11: "float64"}
_UINT8, _LITTLE_ENDIAN = 3, 2
_COORDINATES = {1: "RAS", 2: "LPS"}


@dataclass(frozen=True)
class Header:
    """The header of a message.

    Attributes:
        version: 1, or 2 for a body with an extended header.
        type: such as ``IMAGE``.
        device: the name of the device that the message is from or for.
        timestamp: as :class:`ht_kernels.video.placement.Placement` has it.
        size: bytes of the body.
        crc: checksum of the body.
    """

    version: int
    type: str
    device: str
    timestamp: int
    size: int
    crc: int


def crc64(content: bytes | NDArray[np.uint8], before: int = 0) -> int:
    """The checksum CRC-64/ECMA-182 of contiguous bytes.

    Args:
        content: the bytes.
        before: the checksum of the bytes before these.

    Raises:
        BackendError: the compiled core cannot be used.
    """
    if compiled.missing:
        raise BackendError(f"OpenIGTLink needs the compiled core for its checksums: {compiled.missing}")
    array = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
    if not array.flags.c_contiguous:
        raise ValueError("the bytes must be contiguous")
    return int(compiled.module.crc64(array.ctypes.data, array.nbytes, before))


def read_header(content: bytes) -> Header:
    """Parse the first 58 bytes of a message.

    Raises:
        InputError: they are no header, or announce more than :data:`MOST_BYTES`.
    """
    version, kind, device, timestamp, size, crc = _HEADER.unpack(content)
    if version not in (1, 2, 3):
        raise InputError(f"what came is no message of OpenIGTLink: its version is {version}, expected 1, 2 or 3")
    if size > MOST_BYTES:
        raise InputError(f"a message of {size} bytes was announced, and at most {MOST_BYTES} are taken")
    return Header(version, _text(kind), _text(device), timestamp, size, crc)


def read_image(header: Header, body: NDArray[np.uint8], bgr: bool = False) -> tuple[Frame, Placement]:
    """The frame in the body of an IMAGE message, (H, W) or (H, W, 3) RGB, and its placement.

    The frame shares the memory of the body, unless its colours are put into another order.

    Args:
        header: of the message.
        body: (header.size,) uint8.
        bgr: whether colours come as blue, green and red, which a message does not say.

    Raises:
        InputError: the checksum or a length is wrong, or it is not a whole image of one slice with 8 bits, unsigned.
    """
    if crc64(body) != header.crc:
        raise InputError("the checksum of a message is wrong")
    content = _content(header, body)
    if len(content) < _IMAGE.size:
        raise InputError(f"an image has {len(content)} bytes, and its header alone has {_IMAGE.size}")
    _, components, scalar, _, coordinates, *numbers = _IMAGE.unpack_from(content.data)
    size, matrix, offset, part = numbers[:3], numbers[3:15], numbers[15:18], numbers[18:]
    kind, shape = _TYPES.get(scalar, f"of type {scalar}"), "x".join(map(str, size))
    if scalar != _UINT8:
        raise InputError(f"an image is {kind}, expected uint8: let the sender convert it to 8 bits, unsigned")
    if components not in (1, 3):
        raise InputError(f"an image has {components} components, expected 1 for gray or 3 for RGB")
    if 1 not in size or 0 in size:
        raise InputError(f"an image has {shape} pixels, expected a single slice")
    if any(offset) or part != size:
        raise InputError(f"a message has a part of an image of {shape} pixels, expected the whole")
    if coordinates not in _COORDINATES:
        raise InputError(f"an image has coordinates of kind {coordinates}, expected 1 (RAS) or 2 (LPS)")
    if not np.isfinite(matrix).all():
        raise InputError("the matrix of an image has values that are not finite (NaN or infinity)")
    pixels = content[_IMAGE.size :]
    width, height = (size[axis] for axis in plane_axes(size))
    if len(pixels) != height * width * components:
        raise InputError(f"an image of {shape} pixels by {components} has {len(pixels)} bytes")
    frame = pixels.reshape((height, width) if components == 1 else (height, width, 3))
    if bgr and components == 3:
        frame = np.ascontiguousarray(frame[..., ::-1])
    return frame, Placement(header.timestamp, (size[0], size[1], size[2]), tuple(matrix), _COORDINATES[coordinates])


def pack_image(device: str, pixels: Frame, placement: Placement) -> tuple[bytes, Frame]:
    """An IMAGE message with a header of version 1, in two parts: the headers, and the pixels, which are not copied.

    Args:
        device: up to 20 letters.
        pixels: (H, W) or (H, W, 3) RGB uint8.
        placement: of the pixels.

    Raises:
        InputError: the placement is of an image of another size.
    """
    pixels = np.ascontiguousarray(pixels)
    if [placement.size[axis] for axis in plane_axes(placement.size)] != [*pixels.shape[1::-1]]:
        raise InputError(f"the placement is of {placement.size} pixels, and the image has the shape {pixels.shape}")
    components = 1 if pixels.ndim == 2 else 3
    coordinates = next(number for number, name in _COORDINATES.items() if name == placement.coordinates)
    size = placement.size
    kind = 1, components, _UINT8, _LITTLE_ENDIAN, coordinates
    image = _IMAGE.pack(*kind, *size, *placement.matrix, 0, 0, 0, *size)
    crc = crc64(pixels, crc64(image))
    length = len(image) + pixels.nbytes
    return _HEADER.pack(1, b"IMAGE", device.encode("ascii"), placement.timestamp, length, crc) + image, pixels


def _content(header: Header, body: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A message's body without what version 2 has around the content."""
    if header.version == 1:
        return body
    if len(body) < _EXTENDED.size:
        raise InputError(f"a message has {len(body)} bytes, and its extended header alone has {_EXTENDED.size}")
    extended, index, metadata, _ = _EXTENDED.unpack_from(body.data)
    end = len(body) - index - metadata
    if extended < _EXTENDED.size or end < extended:
        raise InputError(
            f"a message of {len(body)} bytes has an extended header of {extended} and metadata of {index + metadata}"
        )
    return body[extended:end]


def _text(content: bytes) -> str:
    """A name from a sender, without what could play tricks with a terminal."""
    name = content.split(b"\0", 1)[0].decode("ascii", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in name).strip()
