"""`bridge mirrors`: what outcomes say of each mirror's commands, and of nobody else's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.cli import mirrors as command
from bridge.commands.command import Kind
from bridge.commands.outcome import Others, Outcome, Result, Why
from bridge.publish.reading import Message
from tests.cli.commanding import configuration, run

MIRRORS = """
collections = ["customers", "tags", "memberships"]
[[sources]]
id = "billing"
provider = "rebilly"
account = "org_1"
api_key = "key"
collections = ["customers", "tags", "memberships"]
[[mirrors]]
name = "vip"
from = "acme:VIP\\u001b"
to = "billing:vip"
join = "email"
[[mirrors]]
name = "back"
from = "billing:vip"
to = "acme:VIP\\u001b"
join = "email"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return configuration(tmp_path, "offline", "127.0.0.1:9", shards=2, kafka="answer_deadline_s = 5.0", source=MIRRORS)


def outcome(id_: str, result: Result, count: int | None = None, **others: Sequence[str]) -> Message:
    """others: uids by reason, `-` for `_`."""
    said = Outcome(
        id=id_,
        kind=Kind.TAG,
        source="billing",
        collection=None,
        outcome=result,
        detail="so",
        at="2026-11-21T08:15:30Z",
        count=count,
        others=[Others(why=Why(why), count=len(uids) + 1, uids=list(uids)) for why, uids in others.items()],
    )
    return Message("offline.outcomes", 0, 0, 0, id_.encode(), said.encode(), ())


class Topic:
    """What is in the outcomes; since: from when on they were read."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.since: Any = None

    async def read(self, _: object, topics: Sequence[str], clock: object, *, since: object) -> AsyncIterator[Message]:
        assert list(topics) == ["offline.outcomes"]
        self.since = since
        for message in self.messages:
            yield message


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    found = Topic()
    monkeypatch.setattr(command, "read_topics", found.read)
    return found


def test_each_mirror_is_a_line_and_those_without_a_counterpart_are_listed(path: Path, topic: Topic) -> None:
    topic.messages = [
        outcome("mirror.vip.7.acme", Result.APPLIED, 5),
        outcome("mirror.vip.9.acme", Result.PARTLY, 2, unmatched=["a", "b"], gone=["c"]),
        outcome("mirror.vip.11.acme", Result.REJECTED, None),
        outcome("mirror.vip.12.acme", Result.PARTLY, 1, unmatched=["d", "a"]),
        outcome("mirror.gone.1.acme", Result.APPLIED, 100),
        outcome("somebody", Result.APPLIED, 100),
        Message("offline.outcomes", 0, 0, 0, b"mirror.vip.13.acme", None, ()),
        Message("offline.outcomes", 0, 0, 0, None, b"\xff", ()),
    ]
    result = run("mirrors", "-c", path)
    assert result.exit_code == 0, result.output
    lines = [
        "vip  acme:VIP\\x1b -> billing:vip  8 customers, 2 gone, 6 unmatched  "
        "commands: 1 applied, 2 partly, 1 rejected",
        "back  billing:vip -> acme:VIP\\x1b  0 customers  commands: none",
    ]
    assert result.stdout.splitlines() == lines
    assert topic.since == "beginning"
    listed = run("mirrors", "-c", path, "--unmatched").stdout.splitlines()
    assert listed == [lines[0], "  b", "  d", "  a", lines[1]], "the last one that was missed is the last"


def test_scripts_get_one_object_for_each(path: Path, topic: Topic) -> None:
    topic.messages = [outcome("mirror.back.7.billing", Result.PARTLY, 2, unmatched=["a"], unconfirmed=["b"])]
    result = run("mirrors", "-c", path, "--json", "--unmatched")
    vip, back = [json.loads(line) for line in result.stdout.splitlines()]
    assert vip == {
        "mirror": "vip",
        "from": "acme:VIP\x1b",
        "to": "billing:vip",
        "customers": 0,
        "missed": {},
        "commands": {},
        "unmatched": [],
    }
    assert (back["customers"], back["missed"]) == (2, {"unmatched": 2, "unconfirmed": 2})
    assert (back["commands"], back["unmatched"]) == ({"partly": 1}, ["a"])
    assert "unmatched" not in json.loads(run("mirrors", "-c", path, "--json").stdout.splitlines()[0])


def test_only_the_last_of_very_many_are_listed_and_all_are_counted(
    path: Path, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "LISTED_MAX", 2)
    topic.messages = [
        outcome(f"mirror.vip.{n}.acme", Result.REJECTED, 0, unmatched=[f"u{n}", f"v{n}"]) for n in range(3)
    ]
    vip = json.loads(run("mirrors", "-c", path, "--json", "--unmatched").stdout.splitlines()[0])
    assert (vip["missed"], vip["unmatched"]) == ({"unmatched": 9}, ["u2", "v2"])


def test_what_was_answered_before_may_be_left_out(path: Path, topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    class Noon:
        def wall(self) -> float:
            return 1_800_000_000.0

    monkeypatch.setattr(command, "SystemClock", Noon)
    assert run("mirrors", "-c", path, "--since", "2h").exit_code == 0
    assert topic.since == (1_800_000_000 - 7_200) * 1000


def test_where_there_are_none_it_says_how_to_make_one(tmp_path: Path, topic: Topic) -> None:
    path = configuration(tmp_path, "offline", "127.0.0.1:9", shards=2)
    result = run("mirrors", "-c", path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "[[mirrors]] in the configuration makes one" in result.stderr
    as_json = run("mirrors", "-c", path, "--json")
    assert (as_json.exit_code, as_json.output) == (0, "")


def test_what_is_wrong_is_told(path: Path, tmp_path: Path) -> None:
    help_ = run("mirrors", "--help")
    assert help_.exit_code == 0
    assert "Example:  bridge mirrors -c bridge.toml" in help_.output
    for arguments, code, said in (
        ([], 2, "-c"),
        (["-c", tmp_path / "none.toml"], 2, "cannot be read"),
        (["-c", path, "--since", "yesterday"], 2, "--since"),
        (["-c", path], 3, "127.0.0.1:9"),
    ):
        result = run("mirrors", *arguments)
        assert result.exit_code == code, result.output
        assert said in result.stderr
        assert "Traceback" not in result.stderr
