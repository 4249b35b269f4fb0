"""Conditional: a list is asked for only-if-changed while that saved something lately."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.source.conditional import REST_READINGS, SAVED_BYTES_MIN, SLOWER_MAX, TRIES, Conditional

LARGE = 10 * SAVED_BYTES_MIN


def seen(size: int = LARGE, seconds: float = 1.0) -> Conditional:
    """A list that was read once."""
    conditional = Conditional()
    conditional.changed(size, seconds, asked=False)
    return conditional


def rested(conditional: Conditional) -> int:
    """Readings until the condition is tried again."""
    for reading in range(10 * REST_READINGS):
        if conditional.asks:
            return reading
        conditional.changed(LARGE, 1.0, asked=False)
    raise AssertionError("it is never tried again")


def test_nothing_is_asked_conditionally_before_the_list_was_seen_and_found_large() -> None:
    assert not Conditional().asks
    assert not seen(SAVED_BYTES_MIN - 1).asks
    assert seen(SAVED_BYTES_MIN).asks


def test_a_provider_that_never_says_unchanged_is_tried_again_only_now_and_then() -> None:
    conditional = seen()
    for _ in range(TRIES):
        assert conditional.asks
        conditional.changed(LARGE, 1.0, asked=True)
    assert rested(conditional) == REST_READINGS
    conditional.changed(LARGE, 1.0, asked=True)  # one try, and the next rest begins
    assert rested(conditional) == REST_READINGS


def test_a_list_that_seldom_changes_is_asked_conditionally_for_ever() -> None:
    conditional = seen()
    for number in range(100):
        assert conditional.asks
        if number % 4 == 0:
            conditional.changed(LARGE, 1.0, asked=True)
        else:
            conditional.unchanged(0.1)
    assert conditional.asks


def test_a_provider_that_begins_to_say_unchanged_is_believed_at_the_first_try() -> None:
    conditional = seen()
    for _ in range(TRIES):
        conditional.changed(LARGE, 1.0, asked=True)
    rested(conditional)
    for _ in range(3):
        conditional.unchanged(0.1)
        assert conditional.asks


def test_unchanged_that_takes_longer_than_the_list_saves_nothing() -> None:
    conditional = seen(seconds=1.0)
    for _ in range(TRIES):
        conditional.unchanged(SLOWER_MAX + 0.1)
    assert not conditional.asks


def test_a_list_that_shrinks_to_little_is_read_as_it_is() -> None:
    conditional = seen()
    conditional.changed(100, 1.0, asked=True)
    assert not conditional.asks


def test_after_a_failure_the_next_reading_has_no_condition() -> None:
    conditional = seen()
    conditional.failed()
    assert not conditional.asks
    conditional.changed(LARGE, 1.0, asked=False)
    assert conditional.asks


def test_failures_one_after_the_other_end_it_as_any_try_without_success() -> None:
    conditional = seen()
    rests = []
    for _ in range(TRIES):
        conditional.failed()
        rests.append(rested(conditional))
    assert rests == [1] * (TRIES - 1) + [REST_READINGS]


def test_who_gave_one_name_to_two_lists_is_never_asked_again() -> None:
    conditional = seen()
    conditional.distrust()
    for _ in range(2 * REST_READINGS):
        conditional.changed(LARGE, 1.0, asked=False)
        assert not conditional.asks


@given(st.lists(st.sampled_from(["changed", "unchanged", "failed"]), max_size=400))
def test_whatever_happens_a_rest_ends(events: list[str]) -> None:
    conditional = seen()
    for event in events:
        if not conditional.asks or event == "changed":
            conditional.changed(LARGE, 1.0, asked=conditional.asks)
        elif event == "unchanged":
            conditional.unchanged(0.1)
        else:
            conditional.failed()
    assert rested(conditional) <= REST_READINGS
