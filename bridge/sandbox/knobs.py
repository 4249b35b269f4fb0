"""Settings of the sandbox that people type as `name=value` and change while it runs: switches and rates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from bridge.errors import ConfigurationError

CLOSENESS = 0.5
"""From which similarity on a known name is suggested for an unknown one."""


class Knobs(BaseModel):
    """Immutable values by name; `changed` makes new ones. Every error is a `ConfigurationError` that names the knob."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: ClassVar[str] = "knob"
    """What one of them is called in an error."""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """From `name=value` texts over the defaults."""
        values = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals:
                raise ConfigurationError(f"A {cls.word} is written name=value, not {text!r}.")
            values[name.strip()] = value.strip()
        return cls().changed(values)

    def changed(self, values: Mapping[str, Any]) -> Self:
        """These with some values replaced; values may be texts. `Any`: whatever JSON brings."""
        for name in values:
            if name not in type(self).model_fields:
                raise ConfigurationError(f"Unknown {self.word} {name!r}{self._nearest(name)}")
        try:
            return type(self).model_validate(self.model_dump() | dict(values))
        except ValidationError as wrong:
            error = wrong.errors()[0]
            given = json.dumps(error["input"], default=str)
            raise ConfigurationError(f"{self.word.title()} {error['loc'][0]}={given}: {error['msg']}.") from wrong

    def _nearest(self, name: str) -> str:
        known = sorted(type(self).model_fields)
        matches = get_close_matches(name, known, n=1, cutoff=CLOSENESS)
        return f"; did you mean {matches[0]!r}?" if matches else f". Known: {', '.join(known)}."
