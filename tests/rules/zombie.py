"""A process that stops between the last acknowledgement and the commit of a transaction, and waits to be told.

`python -m tests.rules.zombie SERVERS NAME TRANSACTIONAL_ID`. It is the former owner of shard 0, at the first record of
its inbox. It says when it holds its commit, goes on at a line on its standard input, and says what came of it.
"""

from __future__ import annotations

import asyncio
import sys

from bridge.clock import SystemClock
from bridge.errors import Fenced
from bridge.publish.producer import KafkaProducer
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Record
from tests.publish.benching import HeldCommit


async def main(servers: str, name: str, transactional_id: str) -> None:
    """One transaction."""
    plan = TopicPlan(name, 1)
    producer = KafkaProducer(
        KafkaSettings(bootstrap_servers=[servers]),
        transactional_id=transactional_id,
        group_id=plan.bridge,
        inbox_topic=plan.inbox,
        shard=0,
        partitions={plan.deadletters: 1},
        record_bytes_max=plan.record_bytes_max,
        clock=SystemClock(),
    )
    await producer.open()
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish([Record(plan.deadletters, 0, b"acme", b"record")], 1))
    await held.reached.wait()
    print("holds its commit", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    held.go_on.set()
    try:
        await publishing
        print("committed", flush=True)
    except Fenced:
        print("was fenced", flush=True)
    await producer.abandon()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
