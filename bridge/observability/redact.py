"""Turn anything into text that may leave the process: bounded, printable, no secret, no personal data.

Log lines and the status page pass every value through a `Redactor`. It works by allow-list: text, numbers,
lists and mappings are shown, an error is shown by type and place, any other object only by its type, because
a `repr` may hold a whole customer. Text is searched for what looks like a credential or an e-mail address
and for the secrets that are known by value. It cannot recognise a person's name in free text: whoever logs
passes uids and counts, not documents.
"""

from __future__ import annotations

import base64
import json
import math
import re
import traceback
from collections.abc import Iterable, Mapping
from datetime import date
from enum import Enum
from pathlib import PurePath
from types import TracebackType
from urllib.parse import quote, quote_plus

from pydantic import Secret, SecretBytes, SecretStr

from bridge.errors import BridgeError

HIDDEN = "***"

TEXT_CHARS_MAX = 500
"""A value is cut here: enough for every message of ours, too little for a provider to fill a disk."""

SEARCH_CHARS_MAX = 8192
"""Of a longer text no more is looked at; bounds the time that one hostile line takes to some milliseconds."""

KEY_CHARS_MAX = 64
ITEMS_MAX = 30
"""Of a list or mapping."""

DEPTH_MAX = 4

SECRET_CHARS_MIN = 6
"""Shorter known secrets are not searched for in text; they would blank out ordinary words."""

TRACEBACK_LINES_MAX = 80
CAUSES_MAX = 5
"""Depth of a chain of errors that a traceback follows."""

GROUP_MAX = 3
"""Errors of a group that are named in one line."""

