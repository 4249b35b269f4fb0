"""Logs: one line per record whatever comes in, no secret and no person, one shape for all libraries."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from bridge.errors import RetryLater
from bridge.observability.logs import COMPLAINTS_MAX, Level, Style, Throttle, configure, get_logger
from bridge.observability.redact import HIDDEN, TEXT_CHARS_MAX, Redactor
from tests.observability.observing import StandingClock

SECRET = "canary/Secret+7f3a&9b"
PERSON = "canary.person@example.com"
NAME = "canary von Kanarien"  # nothing in the text itself says that it is a person


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Logging is global; leave it as it was."""
    root = logging.getLogger()
    level, handlers, kafka = root.level, list(root.handlers), logging.getLogger("aiokafka").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("aiokafka").setLevel(kafka)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def start(style: Style = "json", level: Level = "info", secrets: tuple[str, ...] = ()) -> io.StringIO:
    """Only our handler: pytest's own would show foreign records as they came."""
    logging.getLogger().handlers.clear()
    stream = io.StringIO()
    configure(style, level, stream, secrets)
    return stream


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def appearances(text: str) -> list[str]:
    """A marker in clear and in the usual disguises."""
    raw = text.encode()
    inside = [base64.b64encode(b"x" * shift + raw)[4:-4].decode() for shift in range(3)]
    return [text, quote(text), quote(text, safe=""), raw.hex(), *inside]


# Shape


def test_a_record_has_time_level_logger_event_and_its_fields() -> None:
    stream = start()
    get_logger("bridge.source.client").warning("provider is slow", source="acme", seconds=1.5, retry=True)
    (record,) = records(stream)
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "warning",
        "logger": "bridge.source.client",
        "event": "provider is slow",
        "source": "acme",
        "seconds": 1.5,
        "retry": True,
    }


def test_libraries_come_out_in_the_same_shape() -> None:
    stream = start()
    logging.getLogger("aiokafka.consumer").info("narrates every rebalance")
    logging.getLogger("aiokafka.consumer").critical("lost group %s", "bridge")
    logging.getLogger("aiohttp.server").error("could not\nparse")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    first, second, third = records(stream)
    assert (first["logger"], first["event"], first["level"]) == ("aiokafka.consumer", "lost group bridge", "critical")
    assert second["event"] == r"could not\nparse"
    assert third["logger"] == "py.warnings"


def test_console_lines_are_readable() -> None:
    stream = start("console")
    get_logger("bridge.runtime").info("shard restored", shard=3, seconds=0.4, note="two words", nothing=None)
    line = stream.getvalue()
    assert line.endswith('info    bridge.runtime: shard restored  shard=3 seconds=0.4 note="two words" nothing=null\n')


def test_levels_below_the_configured_one_are_silent() -> None:
    stream = start(level="warning")
    get_logger("bridge").info("quiet")
    logging.getLogger("aiohttp").info("quiet")
    assert stream.getvalue() == ""


def test_configuring_again_replaces_the_stream() -> None:
    first, second = start(), start()
    get_logger("bridge").info("once")
    assert first.getvalue() == ""
    assert len(records(second)) == 1


def test_a_field_cannot_replace_what_the_record_says_itself() -> None:
    stream = start()
    get_logger("bridge").info("real", level="fake", time="fake", logger="fake", traceback="fake")
    (record,) = records(stream)
    assert (record["level"], record["logger"], record["level_"]) == ("info", "bridge", "fake")
    assert record["time"] != "fake"


# Injection

hostile = st.text(st.characters() | st.sampled_from("\n\r\t\x0b\x0c\x1b\x1c\x85\u2028\u2029\u202e\"\\'{}=\ud800"))
nested = st.recursive(
    hostile | st.integers() | st.floats() | st.binary() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(hostile, inner),
)


@pytest.mark.parametrize("style", ["json", "console"])
def test_hostile_input_gives_one_printable_line_per_record(style: Style) -> None:
    @given(event=hostile, value=nested, name=hostile)
    def check(event: str, value: object, name: str) -> None:
        stream = start(style)
        get_logger("bridge").info(event, value_of_provider=value, **{f"k{name}": value})
        logging.getLogger(f"aiohttp.{name}").info("%s", event)
        text = stream.getvalue()
        lines = text.splitlines()
        assert len(lines) == 2
        assert text.count("\n") == 2
        assert all(line.isprintable() for line in lines)
        text.encode()
        if style == "json":
            assert all(json.loads(line)["level"] == "info" for line in lines)

    check()


