"""Processes do not outlive the test that started them, however it ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.processes import kill_leftovers


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    yield
    kill_leftovers()
