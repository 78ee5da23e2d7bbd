"""A live view for a browser: MJPEG over HTTP, on loopback unless another address is asked for."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from ht_kernels.errors import InputError
from ht_kernels.media.frames import Frame

_PAGE = b"""<!doctype html><meta charset="utf-8"><title>ht_kernels</title>
<style>
body{margin:0;background:#000}
img{display:block;margin:auto;width:100vw;height:100vh;object-fit:contain}
p{display:none;position:fixed;top:0;width:100%;margin:0;padding:.6em 0;font:20px sans-serif;text-align:center}
.lost p{display:block;color:#ffd278;background:#280000}
.lost img{opacity:.4}
</style>
<body><img src="/stream" alt="live view"><p>connection lost: this is the last image</p>
<script>
const state = document.body.classList
const lose = () => state.add("lost")
const find = () => state.contains("lost") && location.reload()
setInterval(() => fetch("/").then(find, lose), 1000)
</script>
"""
"""The page asks every second whether the server still answers, because a frozen image must not look live."""

_LOCAL = ("127.0.0.1", "localhost", "[::1]")


class View:
    """Serves the newest frame to any number of browsers; a slow one misses frames and holds nothing up.

    Args:
        port: 0 for any free one.
        host: address to listen on.

    Attributes:
        address: where browsers find the page.

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
            raise InputError(f"the live view cannot listen on {host}:{port}: {error}; choose another port") from error
        self._server.daemon_threads = True
        self._only_local = host in ("127.0.0.1", "localhost")
        self.address = f"http://{host}:{self._server.server_address[1]}/"
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._number = 0
        self._closed = False
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def write(self, frame: Frame) -> None:
        """Show a frame (H, W, 3) uint8 RGB; it is compressed only when a browser looks."""
        with self._changed:
            self._frame, self._number = frame, self._number + 1
            self._changed.notify_all()

    def close(self) -> None:
        """End every connection and stop listening."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        # A page from elsewhere may point its host name at this machine (DNS rebinding). It must not see the patient.
        if self._only_local and request.headers.get("Host", "").rsplit(":", 1)[0] not in _LOCAL:
            request.send_error(403)
        elif request.path == "/":
            request.send_response(200)
            request.send_header("Content-Type", "text/html")
            request.send_header("Content-Length", str(len(_PAGE)))
            request.end_headers()
            request.wfile.write(_PAGE)
        elif request.path == "/stream":
            self._send(request)
        else:
            request.send_error(404)

    def _send(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.send_header("Cache-Control", "no-store")
        request.end_headers()
        sent = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._number > sent)  # noqa: B023
                if self._closed:
                    return
                sent, frame = self._number, self._frame
            assert frame is not None
            content = io.BytesIO()
            Image.fromarray(frame).save(content, "JPEG", quality=85)
            jpeg = content.getvalue()
            try:
                request.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
                request.wfile.write(jpeg + b"\r\n")
            except OSError:
                return  # the browser went away
