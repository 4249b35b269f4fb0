"""`bridge resync | pause | resume | approve`: what is sent is checked first, and the outcome decides about the exit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.clock import SystemClock
from bridge.commands.command import SIGNALS, Kind, Refusal, Signal, parse
from bridge.commands.outcome import Outcome
from bridge.commands.outcome import Result as Word
from bridge.config import load
from bridge.publish.partitioner import partition_of
from bridge.publish.reading import Message, read_topics
from bridge.publish.send import InboxSender
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan, ensure
from tests.cli.commanding import configuration, run

SHARDS = 3
KINDS = [kind.value for kind in SIGNALS]


def config_file(folder: Path, name: str, servers: str) -> Path:
    return configuration(
        folder,
        name,
        servers,
        shards=SHARDS,
        kafka="answer_deadline_s = 5.0",
        source='collections = ["customers", "tags"]',
    )


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    return config_file(tmp_path, "offline", "127.0.0.1:9")


@pytest.fixture
def online(tmp_path: Path, bootstrap_servers: str, bridge_name: str) -> Path:
    settings = KafkaSettings(bootstrap_servers=bootstrap_servers.split(","))
    asyncio.run(ensure(settings, TopicPlan(bridge_name, SHARDS), True))
    return config_file(tmp_path, bridge_name, bootstrap_servers)


def topic(path: Path, name: str) -> tuple[KafkaSettings, str]:
    config = load(path)
    return config.kafka, f"{config.bridge.name}.{name}"


def inbox(path: Path) -> list[Message]:
    settings, name = topic(path, "inbox")

    async def read() -> list[Message]:
        return [message async for message in read_topics(settings, [name], SystemClock())]

    return asyncio.run(read())


# Without Kafka.


@pytest.mark.parametrize("kind", KINDS)
def test_help_has_an_example(kind: str) -> None:
    result = run(kind, "--help")
    assert result.exit_code == 0
    assert f"Example:  bridge {kind} -c bridge.toml acme" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["acne"], "did you mean acme?"),
        (["acme", "customer"], "did you mean customers?"),
        (["acme", "everything"], "there are customers, tags"),
        (["acme", "--id", "some@body"], "--id"),
        (["acme", "--wait", "--timeout", "soon"], "--timeout"),
        ([], "SOURCE"),
    ],
)
def test_what_the_configuration_does_not_know_is_told_before_kafka_is_asked(
    arguments: list[str], said: str, offline: Path
) -> None:
    result = run("pause", "-c", offline, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("wait", [[], ["--wait"]])
def test_without_kafka_it_is_the_environment(wait: list[str], offline: Path) -> None:
    result = run("resync", "-c", offline, "acme", *wait)
    assert result.exit_code == 3
    assert "127.0.0.1:9" in result.stderr


# With Kafka.


def test_a_signal_is_in_the_partition_of_its_owner_when_its_id_is_told(online: Path) -> None:
    result = run("pause", "-c", online, "acme", "customers")
    assert result.exit_code == 0
    (message,) = inbox(online)
    assert message.partition == partition_of(b"acme", SHARDS)
    signal = parse(message.key, message.value)
    assert isinstance(signal, Signal)
    assert (signal.id, signal.kind, signal.collection) == (result.stdout.strip(), Kind.PAUSE, "customers")


def test_the_same_id_is_sent_again_as_it_is(online: Path) -> None:
    for _ in range(2):
        result = run("approve", "-c", online, "acme", "--id", "mine", "--json")
        assert (result.exit_code, json.loads(result.stdout)["id"]) == (0, "mine")
    first, second = (parse(message.key, message.value) for message in inbox(online))
    assert not isinstance(first, Refusal)
    assert not isinstance(second, Refusal)
    assert first.digest == second.digest


def test_an_outcome_that_does_not_come_is_told_with_what_to_do(online: Path) -> None:
    result = run("resync", "-c", online, "acme", "--wait", "--timeout", "500ms")
    assert result.exit_code == 1
    assert f"--id {result.stdout.strip()} --wait" in result.stderr


def answer(path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Signal], Outcome]) -> None:
    """Somebody answers whatever is sent, as soon as it is there."""
    settings, name = topic(path, "outcomes")
    send = InboxSender.send

    async def answered(self: InboxSender, source: str, value: bytes) -> tuple[int, int]:
        at = await send(self, source, value)
        signal = parse(source.encode(), value)
        assert isinstance(signal, Signal)
        outcome = make(signal)
        async with InboxSender(settings, name) as sender:
            await send(sender, outcome.id, outcome.encode())
        return at

    monkeypatch.setattr(InboxSender, "send", answered)


def outcome_of(signal: Signal, **changed: Any) -> Outcome:
    fields = {**signal.model_dump(exclude={"sent_at"}), "outcome": "applied", "detail": "so it is", "at": "2026-01-01"}
    return Outcome.model_validate({**fields, **changed})


def test_waiting_ends_with_the_outcome(online: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        answer(online, patch, lambda signal: outcome_of(signal, count=7))
        result = run("approve", "-c", online, "acme", "tags", "--wait")
    assert result.exit_code == 0, result.output
    assert "applied: approve acme/tags: so it is (7)" in result.output
    answer(online, monkeypatch, lambda signal: outcome_of(signal, outcome=Word.REJECTED))
    result = run("pause", "-c", online, "acme", "--wait", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1])["outcome"] == "rejected"


def test_an_id_that_was_answered_before_is_answered_at_once(online: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        answer(online, patch, outcome_of)
        assert run("pause", "-c", online, "acme", "--wait", "--id", "mine").exit_code == 0
    assert run("pause", "-c", online, "acme", "--wait", "--id", "mine").exit_code == 0
    other = run("resume", "-c", online, "acme", "--wait", "--id", "mine")
    assert other.exit_code == 1
    assert "used for another command" in other.stderr


def test_a_topic_that_is_not_there_is_the_environment(tmp_path: Path, bootstrap_servers: str, bridge_name: str) -> None:
    path = config_file(tmp_path, bridge_name, bootstrap_servers)
    result = run("pause", "-c", path, "acme")
    assert result.exit_code == 3
    assert f"{bridge_name}.inbox" in result.stderr
