"""Report: the state of a running process as a `ProcessStatus`, for `/ready` and the status page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridge.observability.metrics import Metrics
from bridge.observability.status import CollectionStatus, EventLine, ProcessStatus, ShardStatus, SourceStatus
from bridge.runtime.assignment import SILENCE_S_MAX, Owner
from bridge.runtime.loop import SourceLoop
from bridge.runtime.reader import SourceReader
from bridge.runtime.shard import EVENTS_SHOWN, Shard, ShardState
from bridge.runtime.supervisor import Supervisor


def process_status(
    supervisor: Supervisor, readers: Mapping[int, Sequence[SourceReader]], shards: int, metrics: Metrics
) -> ProcessStatus:
    """What is true now. `readers`: the configured sources by shard."""
    assignment = supervisor.assignment
    owners = dict(assignment.owners) if assignment is not None else {}
    sources = tuple(
        _source(reader, number, owners.get(number), metrics)
        for number, group in sorted(readers.items())
        for reader in group
    )
    own_shards = tuple(_shard(owner) for _, owner in sorted(owners.items()))
    own_sources = [source for source in sources if source.owned_here]
    trouble = supervisor.trouble
    if trouble is None and (assignment is None or not assignment.joined):
        trouble = "joining the group"
    elif trouble is None and assignment is not None and assignment.silent_s > SILENCE_S_MAX:
        trouble = f"no answer for {assignment.silent_s:.0f} s"
    # One provider that is down is told on its own line; the process is useless only when all of them are.
    serving = not own_sources or any(source.ready for source in own_sources)
    return ProcessStatus(
        ready=trouble is None and all(shard.ready for shard in own_shards) and serving,
        live=supervisor.live,
        kafka=trouble or "connected",
        shards_total=shards,
        shards=own_shards,
        sources=sources,
        events=_last_events([owner.shard for owner in owners.values() if owner.shard is not None]),
    )


def proved_until(supervisor: Supervisor, readers: Mapping[int, Sequence[SourceReader]]) -> float:
    """Wall-clock seconds up to which everything configured is published by this process; 0 when some is not yet."""
    moments: list[float] = []
    for number, group in readers.items():
        owner = supervisor.assignment.owners.get(number) if supervisor.assignment is not None else None
        caught_up = owner.shard.caught_up if owner is not None and owner.shard is not None else {}
        moments += [
            caught_up.get((reader.account.source, name), 0.0) for reader in group for name in reader.collections
        ]
    return min(moments, default=0.0)


def _last_events(shards: Sequence[Shard]) -> tuple[EventLine, ...]:
    """Of all of them together, the newest first."""
    events = sorted((event for shard in shards for event in reversed(shard.last_events)), key=lambda event: -event.at)
    return tuple(events[:EVENTS_SHOWN])


def _shard(owner: Owner) -> ShardStatus:
    state = owner.shard.state if owner.shard is not None else ShardState.WAITING
    running = state is ShardState.RUNNING
    words = state.value if running or owner.last_error is None else f"{state.value}: {owner.last_error}"
    return ShardStatus(owner.partition, words, running)


def _source(reader: SourceReader, number: int, owner: Owner | None, metrics: Metrics) -> SourceStatus:
    account = reader.account
    shard = owner.shard if owner is not None else None
    running = shard is not None and shard.state is ShardState.RUNNING
    readings: Sequence[SourceLoop] = shard.readings.get(account.source, ()) if shard is not None and running else ()
    return SourceStatus(
        source=account.source,
        provider=account.provider,
        shard=number,
        owned_here=owner is not None,
        ready=bool(readings) and all(reading.ready for reading in readings),
        collections=tuple(_collection(account.source, reading, metrics) for reading in readings),
    )


def _collection(source: str, reading: SourceLoop, metrics: Metrics) -> CollectionStatus:
    status = reading.status
    return CollectionStatus(
        collection=reading.collection,
        mode=status.mode,
        staleness_s=metrics.staleness(source, reading.collection),
        documents=reading.documents,
        deletions_held=status.held,
        held_uids=tuple(status.held_uids),
        last_error=status.last_error,
        since=status.failing_since,
    )
