"""Reading: a cluster's topics into the checker, in the order that is fair to a living bridge.

Restore and plain reading of the state topic, then the events, then both again until nothing is pending or the wait
has run out; `checker` says why in this order. Nothing is kept but the checker's tables. A partition that is undecided
at the same offset from the beginning to the end of the wait holds a transaction that hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing

from bridge.clock import Clock
from bridge.publish import statelog
from bridge.publish.partitioner import partition_of
from bridge.publish.reading import At, Message, PartitionReader
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan, inspect
from bridge.store.base import NO_FINGERPRINTS
from bridge.store.record import MARKER_PREFIX
from bridge.verify.checker import Checker, Place
from bridge.verify.verdict import Invariant, Verdict

WAIT_S = 60.0
"""For commit markers to arrive. Usually milliseconds; but a transaction that a dead process left open holds back
what comes after it in its partitions for its timeout (30 s) and until the broker's next look (10 s)."""

PAUSE_S = 0.25
"""Between two looks for what is still pending."""

RETENTION_SLACK_MS = 600_000
"""Clocks of processes and brokers, and the broker's own rounds, may differ by this much."""

Progress = Callable[[str, int, int], None]
"""Told the stage (`restore`, `state`, `events`), offsets done, and of how many; must be quick."""


async def verify(
    settings: KafkaSettings,
    plan: TopicPlan,
    clock: Clock,
    progress: Progress,
    *,
    source: str | None = None,
    wait_s: float = WAIT_S,
) -> Verdict:
    """Check what Kafka alone can show, of one source or of all.

    Writes nothing; cancellation leaves nothing behind. Raises `EnvironmentUnavailable`, also for missing topics.
    """
    checker = Checker(source, await _old_ms(settings, plan, clock))
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(PartitionReader(settings, clock))
        state = await reader.partitions([plan.state])
        if source is not None:
            state = [state[partition_of(source.encode(), len(state))]]
        cuts = await _restore(settings, state, checker, clock, progress)
        events = await reader.begins(await reader.partitions(plan.event_topics))
        if any(events.values()):
            checker.truncated()
        ends = await stack.enter_async_context(PartitionReader(settings, clock))
        await ends.partitions([plan.state, *plan.event_topics])
        suspects = await _undecided(ends, [*state, *events])
        tail = Tail(reader, await reader.begins(state))
        await tail.read(lambda message: _take_state(checker, cuts, message), lambda *at: progress("state", *at))
        stream = Tail(reader, events)
        deadline = clock.monotonic() + wait_s
        while True:
            await stream.read(lambda message: _take_event(checker, message), lambda *at: progress("events", *at))
            await tail.read(lambda message: _take_state(checker, cuts, message), _silent)
            if suspects:
                now = await _undecided(ends, suspects)
                suspects = {at: offset for at, offset in suspects.items() if now.get(at) == offset}
            if not (suspects or any(checker.pending())) or clock.monotonic() >= deadline:
                return _judged(checker, suspects, wait_s)
            await clock.sleep(PAUSE_S)


class RestoreProbe:
    """A `Store` without memory: what `restore` puts into it goes to the checker as digests.

    So a million documents are restored by the bridge's own code without holding them. Only the markers are kept,
    which `restore` asks for.
    """

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._markers: dict[str, bytes] = {}
        self._position = 0

    @property
    def position(self) -> int:
        """See `Store.position`."""
        return self._position

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The markers among these keys."""
        return {key: self._markers[key] for key in keys if key in self._markers}

    def fingerprints(self, keys: Sequence[str]) -> dict[str, bytes]:
        """None: nothing here is compared with a provider's rows."""
        return {}

    def apply(
        self,
        records: Iterable[tuple[str, bytes | None]],
        position: int,
        fingerprints: Mapping[str, bytes] = NO_FINGERPRINTS,
    ) -> None:
        """See `Store.apply`."""
        for key, value in records:
            self._checker.restored(key, value)
            if key.startswith(MARKER_PREFIX) and value is not None:
                self._markers[key] = value
        self._position = position

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """The markers with this prefix."""
        return ((key, value) for key, value in sorted(self._markers.items()) if key.startswith(prefix))

    def keys_after(self, folder: str, after: int, limit: int) -> tuple[list[str], int | None]:
        """None: no documents are kept."""
        return [], None

    def members(self, source: str, tag: str) -> Iterator[str]:
        """None: no documents are kept."""
        return iter(())

    def members_count(self, source: str, tag: str) -> int:
        """See `members`."""
        return 0

    def member_tags(self, source: str) -> list[str]:
        """See `members`."""
        return []

    def close(self) -> None:
        """Nothing to release."""


