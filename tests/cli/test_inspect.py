"""The commands that look: `topics`, `tail`, `state`, `verify` and `schema`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bridge.model import Collection
from tests.cli.commanding import configuration, run
from tests.verify.history import History
from tests.verify.writing import SHARDS, write_once


def config_file(folder: Path, name: str, servers: str) -> Path:
    return configuration(
        folder, name, servers, shards=SHARDS, kafka="partitions = { customers = 3, tags = 3, users = 1 }"
    )


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    return config_file(tmp_path, "offline", "127.0.0.1:9")


# Without Kafka.


@pytest.mark.parametrize(
    "arguments",
    [
        ["topics"],
        ["tail"],
        ["state"],
        ["state", "get"],
        ["state", "list"],
        ["state", "export"],
        ["verify"],
        ["plan"],
        ["schema"],
        ["schema", "export"],
        ["schema", "diff"],
    ],
)
def test_help_has_an_example_on_every_level(arguments: list[str]) -> None:
    result = run(*arguments, "--help")
    assert result.exit_code == 0
    assert "Example:  bridge" in result.output


@pytest.mark.parametrize("command", [["topics"], ["tail"], ["state", "list"], ["verify"], ["plan"]])
def test_without_a_configuration_it_is_wrong_usage(command: list[str]) -> None:
    assert run(*command).exit_code == 2


@pytest.mark.parametrize("command", [["topics"], ["tail"], ["verify"], ["plan"]])
def test_a_configuration_that_is_not_there_is_told(command: list[str], tmp_path: Path) -> None:
    result = run(*command, "-c", tmp_path / "none.toml")
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [["topics"], ["tail"], ["verify"], ["plan"]])
def test_without_kafka_it_is_the_environment(command: list[str], offline: Path) -> None:
    result = run(*command, "-c", offline)
    assert result.exit_code == 3
    assert "127.0.0.1:9" in result.stderr


def test_an_event_type_that_does_not_exist_is_answered_with_the_nearest(offline: Path) -> None:
    result = run("tail", "-c", offline, "customer.update")
    assert result.exit_code == 2
    assert "did you mean customer.updated?" in result.stderr


def test_a_beginning_that_is_no_time_is_told(offline: Path) -> None:
    result = run("tail", "-c", offline, "--from", "yesterday")
    assert result.exit_code == 2
    assert "15m" in result.stderr


def test_a_key_that_is_none_is_told(offline: Path) -> None:
    result = run("state", "-c", offline, "get", "acme/5f0c")
    assert result.exit_code == 2
    assert "source/collection/uid" in result.stderr


def test_an_unknown_source_is_answered_with_the_nearest(offline: Path) -> None:
    assert "did you mean acme?" in run("plan", "-c", offline, "--source", "acne").stderr
    result = run("verify", "-c", offline, "--source", "acne", "--online")
    assert result.exit_code == 2
    assert "did you mean acme?" in result.stderr


class TestSchema:
    def test_what_was_exported_is_current(self, tmp_path: Path) -> None:
        assert run("schema", "export", tmp_path).exit_code == 0
        assert run("schema", "export", tmp_path, "--check").exit_code == 0

    def test_what_was_edited_is_not(self, tmp_path: Path) -> None:
        run("schema", "export", tmp_path)
        (tmp_path / "tag.updated.v1.json").write_text("{}")
        result = run("schema", "export", tmp_path, "--check")
        assert result.exit_code == 1
        assert "tag.updated.v1.json" in result.stderr
        assert "bridge schema export" in result.stderr

    def test_a_schema_can_read_itself(self, tmp_path: Path) -> None:
        run("schema", "export", tmp_path)
        result = run("schema", "diff", tmp_path, tmp_path)
        assert result.exit_code == 0
        assert "can read" in result.stdout

    def test_a_type_that_is_gone_breaks_consumers(self, tmp_path: Path) -> None:
        old, new = tmp_path / "old", tmp_path / "new"
        run("schema", "export", old)
        run("schema", "export", new)
        (new / "tag.updated.v1.json").unlink()
        result = run("schema", "diff", old, new, "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout) == {
            "compatible": False,
            "problems": ["tag.updated.v1.json: the type is gone"],
        }

    def test_a_folder_without_schemas_is_told(self, tmp_path: Path) -> None:
        result = run("schema", "diff", tmp_path, tmp_path)
        assert result.exit_code == 2
        assert "no schema" in result.stderr

    def test_a_file_that_is_no_json_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text("{")
        assert run("schema", "diff", tmp_path, tmp_path).exit_code == 2

    def test_a_folder_that_cannot_be_written_is_the_environment(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert run("schema", "export", tmp_path / "file" / "folder").exit_code == 3


# With Kafka.


def a_history() -> History:
    history = History()
    history.put("a", {"first_name": "Ada", "email": "ada@example.org"})
    history.put("b\x1b[2J", {"first_name": "\u202eBo\x9b"})
    history.put("v", {"name": "VIP"}, collection=Collection.TAGS)
    history.put("a", {"first_name": "Ad", "email": "ada@example.org"})
    history.put("c", {"first_name": "Cy"})
    history.remove("c")
    history.put("a", {"first_name": "Ann"}, source="other")
    return history


@pytest.fixture
def written(bootstrap_servers: str, bridge_name: str, tmp_path: Path) -> Path:
    """The configuration of a bridge that has published `a_history`."""
    asyncio.run(write_once(bootstrap_servers, bridge_name, a_history()))
    return config_file(tmp_path, bridge_name, bootstrap_servers)


def test_topics_are_missing_until_they_are_created(bootstrap_servers: str, bridge_name: str, tmp_path: Path) -> None:
    path = config_file(tmp_path, bridge_name, bootstrap_servers)
    before = run("topics", "-c", path, "--json")
    assert before.exit_code == 3
    assert {json.loads(line)["level"] for line in before.stdout.splitlines()} == {"missing"}
    assert run("verify", "-c", path).exit_code == 3
    assert run("topics", "-c", path, "--create").exit_code == 0
    after = run("topics", "-c", path, "--json")
    assert after.exit_code == 0
    assert {json.loads(line)["level"] for line in after.stdout.splitlines()} == {"ok"}
    assert f"{bridge_name}.customers" in run("topics", "-c", path).stdout


def test_tail_shows_time_type_key_and_what_changed(written: Path) -> None:
    result = run("tail", "-c", written, "--from", "beginning", "--no-follow", "customer.updated")
    assert result.exit_code == 0
    assert result.stdout.split()[2:] == ["customer.updated", "acme/a", "#4", "/x"]
    assert "Ada" not in result.stdout


def test_tail_escapes_what_steers_a_terminal(written: Path) -> None:
    shown = run("tail", "-c", written, "--from", "1h", "--no-follow", "customer.*").stdout
    assert "acme/b\\x1b[2J" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    as_json = run("tail", "-c", written, "--from", "1h", "--no-follow", "--json").stdout
    assert all(line.isprintable() for line in as_json.splitlines())
    names = [json.loads(line)["data"]["after"] for line in as_json.splitlines()]
    assert {"uid": "b\x1b[2J", "first_name": "\u202eBo\x9b"} in names


def test_tail_stops_after_so_many(written: Path) -> None:
    result = run("tail", "-c", written, "--from", "beginning", "-n", "3")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 3


def test_state_gets_a_document(written: Path) -> None:
    result = run("state", "-c", written, "get", "acme/customers/a")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "key": "acme/customers/a",
        "sequence": 4,
        "changed_at": None,
        "document": {"uid": "a", "first_name": "Ad", "email": "ada@example.org"},
    }


def test_state_of_a_deleted_document_is_told(written: Path) -> None:
    result = run("state", "-c", written, "get", "acme/customers/c")
    assert result.exit_code == 1
    assert "is not in the state" in result.stderr


def test_state_lists_keys(written: Path) -> None:
    shown = run("state", "-c", written, "list").stdout.splitlines()
    assert [line.split()[0] for line in shown] == [
        "acme/customers/a",
        "acme/customers/b\\x1b[2J",
        "acme/tags/v",
        "other/customers/a",
    ]
    narrow = run("state", "-c", written, "list", "--source", "acme", "--collection", "tags", "--json").stdout
    assert json.loads(narrow) == {"key": "acme/tags/v", "sequence": 3, "changed_at": None, "refused": False}


def test_state_exports_the_last_of_each_document(written: Path) -> None:
    lines = [json.loads(line) for line in run("state", "-c", written, "export").stdout.splitlines()]
    assert {line["key"]: line["document"].get("first_name") for line in lines} == {
        "acme/customers/a": "Ad",
        "acme/customers/b\x1b[2J": "\u202eBo\x9b",
        "acme/tags/v": None,
        "other/customers/a": "Ann",
    }


def test_verify_is_ok(written: Path) -> None:
    result = run("verify", "-c", written)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "verify: ok"


def test_verify_of_one_source_as_json(written: Path) -> None:
    result = run("verify", "-c", written, "--source", "other", "--json")
    data = json.loads(result.stdout)
    assert data["ok"]
    assert data["figures"] == {"sources": 1, "keys": 1, "events": 1}


def test_verify_of_a_source_that_is_nowhere_is_told(written: Path) -> None:
    assert run("verify", "-c", written, "--source", "acne").exit_code == 2


def test_verify_of_a_broken_history_fails(bootstrap_servers: str, bridge_name: str, tmp_path: Path) -> None:
    history = a_history()
    del history.events[3]
    asyncio.run(write_once(bootstrap_servers, bridge_name, history))
    result = run("verify", "-c", config_file(tmp_path, bridge_name, bootstrap_servers), "--wait", "0.5")
    assert result.exit_code == 1
    assert "source acme: number 4 is missing; the counters say 6" in result.stdout
    assert result.stdout.splitlines()[-1] == "verify: BROKEN (1 finding)"
