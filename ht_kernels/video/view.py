"""A live view for a browser: MJPEG over HTTP, on loopback unless another address is asked for.

On another address every path begins with a secret word, which the printed address has, and nothing is told without it.

Beside the picture the page says what the stream says of it, and what the colours mean. It is told that twice a second,
and so also notices when the stream has ended or the server is gone: a frozen image must not look live.
"""

from __future__ import annotations

import hmac
import io
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from ht_kernels.errors import InputError
from ht_kernels.media.frames import Frame

_PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>ht_kernels: live view</title>
<meta name="viewport" content="width=device-width">
<style>
body{margin:0;background:#000;color:#eee;font:16px/1.4 sans-serif;display:flex;height:100vh;height:100dvh}
main{flex:1;min-width:0;min-height:0;position:relative}
img{display:block;width:100%;height:100%;object-fit:contain}
aside{flex:none;width:17em;box-sizing:border-box;padding:1em;background:#181818;overflow-y:auto}
dl{margin:0}
dt{color:#aaa;font-size:.85em}
dd{margin:0 0 .7em}
ul{list-style:none;margin:0;padding:0}
i{display:inline-block;width:.9em;height:.9em;margin-right:.5em;border:1px solid #888}
p{position:absolute;top:0;left:0;right:0;margin:0;font-size:20px;text-align:center;color:#ffd278;background:#280000}
p:not(:empty){padding:.6em}
.frozen img,.frozen aside{opacity:.6}
@media(max-aspect-ratio:1/1){body{flex-direction:column}aside{width:auto;max-height:40vh}}
</style>
<main><img src="stream" alt="live view"><p role="alert"></p></main>
<aside><dl></dl><ul aria-label="legend"></ul></aside>
<script>
const body = document.body, list = document.querySelector("dl"), legend = document.querySelector("ul")
const alarm = document.querySelector("p")
const element = (name, text) => Object.assign(document.createElement(name), {textContent: text})
const colored = ([name, color]) => {
  const entry = element("li", name), box = element("i", "")
  box.style.background = color
  entry.prepend(box)
  return entry
}
const show = told => {
  const lines = Object.entries(told.facts)
  list.replaceChildren(...lines.flatMap(([name, text]) => [element("dt", name), element("dd", text)]))
  legend.replaceChildren(...told.legend.map(colored))
}
const freeze = why => {
  if (alarm.textContent) return
  alarm.textContent = `${why}: this is the last image`
  body.className = "frozen"
}
const lose = () => freeze("connection lost")
let silence
const listen = () => {
  const told = new EventSource("state")
  told.onmessage = ({data}) => {
    if (alarm.textContent) return location.reload()
    clearTimeout(silence)
    silence = setTimeout(lose, 3000)
    show(JSON.parse(data))
  }
  told.addEventListener("ended", ({data}) => {
    show(JSON.parse(data))
    freeze("the stream has ended")
  })
  told.onerror = () => {
    told.close()
    lose()
    setTimeout(listen, 1000)
  }
}
listen()
</script>
"""

_LOCAL = ("127.0.0.1", "localhost", "[::1]")

_NEXT = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
"""The head of a part of the stream of pictures."""

_SECRET = 16
"""Random bytes in the secret word."""

_LAST = 30
"""Frames whose times give the rate that is shown."""

_TOLD_EVERY = 0.5
"""Seconds between two times that a page is told what to say beside the picture."""

_PATIENCE = 1.0
"""Seconds that browsers have, when the stream ends, to take the last picture and the news."""


class View:
    """Serves the newest frame to any number of browsers; a slow one misses frames and holds nothing up.

    Args:
        port: 0 for any free one.
        host: address to listen on.

    Attributes:
        address: where browsers find the page, with the secret word where others than this machine can reach it.

    Raises:
        InputError: the address cannot be listened on.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        view = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                view._answer(self)

            def log_message(self, format: str, *args: Any) -> None: ...

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"the live view cannot listen on {host}:{port} ({error}): name another port, or an address of this "
                "machine"
            ) from error
        self._server.daemon_threads = True
        self._only_local = host in ("127.0.0.1", "localhost")
        self._root = "/" if self._only_local else f"/{secrets.token_urlsafe(_SECRET)}/"
        self.address = f"http://{host}:{self._server.server_address[1]}{self._root}"
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._told: tuple[Mapping[str, str], Sequence[tuple[str, tuple[int, int, int]]]] = ({}, ())
        self._times: deque[float] = deque(maxlen=_LAST)
        self._number = 0
        self._listeners = 0
        self._closed = False
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def write(
        self,
        frame: Frame,
        facts: Mapping[str, str] | None = None,
        legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
    ) -> None:
        """Show a frame; it is compressed only when a browser looks.

        Args:
            frame: (H, W, 3) uint8 RGB.
            facts: what to say beside it, by name.
            legend: names and RGB colours of the classes in it.
        """
        with self._changed:
            self._frame, self._number = frame, self._number + 1
            self._told = facts or {}, legend
            self._times.append(time.monotonic())
            self._changed.notify_all()

    def close(self) -> None:
        """Tell browsers that the stream has ended, end every connection, and stop listening."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._listeners, _PATIENCE)
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        # A page from elsewhere may point its host name at this machine (DNS rebinding). It must not see the patient.
        if self._only_local and request.headers.get("Host", "").rsplit(":", 1)[0] not in _LOCAL:
            request.send_error(403)
            return
        root, page = request.path[: len(self._root)], request.path[len(self._root) :]
        if not hmac.compare_digest(root.encode(), self._root.encode()):  # takes as long for any wrong word
            request.send_error(403)
        elif page == "":
            _begin(request, "text/html", len(_PAGE))
            request.wfile.write(_PAGE)
        elif page == "state":
            self._send(request, "text/event-stream", self._tell)
        elif page == "stream":
            self._send(request, "multipart/x-mixed-replace; boundary=frame", self._show)
        else:
            request.send_error(404)

    def _send(self, request: BaseHTTPRequestHandler, kind: str, parts: Callable[[], Iterator[bytes]]) -> None:
        """Answer with parts, each as soon as there is one, until the stream has ended or the browser goes away."""
        with self._changed:
            self._listeners += 1
        try:
            _begin(request, kind)
            for part in parts():
                request.wfile.write(part)
        except OSError:
            pass  # the browser went away
        finally:
            with self._changed:
                self._listeners -= 1
                self._changed.notify_all()

    def _tell(self) -> Iterator[bytes]:
        """What the page says beside the picture, as server-sent events."""
        ended = False
        while not ended:
            yield b"data: %s\n\n" % self._state()
            with self._changed:
                ended = self._changed.wait_for(lambda: self._closed, _TOLD_EVERY)
        yield b"event: ended\ndata: %s\n\n" % self._state()

    def _show(self) -> Iterator[bytes]:
        """The newest frame and every newer one as JPEG, each with the head of the next part behind it.

        Chrome shows a picture when it has that head. One that came with the next frame would be a frame late.
        """
        sent = 0
        yield _NEXT
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._number > sent)  # noqa: B023
                if self._number == sent:
                    return
                sent, frame = self._number, self._frame
            assert frame is not None
            content = io.BytesIO()
            Image.fromarray(frame).save(content, "JPEG", quality=85)
            yield content.getvalue() + b"\r\n" + _NEXT

    def _state(self) -> bytes:
        """What the page says beside the picture, as JSON in one line."""
        with self._changed:
            (facts, legend), times = self._told, list(self._times)
        said = dict(facts)
        if len(times) > 1:
            said["rate"] = f"{(len(times) - 1) / max(times[-1] - times[0], 1e-9):.1f} pictures per second"
        colors = [(name, "#{:02x}{:02x}{:02x}".format(*color)) for name, color in legend]
        return json.dumps({"facts": said, "legend": colors}).encode()


def _begin(request: BaseHTTPRequestHandler, kind: str, length: int | None = None) -> None:
    """Send the head of an answer; without a length it goes on until the connection ends."""
    request.send_response(200)
    request.send_header("Content-Type", kind)
    if length is not None:
        request.send_header("Content-Length", str(length))
    request.send_header("Cache-Control", "no-store")
    request.end_headers()
