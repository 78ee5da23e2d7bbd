"""A bounded queue between two threads."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """Nothing more comes through a channel."""


class Channel(Generic[T]):
    """Passes items on in order.

    Args:
        capacity: items held at most.
        newest_wins: when full, drop the oldest item rather than wait.

    Attributes:
        drops: items dropped so far.
    """

    def __init__(self, capacity: int, newest_wins: bool = False) -> None:
        self.drops = 0
        self._capacity, self._newest_wins = capacity, newest_wins
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = self._nudged = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Add an item; waits while full, unless the newest wins.

        Raises:
            Closed: the channel was closed.
        """
        with self._changed:
            while len(self._items) >= self._capacity and not self._closed:
                if self._newest_wins:
                    self._items.popleft()
                    self.drops += 1
                else:
                    self._changed.wait()
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T:
        """Take the oldest item.

        Raises:
            TimeoutError: none came within ``timeout`` seconds, or :meth:`nudge` was called.
            Closed: the channel is empty and was closed. If it was closed with an error, that error is raised instead.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed or self._nudged, timeout)
            self._nudged = False
            if not self._items:
                raise (self._error or Closed) if self._closed else TimeoutError
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def nudge(self) -> None:
        """End the wait of a :meth:`get`, now or, if none waits, of the next, unless there is an item for it."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def close(self, error: BaseException | None = None, discard: bool = False) -> None:
        """Accept no more items. Closing again changes nothing.

        Args:
            error: what :meth:`get` raises when the channel is empty; None for :class:`Closed`.
            discard: drop the items inside, which could otherwise still be taken.
        """
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
            if discard:
                self._items.clear()
            self._changed.notify_all()