def test_long_values_are_cut() -> None:
    stream = start()
    get_logger("bridge").info("x" * 1_000_000, page="y" * 1_000_000, items=["z"] * 10_000, big=10**10_000)
    (record,) = records(stream)
    assert len(record["event"]) <= TEXT_CHARS_MAX + 1
    assert len(stream.getvalue()) < 2000


def test_a_huge_text_costs_no_more_than_a_long_one() -> None:
    redact = Redactor([SECRET])
    for text in ("a" * 20_000_000, "token=" * 3_000_000, "eyJaaaaaaaa." * 2_000_000):
        began = time.perf_counter()
        assert len(redact.text(text)) <= TEXT_CHARS_MAX + 1
        assert time.perf_counter() - began < 0.5  # about 10 ms; without the bound many seconds


def test_deep_and_circular_values_end() -> None:
    stream = start()
    circle: list[object] = []
    circle.append(circle)
    get_logger("bridge").info("round", circle=circle)
    assert len(records(stream)) == 1


# Discretion


class Customer(NamedTuple):
    email: str
    nickname: str = NAME


@dataclass
class Order:
    buyer: str = NAME


class Login(BaseModel):
    password: SecretStr
    age: int


def everything_that_may_leak() -> None:
    """Logs the markers in every way somebody might."""
    log = get_logger("bridge.leak")
    log.info("keys", password=SECRET, client_secret=SECRET, Authorization=f"Bearer {SECRET}", api_key=SECRET)
    log.info("types", one=SecretStr(SECRET), two=SecretBytes(SECRET.encode()), three=[SecretStr(SECRET)])
    log.info("nested", settings={"kafka": {"sasl_plain_password": SECRET}})
    log.info(
        "objects",
        login=Login(password=SecretStr(SECRET), age=1),
        customer=Customer(PERSON),
        order=Order(),
        some=Customer,
    )
    log.info("bytes", content=NAME.encode(), text=SECRET.encode())
    log.info("person", email=PERSON, phone_number=PERSON, customer={"first_name": PERSON, "email": PERSON})
    log.info("names", first_name=NAME, last_name=[NAME], company=NAME, addresses=[{"street": NAME}], after={"x": NAME})
    log.info(f"free text about {PERSON} and {quote(PERSON)} and password={SECRET}")
    log.info("url", url=f"https://id:{SECRET}@api.example.com/auth?access_token={SECRET}&email={quote(PERSON)}")
    log.info("in words", text=f"the secret is {SECRET}, encoded {quote(SECRET, safe='')} {SECRET.encode().hex()}")
    for shift in range(3):
        log.info("basic", text=base64.b64encode(b"x" * shift + SECRET.encode() + b"yz").decode())
    other = logging.getLogger("aiohttp.client")
    other.warning('request with headers {"Authorization": "Basic %s"}', SECRET)
    other.warning("token: '%s' for %s", SECRET, PERSON)
    other.warning("%d is not a number", SECRET)
    try:
        Login.model_validate({"password": SECRET, "age": PERSON})
    except ValidationError as error:
        log.warning("error as a field", cause=error)
        log.exception("error as traceback")
        other.exception("error of a library")
    try:
        try:
            raise KeyError(PERSON)
        except KeyError as error:
            raise ExceptionGroup(NAME, [ValueError(PERSON), RuntimeError(SECRET), KeyError(NAME)]) from error
    except ExceptionGroup:
        log.exception("a chain")


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("level", ["info", "debug"])
def test_no_marker_is_ever_printed(style: Style, level: Level, capsys: pytest.CaptureFixture[str]) -> None:
    stream = start(style, level, (SECRET,))
    everything_that_may_leak()
    output = stream.getvalue() + "".join(capsys.readouterr())
    assert "error as traceback" in output
    for marker in (SECRET, PERSON, NAME):
        for form in appearances(marker):
            assert form not in output
    assert "canary" not in output


def test_no_other_handler_of_the_process_sees_our_records_bare() -> None:
    start(secrets=(SECRET,))
    seen = io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(seen))
    get_logger("bridge").warning(f"about {SECRET}", email=PERSON, login=SecretStr(SECRET))
    assert "about ***" in seen.getvalue()
    assert "canary" not in seen.getvalue()


def test_without_known_secrets_keys_types_and_patterns_still_hide() -> None:
    stream = start()
    log = get_logger("bridge")
    log.info("login failed password=canary1 token: 'canary2'", secret="canary3", value=SecretStr("canary4"))
    logging.getLogger("x").info("Authorization: Bearer canary5.canary6 https://u:canary7@host/")
    assert "canary" not in stream.getvalue()
    assert HIDDEN in stream.getvalue()


