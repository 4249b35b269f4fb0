"""`bridge send` and `bridge deadletters`: what is sent is checked first, and what is put back is what came."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from confluent_kafka import Producer

from bridge.cli import sending
from bridge.cli.deadletters import Replayed
from bridge.clock import SystemClock
from bridge.commands.command import UIDS_MAX, Kind, Tagging, parse
from bridge.commands.outcome import Outcome
from bridge.config import load
from bridge.errors import EnvironmentUnavailable
from bridge.model import instant
from bridge.publish.deadletter import DeadLetter
from bridge.publish.partitioner import partition_of
from bridge.publish.reading import Message, read_topics
from bridge.publish.send import InboxDoor, InboxSender
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan, ensure
from tests.cli.commanding import configuration, run

SHARDS = 3


def config_file(folder: Path, name: str, servers: str) -> Path:
    return configuration(folder, name, servers, shards=SHARDS, kafka="answer_deadline_s = 5.0")


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    return config_file(tmp_path, "offline", "127.0.0.1:9")


@pytest.mark.parametrize("kind", ["rename", "tag", "untag", "refresh"])
def test_help_has_an_example(kind: str) -> None:
    result = run("send", kind, "--help")
    assert result.exit_code == 0
    assert f"Example:  bridge send {kind} -c bridge.toml acme" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rename", "acne", "x", "y"], "did you mean acme?"),
        (["rename", "acme", "x", ""], "new_customer_id: String should have at least 1 character"),
        (["rename", "acme", "x", " y"], "new_customer_id: has spaces around it"),
        (["rename", "acme", "x", "y", "--by", "email"], "--by"),
        (["rename", "acme", "x", "y", "--not-after", "soon"], "--not-after soon"),
        (["rename", "acme", "x", "y", "--id", "some@body"], "--id"),
        (["tag", "acme", "vip"], "none is given"),
        (["tag", "acme", "a/b", "x"], "tag: String should match"),
        (["tag", "acme", "vip", "x", "--confirm-within", "2h"], "confirm_within: Input should be less than"),
        (["tag", "acme", "", "x", "--name"], "tag_name: String should have at least 1 character"),
        (["tag", "acme", "vip", "x" * 256, "--by", "email"], "where.values: String should have at most 255 characters"),
        (["tag", "acme", "vip", "--by", "email"], "none is given"),
        (["untag", "acme", "vip", "x", "--by", "not a field"], "where.field: String should match"),
        (["untag", "acme", "vip", "x", "--by", ""], "where.field: String should match"),
        (["untag", "acme", "vip", "x", "--wait", "--timeout", "soon"], "--timeout"),
        (["refresh", "acme", "customer", "x"], "did you mean customers?"),
        (["refresh", "acme", "orders", "x"], "there are customers, tags"),
    ],
)
def test_what_the_owner_would_refuse_is_told_before_kafka_is_asked(
    arguments: list[str], said: str, offline: Path
) -> None:
    result = run("send", arguments[0], "-c", offline, *arguments[1:])
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("kind", ["tag", "untag"])
def test_tags_go_by_name_and_customers_by_what_a_field_says(
    kind: str, offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Tagging] = []

    class Kept:
        """In the place of `InboxSender`."""

        def __init__(self, *_: object) -> None: ...

        async def __aenter__(self) -> Kept:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def send(self, source: str, value: bytes) -> None:
            command = parse(source.encode(), value)
            assert isinstance(command, Tagging)
            sent.append(command)

    monkeypatch.setattr(sending, "InboxSender", Kept)
    values = tmp_path / "values.txt"
    values.write_text("Ola@Nordmann.example\n\n  kari nordmann \nOla@Nordmann.example\n")
    named = ["send", kind, "-c", offline, "acme", "of the / year", "--name"]
    for arguments in (["u1"], ["--by", "email", "--file", values], ["u1", "--by", "attributes.card", "--json"]):
        result = run(*named, *arguments)
        assert result.exit_code == 0, result.output
        assert "nordmann" not in result.output.lower()
    assert [(str(command.kind), command.tag, command.tag_name) for command in sent] == [
        (kind, None, "of the / year")
    ] * 3
    assert [command.customers for command in sent] == [("u1",), None, None]
    fields = [command.where and (command.where.field, command.where.values, command.where.names) for command in sent]
    assert fields == [
        None,
        ("email", ("Ola@Nordmann.example", "kari nordmann"), None),
        ("attributes.card", ("u1",), None),
    ]


def test_a_file_may_hold_as_many_uids_as_a_command_takes(offline: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(f"uid-{number}" for number in range(UIDS_MAX)))
    assert run("send", "tag", "-c", offline, "acme", "vip", "uid-0", "--file", ids).exit_code == 3, "each counts once"
    result = run("send", "tag", "-c", offline, "acme", "vip", "one-more", "--file", ids)
    assert result.exit_code == 2
    assert "10,001 are more than one command takes" in result.stderr
    ids.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in run("send", "tag", "-c", offline, "acme", "vip", "--file", ids).stderr


@pytest.mark.parametrize("command", ["list", "replay"])
def test_dead_letters_need_kafka(command: str, offline: Path) -> None:
    assert run("deadletters", command, "-c", offline).exit_code == 3
    assert run("deadletters", command, "-c", offline, "--since", "soon").exit_code == 2


def test_what_was_left_out_is_told() -> None:
    lines = list(Replayed(sent=1, again=2, elsewhere=3).lines())
    assert lines[0] == "1 records are in the inbox again"
    assert [line[:10] for line in lines[1:]] == ["2 left out", "3 left out"]


def test_with_kafka(tmp_path: Path, bootstrap_servers: str, bridge_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KafkaSettings(bootstrap_servers=bootstrap_servers.split(","))
    plan = TopicPlan(bridge_name, SHARDS)
    asyncio.run(ensure(settings, plan, True))
    path = config_file(tmp_path, bridge_name, bootstrap_servers)
    _send_and_wait(path, plan, settings, monkeypatch)
    _list_and_replay(path, plan, settings, bootstrap_servers)
    asyncio.run(_through_the_door(plan, settings))


def _records(settings: KafkaSettings, topic: str) -> list[Message]:
    async def read() -> list[Message]:
        return [message async for message in read_topics(settings, [topic], SystemClock())]

    return asyncio.run(read())


def _send_and_wait(path: Path, plan: TopicPlan, settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody answers what is sent, and the exit code says how."""
    send = InboxSender.send

    async def answered(self: InboxSender, source: str, value: bytes) -> tuple[int, int]:
        at = await send(self, source, value)
        command = parse(source.encode(), value)
        assert isinstance(command, Tagging)
        fields = {"id": command.id, "kind": command.kind, "source": "acme", "collection": None, "at": "2026-01-01"}
        others = [{"why": "unknown", "count": 3, "uids": ["a", "b"]}]
        outcome = Outcome.model_validate({**fields, "outcome": "partly", "detail": "so", "count": 1, "others": others})
        async with InboxSender(settings, plan.outcomes) as sender:
            await send(sender, outcome.id, outcome.encode())
        return at

    with monkeypatch.context() as patch:
        patch.setattr(InboxSender, "send", answered)
        result = run("send", "untag", "-c", path, "acme", "vip", "a", "b", "a", "--wait", "--not-after", "1h")
    assert result.exit_code == 1, "partly is not applied"
    assert result.stdout.splitlines()[1:] == ["partly: untag acme: so (1)", "unknown (3): a, b, …"]
    (message,) = _records(settings, plan.inbox)
    assert message.partition == partition_of(b"acme", SHARDS)
    command = parse(message.key, message.value)
    assert isinstance(command, Tagging)
    assert (command.kind, command.tag, command.customers) == (Kind.UNTAG, "vip", ("a", "b"))
    assert instant(command.not_after or "") - instant(command.sent_at) == pytest.approx(3_600_000_000, abs=5_000_000)