_SECRET_WORDS = r"passw(?:or)?d|passphrase|secret|token|authorization|credential|cookie|api[_-]?key|private[_-]?key"
_SECRET_KEY = re.compile(rf"(?i){_SECRET_WORDS}|^(?:pwd|auth|jwt|bearer)$|signature$")
_PERSONAL_KEY = re.compile(
    r"(?i)e[_-]?mail|phone|birth|(?:first|last|full|given|family|user)[_-]?name|[a-z_-]address|addresses"
    r"|^(?:gender|company|consents|customer_?id|attributes|metadata|extra|favorite_store)$"
    r"|^(?:body|before|after|document|payload|raw|values?|data|row|ip)$"
)
_SECRET_TEXT = (
    (re.compile(r"(?i)\b(bearer|basic|digest)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            rf"(?i)((?:{_SECRET_WORDS})[\w.-]{{0,40}}['\"]?\s?[=:]\s?)"
            r"(?:\"[^\"]*\"|'[^']*'|[^\s,;&'\")}\]]+)"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"://[^/\s@]+@"), f"://{HIDDEN}@"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"), HIDDEN),
    (re.compile(r"[^\s@<>\"'=:,;()\[\]]{1,64}(?:@|%40)[^\s@<>\"'=:,;()\[\]]{1,255}"), "<email>"),
)

_SPEAKING_MODULES = frozenset({"aiokafka", "ssl", "socket"})
"""Errors of these packages speak about hosts, topics and offsets, never about a document."""

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""What a log record or a page may hold."""


class Redactor:
    """Makes values harmless; finds the configured secrets inside foreign messages too."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # By their first characters: a text is searched in one pass, however many secrets there are.
        self._forms: dict[str, list[str]] = {}
        for form in {form for secret in secrets for form in _forms(secret)}:
            self._forms.setdefault(form[:SECRET_CHARS_MIN], []).append(form)

    def text(self, text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
        """One line, printable, without secrets and e-mail addresses, cut at `chars_max`."""
        text = text[:SEARCH_CHARS_MAX]
        text = self._without_known(text)
        for pattern, replacement in _SECRET_TEXT:
            text = pattern.sub(replacement, text)
        if not text.isprintable():
            # Controls, ends of lines, direction marks, surrogates: all that steers a terminal or hides text.
            text = "".join(char if char.isprintable() else _escape(char) for char in text)
        return text if len(text) <= chars_max else f"{text[:chars_max]}…"

    def _without_known(self, text: str) -> str:
        """The known secrets hidden; those that overlap as one."""
        if not self._forms:
            return text
        parts: list[str] = []
        hidden = 0  # the text is done up to here
        for at in range(len(text) - SECRET_CHARS_MIN + 1):
            for form in self._forms.get(text[at : at + SECRET_CHARS_MIN], ()):
                if text.startswith(form, at):
                    if at >= hidden:
                        parts += (text[hidden:at], HIDDEN)
                    hidden = max(hidden, at + len(form))
        return "".join(parts) + text[hidden:]

    def field(self, key: str, value: object, depth: int = DEPTH_MAX) -> Plain:
        """The value of a named field: hidden when the name says secret or person, else as `value`."""
        if value is None or isinstance(value, bool):
            return value
        if _SECRET_KEY.search(key) or _PERSONAL_KEY.search(key):
            return HIDDEN
        return self.value(value, depth)

    def value(self, value: object, depth: int = DEPTH_MAX) -> Plain:
        """A plain copy of `value`; what is not on the allow-list appears by its type only."""
        if isinstance(value, Enum):
            value = value.value
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int):
            return int(value) if value.bit_length() < 64 else f"<{value.bit_length()} bit integer>"
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, Secret | SecretStr | SecretBytes):
            return HIDDEN
        if isinstance(value, BaseException):
            return self.error(value)
        if isinstance(value, date | PurePath):
            return self.text(str(value))
        if isinstance(value, Mapping) and depth > 0:
            return self._mapping(value, depth)
        if type(value) in (list, tuple, set, frozenset) and depth > 0:
            return self._items(list(value), depth)  # type: ignore[call-overload]  # narrowed by exact type
        return f"<{type(value).__name__}>"

    def error(self, error: BaseException) -> str:
        """Type and message of an error whose messages are ours or harmless; type and place of any other."""
        name = type(error).__name__
        if isinstance(error, BaseExceptionGroup):
            inner = "; ".join(map(self.error, error.exceptions[:GROUP_MAX]))
            return self.text(f"{name} of {len(error.exceptions)}: {inner}")
        package = type(error).__module__.partition(".")[0]
        if isinstance(error, BridgeError | OSError) or package in _SPEAKING_MODULES:
            message = self.text(str(error))
            return f"{name}: {message}" if message else name
        place = _place(error.__traceback__)
        return f"{name} at {place}" if place else name

    def traceback(self, error: BaseException) -> list[str]:
        """Frames and errors with their causes, oldest first, one line each; messages as in `error`."""
        lines = [self.text(line) for line in self._trace(error, CAUSES_MAX)]
        return lines if len(lines) <= TRACEBACK_LINES_MAX else ["…", *lines[-TRACEBACK_LINES_MAX:]]

    def _trace(self, error: BaseException, causes: int) -> list[str]:
        lines: list[str] = []
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None and causes > 0:
            lines += [*self._trace(cause, causes - 1), "which led to"]
        for entry in traceback.format_tb(error.__traceback__, limit=-TRACEBACK_LINES_MAX):
            lines += [line for line in entry.splitlines() if line.strip(" ^~")]
        lines.append(self.error(error))
        if isinstance(error, BaseExceptionGroup) and causes > 0:
            for index, inner in enumerate(error.exceptions[:GROUP_MAX]):
                lines += [f"inner error {index}", *self._trace(inner, causes - 1)]
        return lines

    def _mapping(self, value: Mapping[object, object], depth: int) -> Plain:
        shown: dict[str, Plain] = {}
        for index, (key, item) in enumerate(value.items()):
            if index == ITEMS_MAX:
                shown["…"] = f"+{len(value) - ITEMS_MAX}"
                break
            name = key if isinstance(key, str) else type(key).__name__
            shown[self.text(name, KEY_CHARS_MAX)] = self.field(name, item, depth - 1)
        return shown

    def _items(self, items: list[object], depth: int) -> Plain:
        shown = [self.value(item, depth - 1) for item in items[:ITEMS_MAX]]
        return shown if len(items) <= ITEMS_MAX else [*shown, f"…+{len(items) - ITEMS_MAX}"]


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return {9: r"\t", 10: r"\n", 13: r"\r"}.get(code, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _place(trace: TracebackType | None) -> str:
    """`folder/file.py:line` of the innermost frame."""
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{'/'.join(PurePath(trace.tb_frame.f_code.co_filename).parts[-2:])}:{trace.tb_lineno}"


def _forms(secret: str) -> set[str]:
    """A secret as it may appear: clear, quoted, hex, and inside base64 at any of the three alignments."""
    if len(secret) < SECRET_CHARS_MIN:
        return set()
    raw = secret.encode("utf-8", "surrogatepass")
    forms = {secret, quote(raw), quote(raw, safe=""), quote_plus(raw), raw.hex(), raw.hex().upper()}
    forms |= {repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    for shift in range(3):
        # Only the characters that depend on the secret alone; the edges mix with its neighbours.
        first, last = -(-shift * 8 // 6), (shift + len(raw)) * 8 // 6
        padded = b"\0" * shift + raw
        forms.add(base64.b64encode(padded).decode()[first:last])
        forms.add(base64.urlsafe_b64encode(padded).decode()[first:last])
    return {form for form in forms if len(form) >= SECRET_CHARS_MIN}
