"""Masks and overlays to programs that take images by OpenIGTLink, such as 3D Slicer.

This is the server, to which they connect. What they send is read and let go.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ht_kernels.errors import InputError, reason
from ht_kernels.media.frames import Frame

from .igtl_messages import crc64, pack_image
from .placement import Placement

if TYPE_CHECKING:
    from .stream import Shown

MASK, OVERLAY = "Mask", "Overlay"
"""The names of the devices."""

CLIENTS = 8
"""Programs that are served at a time; a further one is turned away."""

_SLOWEST = 10.0
"""Seconds in which a program must take an image, or its connection is ended."""

_PATIENCE = 1.0
"""Seconds that programs have, when the stream ends, to take the last images."""

_LOOK = 0.5
"""Seconds after which a connection on which nothing is sent is looked at: it may have ended."""

_READ = 1 << 16, 16
"""Bytes that are read at once of what a program sends, and how often between two looks."""


class IgtlServer:
    """Serves the newest mask and overlay; a slow program misses some and holds nothing up.

    Args:
        port: 0 for any free one.
        host: address to listen on.

    Attributes:
        address: HOST:PORT for programs to connect to.

    Raises:
        InputError: the address cannot be listened on.
        BackendError: the compiled core cannot be used.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        crc64(b"0")  # what it lacks must be said before a stream runs
        try:
            self._listener = socket.create_server((host, port))
        except (OSError, OverflowError) as error:
            code = getattr(error, "errno", None)
            said = os.strerror(code) if code else reason(error)  # the error's own words repeat the address
            raise InputError(
                f"OpenIGTLink cannot listen on {host}:{port} ({said}): name another port, or an address of this machine"
            ) from error
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self._changed = threading.Condition()
        self._newest: dict[str, _Outgoing] = {}
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def write(self, shown: Shown, masks: bool = True) -> None:
        """Give programs what is shown; it is packed only when one is connected.

        The overlay has the placement of its frame, and the mask that of the frame it was made of. Where there is no
        valid mask an empty one is sent, so that nobody goes on to see an old one.

        Args:
            shown: of a stream.
            masks: whether to send masks, which a model that classifies does not make.
        """
        height, width = shown.overlay.shape[:2]
        placement = shown.placement or Placement.unknown(height, width)
        images = [_Outgoing(OVERLAY, shown.overlay, placement)]
        if masks and shown.mask is None:
            images.append(_Outgoing(MASK, np.zeros((height, width), np.uint8), placement))
        elif masks and shown.mask is not None:
            images.append(_Outgoing(MASK, shown.mask, shown.mask_placement or placement))
        with self._changed:
            self._newest.update((image.device, image) for image in images)
            self._changed.notify_all()

    def close(self) -> None:
        """Let programs take the last images, end every connection, and stop listening."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            clients = dict(self._clients)
        _end(self._listener)
        deadline = time.monotonic() + _PATIENCE
        for thread in clients.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        for client in clients:
            _end(client)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # the listener was closed
            with self._changed:
                if self._closed or len(self._clients) >= CLIENTS:
                    client.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._clients[client] = thread
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        sent: dict[str, _Outgoing] = {}
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or sent != self._newest, _LOOK)  # noqa: B023
                    if self._closed and sent == self._newest:
                        return
                    newest = dict(self._newest)
                if _hung_up(client):
                    return
                client.settimeout(_SLOWEST)
                for device, image in newest.items():
                    if image is not sent.get(device):
                        head, pixels = image.parts
                        client.sendall(head)
                        client.sendall(pixels.data)
                sent = newest
        except OSError:
            pass  # the program went away, or is too slow
        finally:
            client.close()
            with self._changed:
                del self._clients[client]


class _Outgoing:
    """An image to send. Programs share its message, which is packed for the first of them."""

    def __init__(self, device: str, pixels: Frame, placement: Placement) -> None:
        self.device = device
        self._pixels, self._placement = pixels, placement
        self._lock = threading.Lock()

    @property
    def parts(self) -> tuple[bytes, Frame]:
        with self._lock:
            return self._packed

    @cached_property
    def _packed(self) -> tuple[bytes, Frame]:
        return pack_image(self.device, self._pixels, self._placement)


def _hung_up(client: socket.socket) -> bool:
    """Read what a program sent, and let it go; whether it ended the connection."""
    client.setblocking(False)
    size, times = _READ
    with suppress(BlockingIOError):
        for _ in range(times):
            if not client.recv(size):
                return True
    return False


def _end(connection: socket.socket) -> None:
    """Close a socket that another thread may wait for."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