class Tail:
    """Partitions from where the last reading ended to their last stable offsets. starts: where the next one begins."""

    def __init__(self, reader: PartitionReader, starts: Mapping[At, int]) -> None:
        self._reader = reader
        self.starts = dict(starts)

    async def read(self, take: Callable[[Message], None], progress: Callable[[int, int], None]) -> None:
        """Everything that has been added; `starts` moves at the end, so a cancelled reading is repeated whole."""
        ends = await self._reader.ends(self.starts)
        grown = {at: end for at, end in ends.items() if end > self.starts[at]}
        total = sum(end - self.starts[at] for at, end in grown.items())
        done = dict.fromkeys(grown, 0)
        progress(0, total)
        if not grown:
            return
        self._reader.assign({at: self.starts[at] for at in grown})
        async with aclosing(self._reader.chunks(grown)) as chunks:
            async for chunk in chunks:
                for message in chunk:
                    take(message)
                at = (chunk[-1].topic, chunk[-1].partition)
                done[at] = chunk[-1].offset + 1 - self.starts[at]
                progress(sum(done.values()), total)
        progress(total, total)
        self.starts.update(grown)


async def _restore(
    settings: KafkaSettings, state: Sequence[At], checker: Checker, clock: Clock, progress: Progress
) -> dict[At, int]:
    """Where each state partition is cut: the offset up to which the restore has read."""
    cuts: dict[At, int] = {}
    for done, (topic, shard) in enumerate(state):
        progress("restore", done, len(state))
        restored = await statelog.restore(settings, topic, shard, RestoreProbe(checker), clock, _silent)
        cuts[topic, shard] = restored.position
    progress("restore", len(state), len(state))
    return cuts


async def _undecided(reader: PartitionReader, partitions: Iterable[At]) -> dict[At, int]:
    """Where readers stop now, of the partitions in which they do; of a living bridge they go on at once."""
    partitions = list(partitions)
    stable, ends = await reader.ends(partitions), await reader.log_ends(partitions)
    return {at: stable[at] for at in partitions if stable[at] < ends[at]}


def _judged(checker: Checker, hanging: Mapping[At, int], wait_s: float) -> Verdict:
    verdict = checker.verdict()
    for (topic, number), offset in hanging.items():
        verdict.add(
            Invariant.ATOMIC,
            "undecided",
            f"a transaction in {topic}-{number} at offset {offset} was neither committed nor aborted for {wait_s:.0f} "
            "s, and readers stop before it. A bridge ends its own when it starts: restart it. If that does not help: "
            f"kafka-transactions.sh find-hanging --topic {topic} --partition {number}",
        )
    return verdict


async def _old_ms(settings: KafkaSettings, plan: TopicPlan, clock: Clock) -> int | None:
    """Events with a record time up to this one may have been removed; None when the cluster keeps them otherwise."""
    cluster = await inspect(settings, plan)
    if any(found.topic in plan.event_topics and "retention." in found.message for found in cluster.findings):
        return None
    kept = min(int(topic.config["retention.ms"]) for topic in plan.declared() if topic.name in plan.event_topics)
    return int(clock.wall() * 1000) - kept + RETENTION_SLACK_MS


def _take_state(checker: Checker, cuts: Mapping[At, int], message: Message) -> None:
    try:
        key = (message.key or b"").decode()
    except UnicodeDecodeError:
        key = ""
    if not key:
        return  # not ours; a restore ignores it too
    if message.offset < cuts[message.topic, message.partition]:
        checker.state(key, message.value)
    else:
        checker.moved(key, message.value)


def _take_event(checker: Checker, message: Message) -> None:
    checker.event(Place(message.topic, message.partition, message.offset, message.timestamp_ms), message)


def _silent(_done: int, _total: int) -> None:
    """Tells nobody."""
