"""Bounded memory between threads, by what is in flight and not by how many batches it is."""

from __future__ import annotations

import threading


class Room:
    """Holds what is in flight below a bound; what is larger than the bound passes when it is alone.

    A context manager: at its end nobody waits any longer.
    """

    def __init__(self, most: int) -> None:
        self._most, self._used, self._open = most, 0, True
        self._changed = threading.Condition()

    def enter(self, size: int) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._open and self._used and self._used + size > self._most))
            self._used += size

    def leave(self, size: int) -> None:
        """Give the room back."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
