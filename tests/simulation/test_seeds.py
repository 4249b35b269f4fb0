"""Whole bridges in virtual time, one seed after the other: nothing lost, nothing twice, whatever happens to them."""

from __future__ import annotations

import pytest

from bridge.sandbox.simulate import simulate

SEEDS = 200
AT_ONCE = 20
"""Seeds of one test; a failure names its seed, and `python -m bridge.sandbox.simulate --first SEED` tells its story."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_seeds(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        report = simulate(seed)
        assert report.ok, report.text()


def test_a_seed_always_does_the_same() -> None:
    assert simulate(7).digest == simulate(7).digest