async def test_an_unretrieved_task_does_not_print_its_error() -> None:
    stream = start()
    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "future": PERSON, "exception": ValueError(PERSON)}
    )
    (record,) = records(stream)
    assert record["event"] == "Task exception was never retrieved"
    assert record["error"] == "ValueError"
    assert "canary" not in stream.getvalue()


def test_the_kafka_client_stays_at_info_even_with_debug() -> None:
    stream = start(level="debug")
    logging.getLogger("aiokafka.conn").setLevel(logging.DEBUG)
    logging.getLogger("aiokafka").debug("sasl %s", "canary")
    logging.getLogger("aiokafka.conn").debug("sasl %s", "canary")
    logging.getLogger("aiokafka.conn").info("connected")
    get_logger("bridge").debug("visible")
    assert [record["event"] for record in records(stream)] == ["connected", "visible"]


def test_ordinary_words_survive() -> None:
    redact = Redactor(["short", "1234567"])
    for text in ("GET /customers/{id} answered 404", "2026-01-02T03:04:05Z", "localhost:9092", "acme/customers/c-17"):
        assert redact.text(text) == text


@given(st.text(min_size=6), st.text(max_size=20), st.text(max_size=20))
def test_a_known_secret_is_found_wherever_it_stands(secret: str, before: str, after: str) -> None:
    marker = f"Q7{secret}Z9"
    shown = Redactor([marker]).text(f"{before}{marker}{after}")
    assert marker not in shown


# Errors


def test_an_expected_error_is_one_line_with_its_message() -> None:
    stream = start()
    try:
        raise RetryLater("acme answered 503; next attempt in 4 s")
    except RetryLater:
        get_logger("bridge").warning("cannot read", exc_info=True)
    (record,) = records(stream)
    assert record["error"] == "RetryLater: acme answered 503; next attempt in 4 s"
    assert "traceback" not in record


def test_an_unexpected_error_says_where_and_the_traceback_comes_with_debug_only() -> None:
    stream = start(level="debug")
    try:
        json.loads("{")
    except ValueError:
        get_logger("bridge").exception("oops")
    (record,) = records(stream)
    assert record["error"].startswith("JSONDecodeError at json/decoder.py:")
    assert any("test_logs.py" in line for line in record["traceback"])
    assert all("\n" not in line for line in record["traceback"])


def test_console_traceback_lines_cannot_pass_for_records() -> None:
    stream = start("console", "debug")
    try:
        raise RetryLater("a\n2026-01-01T00:00:00Z info    bridge: forged")
    except RetryLater:
        get_logger("bridge").exception("oops")
    first, *rest = stream.getvalue().splitlines()
    assert "oops" in first
    assert rest
    assert all(line.startswith("    | ") for line in rest)


def test_a_closed_stream_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    start().close()
    get_logger("bridge").info("nobody reads")
    assert capsys.readouterr().err == ""


# Throttle


def test_the_same_complaint_passes_once_per_interval_with_the_number_kept_quiet() -> None:
    clock = StandingClock()
    throttle = Throttle(60, clock)
    assert throttle.admit("acme") == 0
    for _ in range(5):
        clock.advance(10)
        assert throttle.admit("acme") is None
    assert throttle.admit("globex") == 0
    clock.advance(10)
    assert throttle.admit("acme") == 5


def test_no_line_more_often_than_once_per_back_off_step() -> None:
    clock = StandingClock()
    throttle = Throttle(1, clock)
    assert throttle.admit("acme", back_off_s=300) == 0
    clock.advance(299)
    assert throttle.admit("acme", back_off_s=300) is None
    clock.advance(1)
    assert throttle.admit("acme", back_off_s=300) == 1


def test_the_end_of_a_logged_complaint_is_told_once() -> None:
    throttle = Throttle(60, StandingClock())
    assert not throttle.over("acme")
    throttle.admit("acme")
    assert throttle.over("acme")
    assert not throttle.over("acme")
    assert throttle.admit("acme") == 0


def test_a_stepped_wall_clock_does_not_open_the_throttle() -> None:
    clock = StandingClock()
    throttle = Throttle(60, clock)
    throttle.admit("acme")
    clock.step(3600)
    assert throttle.admit("acme") is None


def test_a_throttle_remembers_a_bounded_number() -> None:
    throttle = Throttle(60, StandingClock())
    for number in range(COMPLAINTS_MAX + 1):
        throttle.admit(number)
    assert throttle.admit(0) == 0  # forgotten
    assert throttle.admit(COMPLAINTS_MAX) is None
