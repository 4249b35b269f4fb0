"""Which tag is asked about next, and when: pure."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from bridge.runtime.memberships.rounds import (
    ROUTINE_SHARE,
    SWEEP_SHARE,
    WAIT_S_MAX,
    WAIT_S_MIN,
    Count,
    Job,
    Now,
    Rounds,
    RoundsPlan,
    Work,
    requests_of,
)

WALL = 1_000_000.0


def now(at: float) -> Now:
    return Now(WALL + at, at)


def rounds(tags: int, *, swept: float | None = WALL, members: int = 10, plan: RoundsPlan | None = None) -> Rounds:
    made = Rounds(plan or RoundsPlan(10.0, 1000.0, 2.0))
    for number in range(tags):
        made.add(f"t{number}", swept, members)
    return made


class Play:
    """Does what is asked for, one request a time, at the pace that is allowed."""

    def __init__(self, played: Rounds, theirs: int = 10) -> None:
        self.rounds = played
        self.at = 0.0
        self.jobs: list[tuple[float, Job]] = []
        self.left: dict[str, int] = {}
        self.began: dict[str, float] = {}
        self.theirs = theirs
        self.allowed_per_s = 100.0

    def until(self, at: float) -> Play:
        while self.at < at:
            job = self.rounds.next(now(self.at))
            if not isinstance(job, Job):
                self.at += job
                continue
            self.jobs.append((self.at, job))
            self.rounds.spent(now(self.at), 1, self.allowed_per_s)
            if job.work is Work.PROBE:
                self.rounds.counted(job.tag, now(self.at), Count(10, self.theirs))
                continue
            self.began.setdefault(job.tag, WALL + self.at)
            self.left[job.tag] = self.left.get(job.tag, requests_of(10)) - 1
            if self.left[job.tag] == 0:
                del self.left[job.tag]
                self.rounds.read(job.tag, now(self.at), self.began.pop(job.tag), Count(10, self.theirs, True))
        return self

    def count(self, work: Work) -> Counter[str]:
        return Counter(job.tag for _, job in self.jobs if job.work is work)


def test_new_tags_are_read_first_and_then_everything_is_known() -> None:
    made = rounds(5, swept=None)
    assert not made.complete
    assert made.proved() == float("-inf")
    play = Play(made).until(60)
    assert made.complete
    assert made.proved() >= WALL
    assert list(play.count(Work.DIRTY)) == [f"t{number}" for number in range(5)]


def test_routine_takes_no_more_than_its_share_of_the_budget() -> None:
    play = Play(rounds(500, swept=None)).until(400)
    assert len(play.jobs) <= 400 * 2.0 * ROUTINE_SHARE + 1


def test_each_tag_is_probed_once_per_poll_interval_at_most() -> None:
    play = Play(rounds(3)).until(300)
    moments: dict[str, list[float]] = {}
    for at, job in play.jobs:
        if job.work is Work.PROBE:
            moments.setdefault(job.tag, []).append(at)
    assert {len(found) for found in moments.values()} <= {29, 30, 31}
    assert all(later - earlier >= 10.0 for found in moments.values() for earlier, later in pairwise(found))


def test_every_tag_is_swept_once_per_interval_evenly_even_if_all_were_read_at_once() -> None:
    play = Play(rounds(20)).until(3000)
    swept = [at for at, job in play.jobs if job.work is Work.SWEEP]
    begins = sorted(swept)[:: requests_of(10)]
    assert all(later - earlier <= 1000 * SWEEP_SHARE / 20 + 2 for earlier, later in pairwise(begins))
    per_tag = play.count(Work.SWEEP)
    assert len(per_tag) == 20
    assert min(per_tag.values()) >= 3 * requests_of(10)


def test_no_kind_of_work_starves_however_much_there_is_of_the_others() -> None:
    made = rounds(200, plan=RoundsPlan(1.0, 100.0, 2.0))
    play = Play(made, theirs=11)  # every count is wrong, again and again
    play.until(400)
    kinds = Counter(job.work for _, job in play.jobs)
    assert all(kinds[work] >= 0.2 * len(play.jobs) for work in Work)


@pytest.mark.parametrize(("allowed_per_s", "expected_per_s"), [(100.0, 1.0), (2.0, 1.0), (0.4, 0.2)])
def test_half_of_what_the_provider_takes_is_spent_and_never_more_than_half_of_the_budget(
    allowed_per_s: float, expected_per_s: float
) -> None:
    play = Play(rounds(200, plan=RoundsPlan(1.0, 100.0, 2.0)), theirs=11)
    play.allowed_per_s = allowed_per_s
    assert len(play.until(1000).jobs) == pytest.approx(1000 * expected_per_s, rel=0.01)


def test_a_count_that_is_not_what_it_should_be_has_the_tag_read() -> None:
    made = rounds(2)
    made.counted("t1", now(0), Count(10, 11))
    job = made.next(now(0))
    assert job == Job(Work.DIRTY, "t1")


def test_a_count_that_stays_wrong_although_nothing_moved_is_how_the_provider_counts() -> None:
    made = rounds(1)
    made.counted("t0", now(0), Count(10, 12))
    assert made.next(now(0)) == Job(Work.DIRTY, "t0")
    made.read("t0", now(1), WALL, Count(10, 10, True))
    made.counted("t0", now(20), Count(10, 12))
    assert made.next(now(20)) == Job(Work.SWEEP, "t0")
    made.read("t0", now(21), WALL, Count(10, 10, True))
    made.counted("t0", now(40), Count(10, 12))
    wait = made.next(now(40))
    assert isinstance(wait, float), "a further reading changes nothing about it"
    made.counted("t0", now(60), Count(10, 13))
    assert made.next(now(60)) == Job(Work.DIRTY, "t0")


def test_a_reading_that_was_not_exact_is_repeated_once() -> None:
    made = rounds(1, swept=None)
    assert made.next(now(0)) == Job(Work.DIRTY, "t0")
    made.read("t0", now(1), WALL, Count(10, 11, False))
    assert made.next(now(20)) == Job(Work.DIRTY, "t0")
    made.read("t0", now(21), WALL, Count(10, 11, False))
    job = made.next(now(60))
    assert isinstance(job, Job)
    assert job.work is not Work.DIRTY


def test_a_reading_that_came_to_nothing_is_tried_again_later_each_time() -> None:
    made = rounds(1, swept=None)
    waits = []
    at = 0.0
    for _ in range(6):
        job = made.next(now(at))
        assert job == Job(Work.DIRTY, "t0")
        made.put_off("t0", now(at), 0.0)
        wait = made.next(now(at))
        assert isinstance(wait, float)
        waits.append(wait)
        at += wait
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]
    assert not made.complete


def test_without_counts_nothing_is_probed() -> None:
    made = rounds(3)
    made.counted("t0", now(0), Count(10, None))
    kinds = {job.work for _, job in Play(made).until(0).jobs}
    assert Work.PROBE not in kinds
    job = made.next(now(0))
    assert isinstance(job, Job)
    assert job.work is Work.SWEEP


def test_a_dropped_tag_is_forgotten_with_what_is_open() -> None:
    made = rounds(1, swept=None)
    assert made.next(now(0)) == Job(Work.DIRTY, "t0")
    made.drop("t0")
    assert made.next(now(0)) == WAIT_S_MAX
    assert made.complete
    assert made.proved() == float("inf")


def test_the_last_moment_of_a_wait_is_no_busy_loop() -> None:
    """An event loop wakes whoever waits for less than its clock can tell apart without letting any time pass."""
    waiting = rounds(2)
    for at in (0.0, 145.02286693919302):
        waiting.spent(now(at), 3, 100.0)
        left = waiting.next(now(at))
        assert isinstance(left, float)
        for early in (1e-9, 1e-4):
            assert waiting.next(now(at + left - early)) == WAIT_S_MIN
    idle = rounds(1)
    while isinstance(job := idle.next(now(1.0)), Job):
        idle.read(job.tag, now(1.0), WALL + 1.0, Count(10, 10))
    assert idle.next(now(1.0 + job - 1e-9)) == WAIT_S_MIN
