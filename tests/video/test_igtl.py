"""OpenIGTLink into a stream and through it: senders that are right, wrong, silent or hostile."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from helpers.clips import TINY, folded, frames
from helpers.fuzz import budget
from helpers.igtl import image, image_body, message, pair, placement, reference, sender
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.media.frames import check_frame
from ht_kernels.video import LiveSource, Stream, live, open_source
from ht_kernels.video.channel import Channel, Closed
from ht_kernels.video.igtl_connection import IgtlConnection, open_igtl
from ht_kernels.video.igtl_sink import IgtlServer
from ht_kernels.video.placement import Placement
from ht_kernels.video.stream import Shown, _Item

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(300)]
GRAY = frames(1)[0]
ME = psutil.Process()
OTHERS = message("TRANSFORM", bytes(48), "ToTracker") + message("STATUS", bytes(30), "Scanner")
OTHERS += message("STRING", b"\0\3\0\4text", "Depth") + message("WHATEVER", b"", "X")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_OPEN_TIMEOUT", 0.5)
    monkeypatch.setattr(live, "STALL", 0.5)


def endless(connection: socket.socket, number: int, kind: str = "Probe") -> None:
    for second in range(3000):
        connection.sendall(OTHERS + image(frames(3)[second % 3], kind, time=second << 32))
        time.sleep(0.02)


def opened(port: int, rest: str = "/Probe") -> LiveSource:
    source = open_source(f"igtl://127.0.0.1:{port}{rest}")
    assert isinstance(source, LiveSource)
    return source


def test_a_source_of_images_with_other_messages_between() -> None:
    with sender(endless) as port:
        source = opened(port)
        assert (source.kind, source.size, source.fps) == ("igtl", (48, 64), None)
        seen = []
        for seconds, frame, where in source.placed():
            assert where is not None and np.array_equal(frame, frames(3)[int(where.seconds) % 3])
            assert where == placement(second=int(where.seconds))
            seen.append(seconds)
            if len(seen) == 5:
                source.close()
    assert seen[0] == 0 and seen == sorted(seen)
    assert source.damaged == source.reconnects == 0


def test_the_first_device_that_sends_an_image_is_taken_and_kept() -> None:
    def two(connection: socket.socket, number: int) -> None:
        for _ in range(500):
            connection.sendall(image(GRAY, "First") + image(GRAY[::2], "Second"))
            time.sleep(0.01)

    with sender(two) as port:
        source = opened(port, "")
        for index, frame in enumerate(source):
            assert frame.shape == (48, 64)
            if index == 3:
                source.close()


@pytest.mark.usefixtures("impatient")
def test_a_wrong_name_lists_the_devices_that_were_seen() -> None:
    said = r"gives no image of a device Prob within 0.5 seconds; it sent messages of ToTracker \(TRANSFORM\), Scanner "
    said += r"\(STATUS\), Depth \(STRING\), X \(WHATEVER\), Probe \(IMAGE\)$"
    with sender(endless) as port, pytest.raises(InputError, match=said):
        opened(port, "/Prob")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (image(GRAY.repeat(2, 1), size=(64, 48, 1), scalar=5), "no frame: Probe: an image is uint16, expected uint8"),
        (b"HTTP/1.1 400 Bad Request".ljust(100), "no frame: what came is no message of OpenIGTLink"),
        (message("IMAGE", b"", size=2**40), f"no frame: a message of {2**40} bytes was announced"),
        (b"", "no image of a device Probe within 0.5 seconds; it sent messages of no device"),
    ],
)
def test_what_cannot_be_opened_is_said(content: bytes, said: str) -> None:
    with sender(lambda connection, _: connection.sendall(content)) as port, pytest.raises(InputError, match=said):
        opened(port)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(InputError, match="neither user nor password") as caught:
        open_source("igtl://me:secret@127.0.0.1:1/Probe")
    assert "secret" not in str(caught.value)


def test_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(InputError, match=r"cannot be opened \(Connection refused\): start the program"):
        opened(port)


def test_a_lost_connection_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(connection: socket.socket, number: int) -> None:
        connection.sendall(image(GRAY + np.uint8(number)) + image(GRAY)[:100])

    with sender(twice) as port:
        source = opened(port)
        monkeypatch.setattr(source._closed, "wait", lambda seconds: False)
        first = []
        for frame in source:
            first.append(int(frame[0, 0]))
            if source.reconnects == 2:
                source.close()
    assert first == [0, 1, 2]


@pytest.mark.parametrize(
    ("sides", "spacing", "expected"),
    [
        ((0.25, 0.5), None, (0.25, 0.5)),
        ((1.0, 1.0), None, None),
        ((0.25, 0.5), 0.3, (0.3, 0.3)),
        ((0.0, 0.5), None, None),
    ],
)
def test_sizes_are_in_the_millimetres_of_the_sender(
    sides: tuple[float, float], spacing: float | None, expected: tuple[float, float] | None
) -> None:
    matrix = (sides[0], 0.0, 0.0, 0.0, sides[1], 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

    def give(connection: socket.socket, number: int) -> None:
        for _ in range(300):
            connection.sendall(image(GRAY, matrix=matrix))
            time.sleep(0.02)

    with sender(give) as port:
        stream = Stream(folded(), measure=True, spacing=spacing)
        for shown in stream.run(opened(port)):
            if shown.measurements is not None:
                stream.stop()
                assert shown.measurements[0].spacing == expected
                return
    raise AssertionError("no frame was measured")


def test_the_slice_may_lie_along_any_axis() -> None:
    flat = (0.25, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.75, 0.0, 0.0, 0.0)
    sizes = {(64, 48, 1): (0.25, 0.5), (64, 1, 48): (0.25, 0.75), (1, 64, 48): (0.5, 0.75), (1, 1, 1): (0.25, 0.5)}
    assert {size: Placement(0, size, flat).pixel for size in sizes} == sizes


def test_what_is_refused_in_a_stream_is_said_in_the_picture() -> None:
    def changes(connection: socket.socket, number: int) -> None:
        for index in range(300):
            connection.sendall(image(GRAY) if index < 20 else image(GRAY.repeat(2, 1), size=(64, 48, 1), scalar=4))
            time.sleep(0.02)

    with sender(changes) as port:
        stream = Stream(folded(), stale=60)
        for shown in stream.run(opened(port)):
            if shown.state == "no signal":
                break
    assert shown.note.endswith(
        "s: Probe: an image is int16, expected uint8: let the sender convert it to 8 bits, unsigned"
    )
    assert stream.report()["damaged"] > 0


def test_a_sender_that_dribbles_is_given_up() -> None:
    def dribble(connection: socket.socket, number: int) -> None:
        connection.sendall(image(GRAY))
        for byte in image(GRAY):
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    with sender(dribble) as port, closing(open_igtl(f"igtl://127.0.0.1:{port}", 2, 0.3)) as connection:
        start = time.monotonic()
        assert len(list(connection.frames())) == 1
        assert time.monotonic() - start < 5


def test_a_late_mask_keeps_the_placement_of_its_frame() -> None:
    stream, screen, given = Stream(folded(), live=True, stale=60), Channel[_Item](1), Channel[Shown](2)
    earlier, later = placement(second=5), placement(second=6)
    stream._latest = _Item(4, 0.0, time.monotonic(), GRAY, earlier, mask=np.ones_like(GRAY))
    screen.put(_Item(5, 0.1, time.monotonic(), GRAY, later))
    screen.close()
    with pytest.raises(Closed):
        stream._show_live(screen, given)
    result = given.get(0)
    assert (result.state, result.placement, result.mask_placement) == ("late", later, earlier)


@pytest.fixture
def server() -> Iterator[IgtlServer]:
    server = IgtlServer(0)
    yield server
    server.close()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Masks and overlays come back with the times and places of the frames that were sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serve = listener.getsockname()[1]
    found: list[dict[str, tuple[np.ndarray, Placement]]] = []

    def give(connection: socket.socket, number: int) -> None:
        for second in range(3000):
            connection.sendall(image(frames(3)[second % 3], time=second << 32))
            time.sleep(0.05)
            if len(found) == 3:
                break
        thread.join(20)
        os.kill(os.getpid(), signal.SIGINT)

    def read() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", serve), 10) as client:
                    while len(found) < 3:
                        found.append(pair(client))
                    return
            except (OSError, EOFError):
                time.sleep(0.1)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    with sender(give) as port:
        words = ["stream", f"igtl://127.0.0.1:{port}/Probe", "--igtl", str(serve), "--output", str(tmp_path / "out")]
        assert main([*words, *TINY]) == 0
    assert f"OpenIGTLink: 127.0.0.1:{serve}" in capsys.readouterr().err
    assert len(found) == 3
    for each in found:
        for pixels, where in each.values():
            assert where == placement(second=int(where.seconds)) and pixels.shape[:2] == (48, 64)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["input"]["kind"] == "igtl" and report["interrupted"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference(tmp_path_factory.mktemp("reference"), ROOT / "examples" / "openigtlink.cpp")


@pytest.mark.parametrize("components", [1, 3])
def test_the_reference_implementation_on_both_sides(program: Path, components: int, server: IgtlServer) -> None:
    """Its sender, our stream, its receiver: label maps and overlays have the geometry and times of the frames sent."""
    sends = [program, "send", "0", "64", "48", str(components), "1000"]
    host, port = server.address.split(":")
    with subprocess.Popen(sends, stdout=subprocess.PIPE, text=True) as sending:
        assert sending.stdout is not None
        stream = Stream(folded(), stale=60)
        source = opened(int(sending.stdout.readline()))
        receives = [program, "receive", host, port, "6"]
        with subprocess.Popen(receives, stdout=subprocess.PIPE, text=True) as receiving:
            for result in stream.run(source):
                x, y = np.meshgrid(np.arange(64), np.arange(48))
                assert result.placement is not None
                index = int(result.placement.seconds) - 1_700_000_000
                sent = np.stack([x + 2 * y + 40 * c + 3 * index for c in range(components)], -1).astype(np.uint8)
                assert np.array_equal(result.frame.reshape(sent.shape), sent)
                server.write(result)
                if receiving.poll() is not None:
                    stream.stop()
            assert receiving.stdout is not None and receiving.returncode == 0
            lines = [json.loads(line) for line in receiving.stdout]
        sending.kill()
    assert {line["device"] for line in lines} == {"Mask", "Overlay"}
    for line in lines:
        assert line["size"] == [64, 48, 1] and line["components"] == (1 if line["device"] == "Mask" else 3)
        assert line["time"][0] >= 1_700_000_000 and line["time"][1] == pytest.approx(5e8, abs=100)
        assert line["spacing"] == [0.25, 0.5, 1] and line["centre"] == [10, -20.5, 30.25]
        assert line["axes"] == pytest.approx([0.8660254, 0.5, 0, -0.5, 0.8660254, 0, 0, 0, 1])


def test_pyigtl_on_both_sides(server: IgtlServer) -> None:
    pyigtl = pytest.importorskip("pyigtl")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    matrix = np.array([[0.25, 0, 0, 4], [0, 0.5, 0, 5], [0, 0, 1, 6], [0, 0, 0, 1]], np.float32)
    sending = pyigtl.OpenIGTLinkServer(port=free, local_server=True)
    done = threading.Event()

    def send() -> None:
        for index in range(3000):
            if done.is_set():
                return
            sent = pyigtl.ImageMessage(
                frames(3)[index % 3][None], ijk_to_world_matrix=matrix, timestamp=index, device_name="Probe"
            )
            sending.send_message(sent, wait=False)
            sending.send_message(pyigtl.StringMessage("text", device_name="Depth"), wait=False)
            time.sleep(0.03)

    threading.Thread(target=send, daemon=True).start()
    host, port = server.address.split(":")
    receiving = pyigtl.OpenIGTLinkClient(host, int(port))
    stream = Stream(folded(), stale=60)
    found: dict[str, object] = {}
    deadline = time.monotonic() + 60
    for result in stream.run(opened(free)):
        server.write(result)
        if "Mask" not in found or "Overlay" not in found:
            found |= {said.device_name: said for said in receiving.get_latest_messages()}
        if len(found) == 2 or time.monotonic() > deadline:
            stream.stop()
    done.set()
    receiving.stop()
    sending.stop()
    assert set(found) == {"Mask", "Overlay"}
    for said in found.values():
        assert said.ijk_to_world_matrix == pytest.approx(matrix) and said.timestamp == int(said.timestamp)
        assert said.image.shape == ((1, 48, 64) if said.device_name == "Mask" else (1, 48, 64, 3))


LENGTHS = st.sampled_from([0, 1, 12, 71, 72, 73, 3072, 3144, 2**16, 2**26, 2**26 + 1, 2**31, 2**32, 2**63, 2**64 - 1])
SMALL = st.sampled_from([0, 1, 2, 3, 4, 47, 48, 64, 65535])
HOSTILE_IMAGE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("version", "size_1", "size_2", "size_3"), SMALL),
        **dict.fromkeys(("components", "scalar", "endian", "coordinates"), st.integers(0, 255)),
        "matrix": st.lists(st.floats(width=32), min_size=12, max_size=12),
        "part": st.tuples(SMALL, SMALL, SMALL),
    },
)


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """One message with anything wrong in it."""
    values = draw(HOSTILE_IMAGE)
    size = tuple(values.pop(f"size_{i}", usual) for i, usual in ((1, 64), (2, 48), (3, 1)))
    body = bytearray(image_body(GRAY, size=size, **values))
    version = draw(st.sampled_from([1, 1, 1, 2, 2, 3, 0, 4, 65535]))
    if version in (2, 3):
        short, long = st.sampled_from([0, 11, 12, 13, 65535]), st.sampled_from([0, 1, 3072, 2**31, 2**32 - 1])
        body[:0] = struct.pack(">HHII", draw(short), draw(short), draw(long), 0)
    for place, value in draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)):
        body[int(place * len(body))] = value
    other = draw(st.fixed_dictionaries({}, optional={"size": LENGTHS, "crc": st.integers(0, 2**64 - 1)}))
    kind = draw(st.sampled_from(["IMAGE", "IMAGE", "IMAGE", "STRING", "STATUS", "TRANSFORM", "", "\x1b[2J"]))
    content = message(kind, bytes(body), draw(st.sampled_from(["Probe", "", "x" * 20])), version, **other)
    return content[: max(1, int(draw(st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.01])) * len(content)))]


@pytest.mark.timeout(7200)
@budget(100)
@given(content=hostile())
def test_a_hostile_sender(content: bytes) -> None:
    """Whatever comes behind a good image gives frames or sentences, and what is announced takes no memory."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(image(GRAY) + content + image(GRAY))
        theirs.shutdown(socket.SHUT_WR)
        connection = IgtlConnection("igtl://hostile", ours, 1, 1)
        before = ME.memory_info().rss
        try:
            for came in connection.frames():
                if isinstance(came, str):
                    assert "\n" not in came and came.isprintable()
                else:
                    check_frame(came[0], 0)
                    assert came[1] is not None and came[0].shape[:2] <= (65535, 65535)
        except InputError as error:
            assert str(error).isprintable()
        assert ME.memory_info().rss - before < 100 << 20
