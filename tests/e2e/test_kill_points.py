"""kill -9 at every named step of a shard's life (P01, P02): the next process goes on as if nothing had happened.

Several bridges side by side, because most of the time is spent waiting for the session of a dead one to end.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import Consumer, KafkaError, Producer

from bridge.publish.partitioner import partition_of
from tests.support.deadly import STEPS
from tests.support.processes import (
    SESSION_S,
    bridge,
    command,
    config,
    deadly,
    put,
    ready,
    sandbox,
    source_ids,
    wait_for,
)

RATES = {"sign_up": 600, "edit": 6000, "rename": 300, "delete": 300, "tag_create": 60, "tag_delete": 30}
STILL = dict.fromkeys(RATES, 0)
SHARDS = 2
CHAINS = "abc"
DIES_S = 60.0


class Kill(NamedTuple):
    """step: see `tests.support.deadly`. arrival: the last one. bare: without a cache on disk. stop: after SIGTERM."""

    step: str
    arrival: int = 1
    bare: bool = False
    stop: bool = False


KILLS = (
    # The first life of each bridge reads everything for the first time.
    Kill("snapshot page"),
    Kill("snapshot page", 2),
    Kill("snapshot page", 4),
    Kill("fencing"),
    Kill("fenced"),
    Kill("position read"),
    Kill("restoring", bare=True),
    Kill("restored"),
    Kill("resumed"),
    Kill("fetching"),
    Kill("fetched", 3),
    Kill("sweep page", 3),
    Kill("diffed", 5),
    Kill("cursor kept", 2),
    Kill("begun", 2),
    Kill("sent"),
    Kill("sent", 3),
    Kill("acknowledged", 2),
    Kill("offset sent"),
    Kill("committing", 2),
    Kill("commit sent", 2),
    Kill("commit answered", 2),
    Kill("applying", 2),
    Kill("applied", 3),
    Kill("draining", stop=True),
    Kill("closing", stop=True),
)


@dataclass
class Chain:
    """One bridge that dies again and again, and the letters in its inbox."""

    folder: Path
    bootstrap: str
    name: str
    path: Path
    kills: Sequence[Kill]
    letters: list[bytes] = field(default_factory=list)

    def run(self) -> None:
        for kill in self.kills:
            self._send()
            if kill.bare:
                shutil.rmtree(self.folder / f"data-{self.path.stem.removeprefix('bridge-')}")
            process = deadly(self.folder, self.path, kill.step, kill.arrival)
            if kill.stop:
                wait_for("the bridge", lambda: ready(self.path))
                process.signal(signal.SIGTERM)
            assert process.wait(DIES_S) == -signal.SIGKILL, f"{kill}: {process.said()}"

    def _send(self) -> None:
        """Two records that the next life has to answer once, in the transaction that moves the offset."""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        (source,) = source_ids(1, SHARDS)
        for _ in range(2):
            self.letters.append(f"letter {len(self.letters)}".encode())
            partition = partition_of(source.encode(), SHARDS)
            producer.produce(f"{self.name}.inbox", self.letters[-1], source.encode(), partition)
        assert producer.flush(DIES_S) == 0

    def answered(self) -> Counter[bytes]:
        """What was done about the letters: a dead letter each."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"{self.name}-reader",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        consumer.subscribe([f"{self.name}.deadletters"])
        found: Counter[bytes] = Counter()
        while True:
            message = consumer.poll(DIES_S)
            assert message is not None
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                consumer.close()
                return found
            found[message.value() or b""] += 1


def test_every_step_of_a_life_is_among_the_kills() -> None:
    assert {kill.step for kill in KILLS} == set(STEPS)


@pytest.mark.timeout(290)
def test_a_bridge_that_is_killed_at_every_step_loses_nothing_and_doubles_nothing(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    with sandbox(tmp_path, "--customers", "1500", "--switch", "timestamp_precision=milliseconds") as url:
        chains = []
        for number, label in enumerate(CHAINS):
            name = f"{bridge_name}{label}"
            path = config(tmp_path, bootstrap_servers, name, url, shards=SHARDS, label=label)
            text = path.read_text().replace(f"session_timeout_s = {SESSION_S}", "session_timeout_s = 1.0")
            path.write_text(text.replace("heartbeat_s = 0.5", "heartbeat_s = 0.3") + 'sweep_interval = "1s"\n')
            assert command("topics", "-c", str(path), "--create").returncode == 0
            chains.append(Chain(tmp_path, bootstrap_servers, name, path, KILLS[number :: len(CHAINS)]))
        put(f"{url}/sandbox/rates", RATES)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Chain.run, chains))
        put(f"{url}/sandbox/rates", STILL)
        with ThreadPoolExecutor() as pool:
            list(pool.map(proved, chains))


def proved(chain: Chain) -> None:
    """A life without a kill, and the verdict."""
    process = bridge(chain.folder, chain.path)
    wait_for("the last life", lambda: ready(chain.path))
    result = command("verify", "-c", str(chain.path), "--online")
    assert result.returncode == 0, result.stdout + result.stderr + process.said()
    assert "0 lost, 0 doubled, 0 out of order" in result.stdout
    assert process.terminate() == 0, process.said()
    assert chain.answered() == Counter(chain.letters)
