"""OpenIGTLink on this machine: what a message of 1080x1920 pixels costs, and a stream that takes and serves them.

``python -m benchmarks.openigtlink --output FILE`` writes FILE (JSON) and a table in Markdown beside it, in a minute.
Packing and parsing are set beside pyigtl where it is installed; the two take turns, and their time is the processor's,
which other programs lengthen less than the clock's. The stream gets RGB images at 30 a second from a thread of this
process over loopback, and another thread reads masks and overlays.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any

import numpy as np

from ht_kernels.bench.stream import BACKBONE, segmentation_model
from ht_kernels.errors import InputError
from ht_kernels.packages import installed
from ht_kernels.video import LiveSource, Stream, open_source
from ht_kernels.video.igtl_messages import HEADER, pack_image, read_header, read_image
from ht_kernels.video.igtl_sink import IgtlServer
from ht_kernels.video.placement import Placement

from . import figures

FPS = 30
SIZE = 1080, 1920


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Return exit status 0, or 2 for bad input."""
    args = figures.options("openigtlink", __doc__, 10).parse_args(argv)
    try:
        rows = [measure(name, channels, args.seconds) for name, channels in (("gray", 1), ("RGB", 3))]
        played = play(args.seconds)
        figures.write(args.output, rows, table(rows, played), stream=played)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(table(rows, played)))
    return 0


def measure(name: str, channels: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of processor time to pack and to parse an image, medians."""
    height, width = SIZE
    shape = (height, width) if channels == 1 else (height, width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    placement = Placement.unknown(height, width)
    head, body = pack_image("Probe", pixels, placement)
    message = np.frombuffer(head[HEADER:] + body.tobytes(), np.uint8)
    ways: dict[str, Callable[[], object]] = {
        "pack": lambda: pack_image("Probe", pixels, placement),
        "parse": lambda: read_image(read_header(head[:HEADER]), message),
    }
    if installed("pyigtl"):
        from pyigtl.messages import ImageMessage, MessageBase

        theirs, content = ImageMessage(pixels[None], device_name="Probe"), message.tobytes()
        ways["pyigtl packs"] = theirs.pack
        ways["pyigtl parses"] = lambda: ImageMessage().unpack(MessageBase.parse_header(head[:HEADER]), content)
    times: dict[str, list[float]] = {way: [] for way in ways}
    end = time.monotonic() + seconds
    while time.monotonic() < end or not times["pack"]:
        for way, call in ways.items():
            start = time.thread_time()
            call()
            times[way].append(1e3 * (time.thread_time() - start))
    return {"image": name, "height": height, "width": width, "ms": {way: median(each) for way, each in times.items()}}


def play(seconds: float) -> dict[str, Any]:
    """The report of a stream from a sender to a reader, and how many images each of the two saw."""
    stream = Stream(segmentation_model(BACKBONE), stale=10)
    source_port, stop, seen = _send()
    server = IgtlServer(0)
    reading = threading.Thread(target=_read, args=(server.address, seen), daemon=True)
    reading.start()
    source = open_source(f"igtl://127.0.0.1:{source_port}/Probe")
    assert isinstance(source, LiveSource)
    timer = threading.Timer(seconds, stream.stop)
    timer.start()
    for shown in stream.run(source):
        server.write(shown)
    stop.set()
    server.close()
    reading.join(5)
    report = stream.report()
    kept = {name: report[name] for name in ("frames", "fps", "masks_per_second", "states", "drops", "latency_ms")}
    return {"model": BACKBONE, "seconds": seconds, **seen, **kept}


def _send() -> tuple[int, threading.Event, dict[str, int]]:
    """Start a sender; returns its port, what ends it, and a count of what it sent."""
    listener, stop, seen = socket.create_server(("127.0.0.1", 0)), threading.Event(), {"sent": 0, "read": 0}
    height, width = SIZE
    ramp = np.add.outer(np.linspace(0, 100, height), np.linspace(0, 100, width)).astype(np.uint8)
    pixels = np.repeat(ramp[..., None], 3, 2)
    head, body = pack_image("Probe", pixels, Placement.unknown(*SIZE))

    def send() -> None:
        connection, _ = listener.accept()
        due = time.monotonic()
        with connection, listener, suppress(OSError):
            while not stop.is_set():
                connection.sendall(head)
                connection.sendall(body.data)
                seen["sent"] += 1
                due += 1 / FPS
                time.sleep(max(0.0, due - time.monotonic()))

    threading.Thread(target=send, daemon=True).start()
    return listener.getsockname()[1], stop, seen


def _read(address: str, seen: dict[str, int]) -> None:
    host, port = address.split(":")
    place = memoryview(bytearray(16 << 20))
    with socket.create_connection((host, int(port))) as client, suppress(EOFError, OSError):
        while True:
            header = read_header(bytes(_fill(client, place[:HEADER])))
            _fill(client, place[: header.size])
            seen["read"] += header.device == "Overlay"


def _fill(client: socket.socket, place: memoryview) -> memoryview:
    rest = place
    while rest:
        count = client.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return place


def table(rows: list[dict[str, Any]], played: dict[str, Any]) -> list[str]:
    """The lines of a Markdown table of milliseconds, and a sentence about the stream."""
    ways = list(rows[0]["ms"])
    lines = [f"| {SIZE[0]}x{SIZE[1]}, ms | {' | '.join(ways)} |", f"|---|{'--:|' * len(ways)}"]
    for row in rows:
        lines.append(f"| {row['image']} | {' | '.join(f'{value:.2f}' for value in row['ms'].values())} |")
    age, delay = (played["latency_ms"].get(name) for name in ("frame_age", "mask_delay"))
    said = f"Stream: {played['sent']} images sent, {played['frames']} shown, {played['read']} overlays read, "
    said += f"{played['masks_per_second']} masks a second"
    for name, latency in (("frame to overlay", age), ("frame to its mask", delay)):
        if latency is not None:
            said += f"; {name} {latency['p50']:.1f} ms in the median, {latency['p99']:.1f} at p99"
    return [*lines, "", f"{said}."]


if __name__ == "__main__":
    sys.exit(main())
