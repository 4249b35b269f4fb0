"""Conditional: whether it pays to ask for a list only if it has changed. Pure; told what was answered, decides by that.

A provider may ignore `If-None-Match`, change its ETag with every answer, or spend as long on "unchanged" as on the
list itself. And an ETag is not free for us: it is written down with each page that brings another one. So a list is
asked for conditionally only while that saved enough lately; otherwise it is tried again now and then.

This is a measurement, not a position: forgetting it costs a few requests.
"""

from __future__ import annotations

from collections import deque

TRIES = 8
"""Conditional requests that the judgement looks back on; so many without "unchanged" end them for a while."""

REST_READINGS = 100
"""Readings without the condition before it is tried again, once; at the default interval every eight minutes."""

SAVED_BYTES_MIN = 4 * 1024
"""Per conditional request, on average: less than that is in the first packets, beside the head of the answer."""

SLOWER_MAX = 1.5
""""Unchanged" that takes so many times as long as the list did saves nothing: the server is what we wait for."""


class Conditional:
    """Of one list, in one process."""

    def __init__(self) -> None:
        self._saved: deque[int] = deque(maxlen=TRIES)
        self._rest = 0
        self._bytes = 0
        self._seconds = 0.0
        self._distrusted = False

    @property
    def asks(self) -> bool:
        """Whether the next reading shall be conditional. Not before the list was seen whole once, and found large."""
        return not self._distrusted and self._rest == 0 and self._bytes >= SAVED_BYTES_MIN

    def changed(self, size: int, seconds: float, *, asked: bool) -> None:
        """The whole list came: so many bytes in so many seconds. asked: only if it had changed."""
        self._bytes, self._seconds = size, seconds
        if asked:
            self._tried(0)
        elif self._rest > 0:
            self._rest -= 1

    def unchanged(self, seconds: float) -> None:
        """The list did not have to be sent."""
        self._tried(0 if seconds > self._seconds * SLOWER_MAX else self._bytes)

    def failed(self) -> None:
        """A conditional request was not answered; in case it is because of the condition, the next one has none."""
        self._tried(0)
        self._rest = max(self._rest, 1)

    def distrust(self) -> None:
        """The same ETag named different lists: never again."""
        self._distrusted = True

    def _tried(self, saved: int) -> None:
        if len(self._saved) == TRIES and saved >= SAVED_BYTES_MIN and not self._pays():
            self._saved.clear()  # what was true before a rest does not count against it
        self._saved.append(saved)
        if len(self._saved) == TRIES and not self._pays():
            self._rest = REST_READINGS

    def _pays(self) -> bool:
        return sum(self._saved) >= SAVED_BYTES_MIN * len(self._saved)
