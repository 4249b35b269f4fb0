"""The secrets of thousands of sources: none gets through, and searching for them costs a log line next to nothing."""

from __future__ import annotations

import time

from bridge.observability.redact import HIDDEN, Redactor

SECRETS = [f"{number:05d}-horse-battery-{number * 7919 % 100_000:05d}" for number in range(10_000)]


def test_each_of_ten_thousand_secrets_is_found() -> None:
    redactor = Redactor(SECRETS)
    for secret in SECRETS[::97]:
        assert redactor.text(f"login with {secret} refused") == f"login with {HIDDEN} refused"


def test_a_secret_that_is_part_of_another_does_not_leave_the_rest_of_it() -> None:
    redactor = Redactor(["correct-horse", "correct-horse-battery-staple", "battery-staple"])
    assert redactor.text("it was correct-horse-battery-staple, then correct-horse") == f"it was {HIDDEN}, then {HIDDEN}"


def test_secrets_that_overlap_in_a_text_are_hidden_as_one() -> None:
    redactor = Redactor(["abcdefgh", "efghijklmn", "zyxwvut"])
    assert redactor.text("so abcdefghijklmn it is") == f"so {HIDDEN} it is"
    assert redactor.text("abcdefghzyxwvut") == HIDDEN * 2


def test_a_line_costs_the_same_however_many_secrets_there_are() -> None:
    redactor = Redactor(SECRETS)
    began = time.perf_counter()
    for number in range(1_000):
        redactor.text(f"source-{number}: the provider cannot be read, no answer within 30 s")
    # 15 ms; two seconds when each secret is searched for by itself.
    assert time.perf_counter() - began < 0.8
