"""A Kafka that does not let us in, or not do everything (K08, K11): told by name, waited for, never half done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from bridge.cli import main
from bridge.publish.rights import missing_rights
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan, ensure, inspect
from tests.publish.benching import Bench
from tests.support.guarded import (
    CREATE,
    DESCRIBE_CONFIGS,
    GROUP,
    PASSWORD,
    READ,
    TOPIC,
    TRANSACTIONAL_ID,
    USER,
    WRITE,
    Guarded,
    Right,
    least_rights,
)
from tests.support.neighbourhood import Neighbourhood, brisk, published, runs, until

pytestmark = pytest.mark.kafka

WRONG = "hunter2-is-not-the-password"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path_factory.mktemp("certificates"))
    try:
        asyncio.run(guarded.broker.start())
        yield guarded
    finally:
        asyncio.run(guarded.broker.stop())


def with_password(guarded: Guarded, password: str = PASSWORD) -> KafkaSettings:
    return brisk(
        guarded.with_password,
        security_protocol="SASL_PLAINTEXT",
        sasl_plain_username=USER,
        sasl_plain_password=SecretStr(password),
    )


async def test_a_topic_that_may_not_be_written_stops_whole_steps_until_the_right_is_back(
    tmp_path: Path, guarded: Guarded, bridge_name: str
) -> None:
    """K08."""
    rights = least_rights(bridge_name)
    lost: Right = (TOPIC, f"{bridge_name}.customers", WRITE)
    rights.remove((TOPIC, f"{bridge_name}.", WRITE))
    topics = ("tags", "users", "state", "progress", "inbox", "outcomes", "deadletters")
    kept: list[Right] = [(TOPIC, f"{bridge_name}.{topic}", WRITE) for topic in topics]
    await asyncio.to_thread(guarded.grant, *rights, *kept, lost)
    town = Neighbourhood(tmp_path, with_password(guarded), bridge_name)
    async with town.bridge() as bridge:
        await until("it runs", runs(bridge, 0, 1))
        await until("all is read", lambda: bridge.proved_until() > 0)
        await asyncio.to_thread(guarded.revoke, lost)
        async with asyncio.timeout(30):
            while not await missing_rights(town.kafka, town.plan):  # noqa: ASYNC110 - the broker hears of it later
                await asyncio.sleep(0.05)
        before = await visible(town, guarded)
        assert before["events"] == published(bridge)
        town.sign_up(3)
        await until("the alarm", lambda: len(town.heard("TopicAuthorizationFailed")) >= 2)
        assert any(f"{bridge_name}.customers" in str(line) for line in town.heard("TopicAuthorizationFailed"))
        assert await visible(town, guarded) == before, "neither an event nor a state of the step that was refused"
        await asyncio.to_thread(guarded.grant, lost)
        await until("it goes on", lambda: published(bridge) >= before["events"] + 3)
        await town.verified()
    assert (await visible(town, guarded))["events"] == before["events"] + 3


async def visible(town: Neighbourhood, guarded: Guarded) -> dict[str, Any]:
    """How many events and which state a reader sees who may see everything. `Any`: a number and a list."""
    settings = KafkaSettings(bootstrap_servers=[guarded.open])
    bench = Bench(settings, town.plan, await inspect(settings, town.plan))
    await bench.settled(town.plan.customers, town.plan.tags, town.plan.state)
    events = await bench.committed(town.plan.customers, town.plan.tags, settle=False)
    states = await bench.committed(town.plan.state, settle=False)
    return {"events": len(events), "states": sorted((state.partition, state.offset) for state in states)}


# -- logging in --------------------------------------------------------------------------------------------------


def kafka_lines(guarded: Guarded, how: str) -> list[str]:
    """The table `[kafka]` of a file with one mistake in it."""
    password, protocol, servers = PASSWORD, "SASL_SSL", guarded.with_tls
    lines = [f'ssl_cafile = "{guarded.authority}"']
    match how:
        case "wrong password":
            password = WRONG
        case "wrong password in the clear":
            password, protocol, servers = WRONG, "SASL_PLAINTEXT", guarded.with_password
        case "unknown authority":
            lines = []
        case "no TLS where TLS is wanted":
            protocol = "SASL_PLAINTEXT"
        case "TLS where none is spoken":
            servers = guarded.with_password
        case "no login where one is wanted":
            return [f'bootstrap_servers = ["{guarded.with_password}"]']
        case "another mechanism":
            lines.append('sasl_mechanism = "SCRAM-SHA-512"')
    return [
        f'bootstrap_servers = ["{servers}"]',
        f'security_protocol = "{protocol}"',
        f'sasl_plain_username = "{USER}"',
        f'sasl_plain_password = "{password}"',
        *lines,
    ]


def check(folder: Path, kafka: list[str], name: str) -> tuple[int, str]:
    """`bridge check --online`: exit code and everything it printed."""
    path = folder / "bridge.toml"
    path.write_text("\n".join(["[kafka]", *kafka, "[bridge]", f'name = "{name}"', "shards = 2"]) + "\n")
    done = CliRunner().invoke(main, ["check", "-c", str(path), "--online", "--json"])
    assert PASSWORD not in done.output
    assert WRONG not in done.output
    assert "Traceback" not in done.output
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("wrong password", "refuses the login, see kafka.sasl_"),
        ("wrong password in the clear", "refuses the login, see kafka.sasl_"),
        ("unknown authority", "is not trusted, see kafka.ssl_cafile"),
        ("no TLS where TLS is wanted", "kafka.security_protocol"),
        ("TLS where none is spoken", "kafka.security_protocol"),
        ("no login where one is wanted", "kafka.security_protocol"),
        ("another mechanism", "see kafka.sasl_"),
    ],
)
def test_check_says_why_nobody_is_let_in(
    tmp_path: Path, guarded: Guarded, bridge_name: str, how: str, said: str
) -> None:
    """K11."""
    code, printed = check(tmp_path, kafka_lines(guarded, how), bridge_name)
    assert code == 3
    assert said in printed


def test_check_names_each_right_that_is_missing(tmp_path: Path, guarded: Guarded, bridge_name: str) -> None:
    """K11. First before there are topics, then with all of them there."""
    kafka = kafka_lines(guarded, "as it should be")
    create: Right = (TOPIC, f"{bridge_name}.", CREATE)
    missing = {
        (TOPIC, f"{bridge_name}.", READ): f"lacks Read on topic {bridge_name}.state",
        (TOPIC, f"{bridge_name}.", WRITE): f"lacks Write on topic {bridge_name}.state",
        (TOPIC, f"{bridge_name}.", DESCRIBE_CONFIGS): f"lacks DescribeConfigs on topic {bridge_name}.state",
        (TRANSACTIONAL_ID, f"{bridge_name}-", WRITE): f"lacks Write on transactional ids {bridge_name}-*",
        (GROUP, bridge_name, READ): f"lacks Read on group {bridge_name}",
    }
    guarded.grant(*least_rights(bridge_name))
    assert_soon(lambda: check(tmp_path, kafka, bridge_name), 0, "will be created at start")
    guarded.revoke(create)
    assert_soon(lambda: check(tmp_path, kafka, bridge_name), 3, "the right Create")
    plan = TopicPlan(bridge_name, 2)
    asyncio.run(ensure(KafkaSettings(bootstrap_servers=[guarded.open]), plan, create=True))
    for right, said in missing.items():
        guarded.revoke(right)
        assert_soon(lambda: check(tmp_path, kafka, bridge_name), 3, said)
        guarded.grant(right)
    assert_soon(lambda: check(tmp_path, kafka, bridge_name), 0, f"{bridge_name}.state, 2 partitions")


def assert_soon(look: Callable[[], tuple[int, str]], code: int, said: str) -> None:
    """A broker learns of rights a moment after they were answered for."""
    deadline = time.monotonic() + 20.0
    found = look()
    while (found[0] != code or said not in found[1]) and time.monotonic() < deadline:
        time.sleep(0.1)
        found = look()
    assert found[0] == code, found[1]
    assert said in found[1]


async def test_a_wrong_password_is_tried_ever_more_slowly_and_shown_to_nobody(
    tmp_path: Path, guarded: Guarded, bridge_name: str
) -> None:
    """K11."""
    town = Neighbourhood(tmp_path, with_password(guarded, WRONG), bridge_name)
    async with town.bridge() as bridge:
        await until("three attempts", lambda: len(town.heard("the bridge cannot run")) >= 3)
        assert "refuses the login" in (bridge.supervisor.trouble or "")
    waits = [line["next_try_s"] for line in town.heard("the bridge cannot run")]
    assert waits == sorted(waits)
    assert waits[2] > 2 * waits[0]
    assert not town.heard(WRONG)
    assert {line["level"] for line in town.heard("refuses the login")} == {"warning"}
