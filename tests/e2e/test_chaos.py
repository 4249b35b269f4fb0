"""The short form of `make chaos`: half a minute of it in every run."""

from __future__ import annotations

import pytest

from tests.e2e.chaos import chaos

SECONDS = 30.0


@pytest.mark.timeout(290)
@pytest.mark.kafka
async def test_half_a_minute_of_chaos() -> None:
    done, verdict = await chaos(SECONDS, seed=4)
    assert sum(done.values()) >= 5
    assert "verify: ok" in verdict
