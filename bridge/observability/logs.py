"""Logs: one line per record, the same shape for the bridge and for the libraries below it.

`configure` is called once, by the command line, before anything else runs. Records of structlog and of the
standard library (aiokafka, aiohttp, asyncio, warnings) meet in one formatter, so that no record passes the
`Redactor` by. A traceback appears at level debug only, an expected fault never has one. The client of Kafka
prints the SASL password and record values at its debug level; its loggers stay at INFO whatever the level
is.

`Throttle` keeps the same complaint from being repeated: a provider that is down for a day fills no disk.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Hashable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter

from bridge.clock import Clock
from bridge.model import iso
from bridge.observability.redact import KEY_CHARS_MAX, Plain, Redactor

Style = Literal["json", "console"]
Level = Literal["debug", "info", "warning", "error"]

PINNED = ("aiokafka",)
"""Loggers that never print below INFO."""

FIELDS_MAX = 40
"""Fields of one record; the rest is dropped and counted."""

COMPLAINTS_MAX = 4096
"""Complaints that one `Throttle` remembers; the oldest is forgotten first and may then be repeated early."""

EventDict = MutableMapping[str, Any]
"""structlog's own type of a record under way; `Any` because callers log whatever they have."""

_HEAD = ("time", "level", "logger", "event")
_RESERVED = frozenset({*_HEAD, "traceback"})
_INTERNAL = ("_record", "_from_structlog")


def configure(style: Style, level: Level, stream: TextIO, secrets: Iterable[str] = ()) -> None:
    """Send every record of the process to `stream`; calling it again replaces the former setting.

    secrets: values from the configuration that must not appear even inside a foreign message.
    """
    redact = _Redact(Redactor(secrets), debug=level == "debug")
    formatter = ProcessorFormatter(
        foreign_pre_chain=[_first_line_of_asyncio, redact],
        processors=[_head, _render_json if style == "json" else _render_console],
    )
    handler = _Handler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(_unpinned)
    root = logging.getLogger()
    for former in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in PINNED:
        # It narrates every rebalance and, while a broker is away, complains ten times a second and client. What
        # matters of it reaches us as errors of ours.
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else logging.CRITICAL)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            # Before the record leaves structlog, so that no other handler of the process sees it bare.
            redact,
            ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def get_logger(name: str) -> BoundLogger:
    """The logger of a module, `get_logger(__name__)`. Log an event in few words and the rest as fields."""
    logger: BoundLogger = structlog.stdlib.get_logger(name)
    return logger


class Throttle:
    """When a complaint may be logged again: not before `interval_s`, nor before the back-off is over.

    Not a queue: what is kept quiet is counted, and the count goes into the next line that is logged.
    """

    def __init__(self, interval_s: float, clock: Clock) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._complaints: dict[Hashable, tuple[float, int]] = {}

    def admit(self, complaint: Hashable, back_off_s: float = 0.0) -> int | None:
        """None: keep quiet. Else log now; the number says how often it was kept quiet since the last line.

        back_off_s: how long the caller waits before it tries again; no further line before that.
        """
        now = self._clock.monotonic()
        quiet_until, kept = self._complaints.get(complaint, (now, 0))
        if now < quiet_until:
            self._complaints[complaint] = (quiet_until, kept + 1)
            return None
        self._complaints.pop(complaint, None)
        if len(self._complaints) >= COMPLAINTS_MAX:
            del self._complaints[next(iter(self._complaints))]
        self._complaints[complaint] = (now + max(self._interval_s, back_off_s), 0)
        return kept

    def over(self, complaint: Hashable) -> bool:
        """The cause is gone; True when the complaint had been logged, so that its end deserves a line too."""
        return self._complaints.pop(complaint, None) is not None


class _Redact:
    """Replaces what was logged by plain, redacted values; an error by its description."""

    def __init__(self, redactor: Redactor, *, debug: bool) -> None:
        self._redactor = redactor
        self._debug = debug

    def __call__(self, logger: object, method: str, event_dict: EventDict) -> EventDict:
        redact = self._redactor
        error = _error(event_dict.pop("exc_info", None))
        event_dict.pop("stack_info", None)
        kept = {name: event_dict.pop(name) for name in _INTERNAL if name in event_dict}
        record: dict[str, Any] = {"event": redact.value(event_dict.pop("event", ""))}
        for index, (key, value) in enumerate(event_dict.items()):
            if index == FIELDS_MAX:
                record["fields_dropped"] = len(event_dict) - FIELDS_MAX
                break
            name = redact.text(key, KEY_CHARS_MAX)
            record[f"{name}_" if name in _RESERVED else name] = redact.field(key, value)
        if error is not None:
            record["error"] = redact.error(error)
            if self._debug:
                record["traceback"] = redact.traceback(error)
        return record | kept


def _first_line_of_asyncio(logger: object, method: str, event_dict: EventDict) -> EventDict:
    """The further lines of asyncio's complaints are the `repr` of a task, the text of its exception included."""
    if event_dict["_record"].name == "asyncio":
        event_dict["event"] = event_dict["event"].partition("\n")[0]
    return event_dict


def _head(logger: object, method: str, event_dict: EventDict) -> EventDict:
    """Puts in front what the standard library knows of the record."""
    source: logging.LogRecord = event_dict.pop("_record")
    event_dict.pop("_from_structlog")
    return {
        "time": iso(int(source.created * 1000) * 1000),
        "level": source.levelname.lower(),
        "logger": Redactor().text(source.name, KEY_CHARS_MAX),
        **event_dict,
    }


def _error(exc_info: object) -> BaseException | None:
    """The error of any form of `exc_info` that logging and structlog accept."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if len(exc_info) == 3 and isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _render_json(logger: object, method: str, record: EventDict) -> str:
    return orjson.dumps(record).decode()


def _render_console(logger: object, method: str, record: EventDict) -> str:
    """For people: `time level logger: event  key=value …`; traceback lines cannot pass for a record."""
    trace = record.pop("traceback", ())
    fields = [f"{key}={_word(value)}" for key, value in record.items() if key not in _HEAD]
    head = f"{record['time']} {record['level']:<7} {record['logger']}: {record['event']}"
    return "\n    | ".join(["  ".join([head, " ".join(fields)]) if fields else head, *trace])


def _word(value: Plain) -> str:
    """A value as one word: as it is when that is unambiguous, else as JSON."""
    if isinstance(value, str) and value and not any(mark in value for mark in " =\"'"):
        return value
    return json.dumps(value, ensure_ascii=False)


def _unpinned(record: logging.LogRecord) -> bool:
    """Drops what a child of a pinned logger says below INFO, even when that child has a level of its own."""
    return record.levelno >= logging.INFO or record.name.partition(".")[0] not in PINNED


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines. A record that cannot be written is announced without its content."""

    def handleError(self, record: logging.LogRecord) -> None:
        # The standard handler prints the record's arguments here, whatever they hold.
        with suppress(OSError, ValueError):
            self.stream.write('{"level":"error","event":"a log record could not be written"}\n')
