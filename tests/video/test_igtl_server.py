"""Masks and overlays by OpenIGTLink: what programs get, and readers that are slow, silent, or too many."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from helpers.clips import frames
from helpers.igtl import connected, pair, placement, receive
from ht_kernels.errors import InputError
from ht_kernels.video import igtl_sink
from ht_kernels.video.igtl_messages import read_header
from ht_kernels.video.igtl_sink import CLIENTS, IgtlServer
from ht_kernels.video.placement import Placement
from ht_kernels.video.stream import Shown

pytestmark = pytest.mark.timeout(120)
GRAY = frames(1)[0]
ME = psutil.Process()


def shown(index: int = 0, mask: bool = True, where: Placement | None = None, of: Placement | None = None) -> Shown:
    overlay = np.full((48, 64, 3), index % 256, np.uint8)
    made = np.full((48, 64), 1 + index % 2, np.uint8) if mask else None
    return Shown(index, 0.0, GRAY, made, overlay, "ok", "", 0.0, placement=where, mask_placement=of)


@pytest.fixture
def server() -> Iterator[IgtlServer]:
    server = IgtlServer(0)
    yield server
    server.close()


def test_a_mask_has_the_placement_of_its_own_frame(server: IgtlServer) -> None:
    assert server.address.startswith("127.0.0.1:")
    server.write(shown(1, True, placement(second=7), placement(second=5)))
    with connected(server) as client:
        found = pair(client)
    assert found["Overlay"][1] == placement(second=7) and found["Mask"][1] == placement(second=5)
    assert found["Overlay"][0].shape == (48, 64, 3) and (found["Mask"][0] == 2).all()


def test_an_empty_mask_takes_the_place_of_one_that_is_not_valid(server: IgtlServer) -> None:
    with connected(server) as client:
        server.write(shown(1, True, placement(second=7), placement(second=7)))
        assert (pair(client)["Mask"][0] == 2).all()
        server.write(shown(2, False, placement(second=8)))
        mask, where = pair(client)["Mask"]
    assert not mask.any() and where == placement(second=8)


def test_a_source_that_says_no_place(server: IgtlServer) -> None:
    server.write(shown())
    with connected(server) as client:
        found = pair(client)
    assert found["Mask"][1] == found["Overlay"][1]
    assert found["Mask"][1].size == (64, 48, 1) and abs(found["Mask"][1].seconds - time.time()) < 60


def test_no_masks_of_a_model_that_classifies(server: IgtlServer) -> None:
    server.write(shown(1, False), masks=False)
    with connected(server) as client:
        assert read_header(receive(client)[0]).device == "Overlay"
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_slow_readers_hold_nothing_up_and_get_the_newest(server: IgtlServer) -> None:
    """A megabyte each, far more of them than sockets hold; the one who reads late gets the last pair whole."""
    slow = [connected(server) for _ in range(3)]
    overlay, mask = np.zeros((512, 512, 3), np.uint8), np.zeros((512, 512), np.uint8)
    before, start = ME.memory_info().rss, time.monotonic()
    for index in range(300):
        overlay, mask = overlay + np.uint8(1), mask + np.uint8(1)
        server.write(Shown(index, 0.0, mask, mask, overlay, "ok", "", 0.0))
        time.sleep(0.001)
    assert time.monotonic() - start < 30
    assert ME.memory_info().rss - before < 100 << 20
    count, last = 0, -1
    while last != 300 % 256 and count < 300:
        last, count = int(pair(slow[0])["Mask"][0][0, 0]), count + 1
    assert last == 300 % 256 and count < 200
    for client in slow:
        client.close()


def test_a_reader_that_never_reads_is_let_go(server: IgtlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(igtl_sink, "_SLOWEST", 0.2)
    large = np.zeros((2048, 2048, 3), np.uint8)
    with connected(server):
        for index in range(200):
            server.write(Shown(index, 0.0, large, None, large, "ok", "", 0.0))
            time.sleep(0.05)
            if index and not server._clients:
                break
    assert not server._clients


def test_what_programs_send_is_read_and_let_go(server: IgtlServer) -> None:
    with connected(server) as client:
        client.settimeout(20)
        for _ in range(200):
            client.sendall(bytes(1 << 16))  # blocks once sockets are full, unless the server reads
        server.write(shown())
        assert set(pair(client)) == {"Mask", "Overlay"}


def test_one_program_more_than_are_served_is_turned_away(server: IgtlServer) -> None:
    clients = [connected(server) for _ in range(CLIENTS)]
    server.write(shown())
    for client in clients:
        assert set(pair(client)) == {"Mask", "Overlay"}
    with connected(server) as more:
        assert more.recv(1) == b""
    clients.pop().close()
    deadline = time.monotonic() + 20
    while len(server._clients) == CLIENTS and time.monotonic() < deadline:
        time.sleep(0.05)
    with connected(server) as another:
        assert set(pair(another)) == {"Mask", "Overlay"}
    for client in clients:
        client.close()


def test_programs_get_the_last_images_when_the_stream_ends(server: IgtlServer) -> None:
    with connected(server) as client:
        server.write(shown(0))
        assert (pair(client)["Mask"][0] == 1).all()
        server.write(shown(1))
        server.close()
        assert (pair(client)["Mask"][0] == 2).all()
        assert client.recv(1) == b""


def test_an_address_that_is_taken(server: IgtlServer) -> None:
    with pytest.raises(InputError, match=r"OpenIGTLink cannot listen on 127\.0\.0\.1"):
        IgtlServer(int(server.address.split(":")[1]))
