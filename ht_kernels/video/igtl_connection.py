"""A connection to a program that sends images by OpenIGTLink, such as PLUS: its address, and the frames that come."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError, reason
from ht_kernels.media.frames import Frame

from .igtl_messages import HEADER, Header, read_header, read_image
from .placement import Placement

SCHEME = "igtl://"
PORT = 18944
"""Where senders listen, unless told otherwise."""

_ORDERS = {"": False, "order=rgb": False, "order=bgr": True}
_CHUNK = 1 << 16
_NAMES = 16
"""Devices that are remembered for a message that lists them."""


class Address(NamedTuple):
    """``igtl://HOST[:PORT][/DEVICE][?order=bgr]``; without a device the first that sends an image is taken."""

    host: str
    port: int
    device: str
    bgr: bool


def read_address(text: str) -> Address:
    """Take an address of OpenIGTLink apart.

    Raises:
        InputError: it is none.
    """
    try:
        parts = urlsplit(text)
        port = parts.port or PORT
    except ValueError as error:
        raise InputError(f"{text} is no address: {reason(error)}") from error
    if "@" in parts.netloc:
        raise InputError("an address of OpenIGTLink has neither user nor password: leave out what is before the @")
    if not parts.hostname or parts.fragment or parts.query not in _ORDERS:
        raise InputError(
            f"{text} is no address of OpenIGTLink, expected igtl://HOST:PORT/DEVICE, and ?order=bgr behind"
        )
    return Address(parts.hostname, port, unquote(parts.path[1:]), _ORDERS[parts.query])


def open_igtl(text: str, patience: float, stall: float) -> IgtlConnection:
    """Connect to an address of OpenIGTLink; ``patience`` seconds are for that, and as many for the first image.

    Raises:
        InputError: nothing listens there, or as :class:`IgtlConnection`.
    """
    address = read_address(text)
    try:
        connected = socket.create_connection((address.host, address.port), patience)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or reason(error)
        raise InputError(f"{text} cannot be opened ({said}): start the program that sends images there") from error
    return IgtlConnection(text, connected, patience, stall)


class IgtlConnection:
    """Waits for the first image, and gives all. Messages of other types and of other devices are read and let go.

    Args:
        text: the address.
        connected: a socket that is connected to it.
        patience: seconds to wait for the first image.
        stall: seconds from one image to the next at most.

    Attributes:
        fps: None, for senders do not say it.
        size: (height, width) of the first image.
        devices: the types of message that each device sent, as far as its name was remembered.

    Raises:
        InputError: no image of the device comes that can be taken.
    """

    fps: float | None = None

    def __init__(self, text: str, connected: socket.socket, patience: float, stall: float) -> None:
        self._text, self._address, self._stall = text, read_address(text), stall
        self._socket = connected
        self.devices: dict[str, set[str]] = {}
        try:
            self._first = self._wait(patience)
        except BaseException:
            self.close()
            raise
        self.size = self._first[0].shape[0], self._first[0].shape[1]

    def frames(self) -> Iterator[tuple[Frame, Placement] | str]:
        """The first image and every further one, or why it was left out. They end where none comes for a while.

        Raises:
            InputError: what comes is no message.
            OSError: the connection is lost.
        """
        yield self._first
        while (result := self._next(time.monotonic() + self._stall)) is not None:
            yield result

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _wait(self, patience: float) -> tuple[Frame, Placement]:
        """The first image that can be taken."""
        deadline, why = time.monotonic() + patience, ""
        try:
            while not isinstance(result := self._next(deadline), tuple):
                if result is None:
                    break
                why = result
            else:
                return result
        except (InputError, OSError) as error:
            why = reason(error)
        if why:
            raise InputError(f"{self._text} gives no frame: {why}")
        wanted = f"image of a device {self._address.device}" if self._address.device else "image"
        seen = ", ".join(f"{name or '(no name)'} ({'/'.join(sorted(kinds))})" for name, kinds in self.devices.items())
        raise InputError(
            f"{self._text} gives no {wanted} within {patience:g} seconds; it sent messages of {seen or 'no device'}"
        )

    def _next(self, deadline: float) -> tuple[Frame, Placement] | str | None:
        """The next image of the device, why it was left out, or None where the connection or the time ends."""
        head = np.empty(HEADER, np.uint8)
        while self._receive(head, deadline):
            header = read_header(head.tobytes())
            self._note(header)
            if header.type != "IMAGE" or self._address.device not in ("", header.device):
                if not self._skip(header.size, deadline):
                    return None
                continue
            body = np.empty(header.size, np.uint8)
            if not self._receive(body, deadline):
                return None
            try:
                result = read_image(header, body, self._address.bgr)
            except InputError as error:
                return f"{header.device}: {error}"
            self._address = self._address._replace(device=header.device)
            return result
        return None

    def _note(self, header: Header) -> None:
        if header.device in self.devices or len(self.devices) < _NAMES:
            kinds = self.devices.setdefault(header.device, set())
            if len(kinds) < _NAMES:
                kinds.add(header.type)

    def _skip(self, count: int, deadline: float) -> bool:
        """Read so many bytes and let them go."""
        place = np.empty(min(count, _CHUNK), np.uint8)
        while count:
            part = place[: min(count, _CHUNK)]
            if not self._receive(part, deadline):
                return False
            count -= len(part)
        return True

    def _receive(self, place: NDArray[np.uint8], deadline: float) -> bool:
        """Fill an array with what comes; False where the connection or the time ends before."""
        rest = place.data
        while rest:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._socket.settimeout(left)
            try:
                count = self._socket.recv_into(rest)
            except TimeoutError:
                return False
            if not count:
                return False
            rest = rest[count:]
        return True
