"""Programs that speak OpenIGTLink, made of a few bytes."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from ht_kernels.video.igtl_messages import HEADER, crc64, read_header, read_image
from ht_kernels.video.igtl_sink import IgtlServer
from ht_kernels.video.placement import Placement

INCLUDE = Path("/usr/include/openigtlink")
MATRIX = (0.25, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0, 10.0, -20.5, 30.25)


def placement(height: int = 48, width: int = 64, second: int = 1) -> Placement:
    return Placement(second << 32, (width, height, 1), MATRIX, "LPS")


def message(kind: str, body: bytes, device: str = "Probe", version: int = 1, **other: int) -> bytes:
    """A message; ``other`` is what its header says against the truth."""
    values = {"time": 1 << 32, "size": len(body), "crc": crc64(body or b"0") if body else 0, **other}
    head = struct.pack(">H12s20sQQQ", version, kind.encode(), device.encode(), *values.values())
    return head + body


def image_body(pixels: np.ndarray, **other: object) -> bytes:
    """The body of an IMAGE message, (H, W) or (H, W, 3); ``other`` is what its header says against the truth."""
    height, width = pixels.shape[:2]
    values: dict = {"version": 1, "components": 1 if pixels.ndim == 2 else 3, "scalar": 3, "endian": 2}
    values |= {"coordinates": 2, "size": (width, height, 1), "matrix": MATRIX, "offset": (0, 0, 0)}
    values |= {"part": other.get("size", (width, height, 1)), **other}
    kind = [values[name] for name in ("version", "components", "scalar", "endian", "coordinates")]
    numbers = (*values["size"], *values["matrix"], *values["offset"], *values["part"])
    return struct.pack(">HBBBB3H12f3H3H", *kind, *numbers) + pixels.tobytes()


def image(pixels: np.ndarray, device: str = "Probe", version: int = 1, time: int = 1 << 32, **other: object) -> bytes:
    return message("IMAGE", image_body(pixels, **other), device, version, time=time)


@contextmanager
def sender(give: Callable[[socket.socket, int], None]) -> Iterator[int]:
    """The port of a program that calls ``give`` for each connection, with its number from 0, and then ends it."""
    listener, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()
    listener.settimeout(0.05)

    def serve() -> None:
        number = 0
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(10)
            with connection, suppress(OSError):
                give(connection, number)
            number += 1

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join(15)
        listener.close()


def exactly(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = connection.recv(count - len(content))
        if not part:
            raise EOFError
        content += part
    return content


def receive(connection: socket.socket) -> tuple[bytes, bytes]:
    """The header and the body of the next message."""
    head = exactly(connection, HEADER)
    return head, exactly(connection, int.from_bytes(head[42:50], "big"))


def connected(server: IgtlServer) -> socket.socket:
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), 10)


def pair(client: socket.socket) -> dict[str, tuple[np.ndarray, Placement]]:
    """The next mask and overlay."""
    found = {}
    for _ in range(2):
        head, body = receive(client)
        header = read_header(head)
        found[header.device] = read_image(header, np.frombuffer(body, np.uint8))
    return found


def reference(folder: Path, program: Path) -> Path:
    """The example program on the reference implementation, built; the test is skipped where that cannot be."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not INCLUDE.exists():
        pytest.skip("needs a C++ compiler and libopenigtlink-dev")
    built = folder / "openigtlink"
    command = [compiler, "-std=c++17", "-isystem", str(INCLUDE), str(program), "-lOpenIGTLink", "-o", str(built)]
    subprocess.run(command, check=True)
    return built
