"""The bridge lives through whatever a seed decides, and a seed always decides the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bridge.sandbox.simulate import failures, simulate

SEEDS = 120
"""In each run of the tests; `make simulate SEEDS=10000` goes on."""


@pytest.mark.timeout(600)
def test_nothing_is_lost_doubled_or_false_whatever_happens() -> None:
    done = 0
    for count, broken in failures(0, SEEDS):
        assert broken is None, broken.text()
        done += count
    assert done == SEEDS


@pytest.mark.parametrize("seed", [7, 15])
def test_a_seed_is_the_same_story_each_time_and_in_every_process(seed: int) -> None:
    digests = {simulate(seed).digest, simulate(seed).digest}
    for hash_seed in ("1", "2"):
        script = f"from bridge.sandbox.simulate import simulate; print(simulate({seed}).digest)"
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        digests.add(subprocess.check_output([sys.executable, "-c", script], env=environment, text=True).strip())
    assert len(digests) == 1


def test_things_really_happen() -> None:
    """A simulation in which nothing goes wrong proves nothing."""
    figures: dict[str, int] = {}
    told = ""
    for seed in range(15):
        report = simulate(seed)
        told += "\n".join(report.story)
        for name, figure in report.figures.items():
            figures[name] = figures.get(name, 0) + figure
    assert figures["committed"] > 300
    assert figures["aborted"] > 3
    assert figures["changes"] > 700
    for trouble in ("Fenced", "PublishFailed", "EnvironmentUnavailable", "is killed", "was silent for its session"):
        assert trouble in told, trouble
