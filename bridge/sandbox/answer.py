"""Answers inside a simulated API, before they become HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.source.transport import Request

JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"


@dataclass(slots=True)
class Answer:
    """What the endpoint says, and how badly it is delivered.

    rows: the elements of a list as JSON; they become the body when the faults have had their turn.
    delay_s: before the first byte. slow_s: from the first byte to the last. cut: the body breaks off in the middle.
    """

    status: int = 200
    body: bytes = b""
    rows: list[bytes] | None = None
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": JSON})
    delay_s: float = 0.0
    slow_s: float = 0.0
    cut: bool = False

    def seal(self) -> None:
        """Turn rows into the body."""
        if self.rows is not None:
            self.body = b"[%b]" % b",".join(self.rows)
            self.rows = None


def header(request: Request, name: str) -> str:
    """The value of a header of the request, empty when it is not there. `name` in lower case."""
    return next((value for key, value in request.headers.items() if key.lower() == name), "")
