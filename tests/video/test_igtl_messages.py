"""Messages of OpenIGTLink: what is packed and parsed, what is refused, and pyigtl's opinion."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from helpers.clips import frames
from helpers.igtl import MATRIX, image, image_body, message, placement
from ht_kernels.errors import InputError
from ht_kernels.media.frames import Frame
from ht_kernels.video.igtl_connection import read_address
from ht_kernels.video.igtl_messages import HEADER, MOST_BYTES, crc64, pack_image, read_header, read_image
from ht_kernels.video.placement import Placement

GRAY = frames(1)[0]
COLOR = np.stack([GRAY, GRAY + np.uint8(30), GRAY + np.uint8(60)], -1)


def parse(content: bytes, bgr: bool = False) -> tuple[Frame, Placement]:
    return read_image(read_header(content[:HEADER]), np.frombuffer(content[HEADER:], np.uint8), bgr)


def test_the_published_check_value() -> None:
    assert crc64(b"123456789") == 0x6C40DF5F0B497347


@pytest.mark.parametrize("length", [1, 7, 8, 9, 64, 1001])
def test_the_checksum_is_the_remainder_of_a_division(length: int) -> None:
    content = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8)
    rest = int.from_bytes(content.tobytes(), "big") << 64
    divisor = 1 << 64 | 0x42F0E1EBA9EA3693
    for bit in range(rest.bit_length() - 1, 63, -1):
        if rest >> bit & 1:
            rest ^= divisor << bit - 64
    assert crc64(content) == rest
    assert crc64(content[length // 2 :], crc64(content[: length // 2]) if length > 1 else 0) == rest


@pytest.mark.parametrize("pixels", [GRAY, COLOR])
def test_there_and_back(pixels: Frame) -> None:
    head, body = pack_image("Mask", pixels, placement())
    frame, where = parse(head + body.tobytes())
    assert np.array_equal(frame, pixels) and where == placement()
    assert read_header(head[:HEADER]).device == "Mask"


def test_a_crop_that_is_not_contiguous() -> None:
    head, body = pack_image("Mask", GRAY[:, 3:40], placement(48, 37))
    assert np.array_equal(parse(head + body.tobytes())[0], GRAY[:, 3:40])


def test_blue_green_red() -> None:
    frame, _ = parse(image(COLOR), bgr=True)
    assert np.array_equal(frame, COLOR[..., ::-1]) and frame.flags.c_contiguous
    assert np.array_equal(parse(image(GRAY), bgr=True)[0], GRAY)


@pytest.mark.parametrize("size", [(64, 48, 1), (1, 64, 48), (64, 1, 48)])
def test_a_volume_of_one_slice(size: tuple[int, int, int]) -> None:
    frame, where = parse(image(GRAY, size=size))
    assert np.array_equal(frame, GRAY) and where.size == size
    head, _ = pack_image("Mask", frame, where)
    assert struct.unpack(">3H", head[HEADER + 6 : HEADER + 12]) == size


@pytest.mark.parametrize("version", [2, 3])
def test_extended_headers_and_metadata_are_skipped(version: int) -> None:
    extended = struct.pack(">HHII", 16, 8, 11, 7) + b"more"
    body = extended + image_body(GRAY) + b"\0\1\0\3\0\3\0\0" + b"keyanyvalue"
    frame, where = parse(message("IMAGE", body, version=version))
    assert np.array_equal(frame, GRAY) and where.matrix == MATRIX


REFUSED: dict[str, bytes] = {
    "the checksum of a message is wrong": message("IMAGE", image_body(GRAY), crc=5),
    "an image has 40 bytes, and its header alone has 72": message("IMAGE", bytes(40)),
    "an image is uint16, expected uint8: let the sender convert": image(GRAY, scalar=5),
    "an image is of type 77, expected uint8": image(GRAY, scalar=77),
    "an image has 2 components, expected 1 for gray or 3": image(GRAY, components=2),
    "an image has 64x24x2 pixels, expected a single slice": image(GRAY, size=(64, 24, 2)),
    "an image has 64x0x1 pixels, expected a single slice": image(GRAY, size=(64, 0, 1)),
    "a part of an image of 64x48x1 pixels": image(GRAY, part=(64, 24, 1)),
    "a part of an image .*expected the whole": image(GRAY, offset=(0, 1, 0)),
    "coordinates of kind 3, expected 1": image(GRAY, coordinates=3),
    "not finite": image(GRAY, matrix=(float("nan"), *MATRIX[1:])),
    "an image of 65535x65535x1 pixels by 1 has 3072 bytes": image(GRAY, size=(65535, 65535, 1)),
    "a message has 7 bytes, and its extended header": message("IMAGE", bytes(7), version=2),
    "has an extended header of 65535": message("IMAGE", struct.pack(">HHII", 65535, 0, 0, 0), version=2),
    "has an extended header of 0": message("IMAGE", struct.pack(">HHII", 0, 0, 0, 0), version=2),
    "and metadata of 4294967295": message("IMAGE", struct.pack(">HHII", 12, 0, 2**32 - 1, 0), version=2),
    "its version is 18501": b"HEAD / HTTP/1.1".ljust(HEADER),
    f"of {2**63} bytes was announced, and at most {MOST_BYTES}": message("IMAGE", b"", size=2**63),
}


@pytest.mark.parametrize("said", REFUSED)
def test_refusals(said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse(REFUSED[said])


def test_a_name_cannot_play_tricks() -> None:
    assert read_header(message("IMAGE", b"", "a\x1b[2Jb")).device == "a?[2Jb"
    assert read_header(message("IMAGE", b"", "ä")).device == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("igtl://a", ("a", 18944, "", False)),
        ("igtl://a:7/Image%20of%20Probe", ("a", 7, "Image of Probe", False)),
        ("igtl://[::1]:7/P?order=bgr", ("::1", 7, "P", True)),
    ],
)
def test_addresses(text: str, expected: tuple[Any, ...]) -> None:
    assert read_address(text) == expected


@pytest.mark.parametrize("text", ["igtl://", "igtl://a:x", "igtl://a:99999/b", "igtl://a/b?order=x", "igtl://a/b#c"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        read_address(text)


def test_the_terms_of_a_placement() -> None:
    turned = (0.0, 0.5, 0.0, -0.25, 0.0, 0.0, 0.0, 0.0, 2.0, 1.0, 2.0, 3.0)
    where = Placement(3 << 31, (3, 5, 1), turned)
    assert where.seconds == 1.5
    assert where.spacing.tolist() == [0.5, 0.25, 2.0]
    assert where.directions.tolist() == [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    assert where.origin.tolist() == [1 + 2 * 0.25, 2 - 0.5, 3]


@pytest.mark.parametrize("pixels", [GRAY, COLOR])
def test_pyigtl_reads_what_is_packed(pixels: Frame) -> None:
    pyigtl = pytest.importorskip("pyigtl")
    head, body = pack_image("Mask", pixels, placement())
    fields = pyigtl.messages.MessageBase.parse_header(head[:HEADER])
    said = pyigtl.messages.MessageBase.create_message(fields["message_type"])
    assert said.unpack(fields, head[HEADER:] + body.tobytes()) is not False
    assert np.array_equal(said.image.reshape(pixels.shape), pixels)
    assert said.device_name == "Mask" and said.timestamp == 1 and said.world_coordinate_system == "lps"
    where = placement()
    assert said.ijk_to_world_matrix[:3, 3] == pytest.approx(where.origin)
    assert pytest.approx(where.directions * where.spacing[:, None]) == said.ijk_to_world_matrix[:3, :3].T


@pytest.mark.parametrize("pixels", [GRAY[None], COLOR[None], GRAY])
def test_what_pyigtl_packs_is_read(pixels: Frame) -> None:
    pyigtl = pytest.importorskip("pyigtl")
    matrix = np.array([[0.25, 0, 0, 4], [0, 0.5, 0, 5], [0, 0, 1, 6], [0, 0, 0, 1]], np.float32)
    sent = pyigtl.ImageMessage(pixels, ijk_to_world_matrix=matrix, timestamp=1.5, device_name="Probe")
    frame, where = parse(sent.pack())
    assert np.array_equal(frame, pixels.reshape(frame.shape))
    assert where.seconds == 1.5 and where.coordinates == "LPS"
    assert where.origin == pytest.approx([4, 5, 6]) and where.spacing == pytest.approx([0.25, 0.5, 1])