def _list_and_replay(path: Path, plan: TopicPlan, settings: KafkaSettings, servers: str) -> None:
    """Only what came by the inbox is put back, once, with its key; what a letter holds is never shown."""
    assert load(path).bridge.name == plan.bridge
    secret = b'{"id": "x", "kind": "explode", "secret": "ola@nordmann.example"}'
    refused = DeadLetter("unknown_kind", "kind is none of these", "acme", "", plan.inbox, None, secret)
    row = DeadLetter("malformed", "id: missing", "acme", "customers", "customers.list", None, b"{}")
    large = DeadLetter("too_large", "larger than allowed", "", "", plan.inbox, None, b" " * 5000)
    producer = Producer({"bootstrap.servers": servers})
    for letter, bound in ((refused, 100_000), (refused, 100_000), (row, 100_000), (large, 2_000)):
        record = letter.record(plan.deadletters, "acme", bound)
        producer.produce(record.topic, record.value, record.key, headers=list(record.headers))
    assert producer.flush(10) == 0
    result = run("deadletters", "list", "-c", path)
    assert result.exit_code == 0, result.output
    assert "nordmann" not in result.output
    assert [line.split()[2] for line in result.stdout.splitlines()] == [
        "unknown_kind",
        "unknown_kind",
        "malformed",
        "too_large",
    ]
    shown = [json.loads(line) for line in run("deadletters", "list", "-c", path, "--json").stdout.splitlines()]
    assert [(line["key"], line["bytes"], line["cut"]) for line in shown[2:]] == [
        ("acme", 2, False),
        ("acme", 5000, True),
    ]
    replayed = json.loads(run("deadletters", "replay", "-c", path, "--since", "1h", "--json").stdout)
    assert replayed == {"sent": 1, "again": 1, "elsewhere": 1, "cut": 1}
    *_, last = _records(settings, plan.inbox)
    assert (last.key, last.value, last.partition) == (b"acme", secret, partition_of(b"acme", SHARDS))


async def _through_the_door(plan: TopicPlan, settings: KafkaSettings) -> None:
    """The service's own sender: opened by the first record, shared, closed for good."""
    door = InboxDoor(settings, plan.inbox)
    await door.start()
    async with asyncio.TaskGroup() as group:
        sent = [group.create_task(door.send("acme", b"%d" % number)) for number in range(20)]
    offsets = [task.result()[1] for task in sent]
    assert len(set(offsets)) == 20
    await door.stop()
    await door.stop()
    with pytest.raises(EnvironmentUnavailable):
        await door.send("acme", b"late")
