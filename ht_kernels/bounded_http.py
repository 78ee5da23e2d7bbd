"""A session of requests that goes nowhere else, and reads no answer without end."""

from __future__ import annotations

import time
from typing import Any

from ht_kernels.errors import reason
from ht_kernels.packages import import_package

MOST_BYTES = 16 << 20
"""Bytes of an answer at most: those to a search for one study, or to a stored file, have a few thousand."""


def bounded_session(seconds: float) -> Any:
    """A ``requests.Session`` that follows no redirect and gives up an answer of more than :data:`MOST_BYTES`.

    Both raise ``requests.RequestException``.

    Args:
        seconds: that an answer may take, from its first byte to its last.
    """
    requests = import_package("requests", "the archive needs requests", "requests")

    class Bounded(requests.adapters.HTTPAdapter):  # type: ignore[misc, name-defined]  # it may be missing
        def send(self, *args: Any, **options: Any) -> Any:
            answer = super().send(*args, **options)
            answer.raw = _Limited(answer.raw, seconds, requests.RequestException)
            return answer

    session = requests.Session()
    session.max_redirects = 0
    session.headers["Accept-Encoding"] = "identity"  # bytes are counted as they come
    for scheme in ("http://", "https://"):
        session.mount(scheme, Bounded())
    return session


class _Limited:
    """The bytes of an answer, as far as they may go."""

    def __init__(self, raw: Any, seconds: float, error: type[Exception]) -> None:
        self._raw, self._error = raw, error
        self._lost: Any = import_package("urllib3", "the archive needs urllib3", "urllib3").exceptions.HTTPError
        self._left, self._end = MOST_BYTES, time.monotonic() + seconds

    def read(self, count: int) -> bytes:
        try:
            part: bytes = self._raw.read(count)
        except self._lost as error:
            raise self._error(f"its answer broke off: {reason(error)}") from error
        self._left -= len(part)
        if self._left < 0:
            raise self._error(f"its answer has more than {MOST_BYTES} bytes")
        if time.monotonic() > self._end:
            raise self._error("its answer does not end")
        return part

    def close(self) -> None:
        self._raw.close()

    def release_conn(self) -> None:
        self._raw.release_conn()
