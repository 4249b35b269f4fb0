"""ApiClient: tokens, status classes, 429, JSON. Everything in virtual time against a provider that plays answers."""

from __future__ import annotations

import asyncio
import base64
import json
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import AccessDenied, BridgeError, Malformed, RequestRefused, RetryLater, SourceError
from bridge.model import Collection
from bridge.source.answer import RETRY_AFTER_S_MAX, parse, retry_after, server_date
from bridge.source.api import Answer, ApiClient
from bridge.source.budget import Priority
from bridge.source.transport import Request, Response
from tests.source.providing import SECRET, TAGS, Observer, Play, Provider, answer, source_over
from tests.support.clock import WALL_START, VirtualClock, run_virtual

HTTP_DATE = "Fri, 15 Jan 2027 08:00:00 GMT"
"""WALL_START."""


def client_of(provider: Provider, clock: VirtualClock, observer: Observer | None = None, **settings: Any) -> ApiClient:
    return source_over(provider, clock, observer, **settings)._client


async def get(client: ApiClient, priority: Priority = Priority.POLL) -> Answer:
    return await client.get("tags.list", TAGS, priority=priority)


def error_for(response: Response) -> SourceError:
    async def main(clock: VirtualClock) -> SourceError:
        with pytest.raises(SourceError) as caught:
            await get(client_of(Provider(lambda request: response), clock))
        return caught.value

    return run_virtual(main)


# Tokens.


def test_the_login_is_as_documented() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider()
        await get(client_of(provider, clock, client_secret="s3cr3t"))
        [login] = provider.logins
        assert (login.method, login.path) == ("POST", "/accounts/T12345678/auth/token")
        assert login.headers["Authorization"] == "Basic Y2xpZW50LTE6czNjcjN0"
        assert orjson.loads(login.body or b"") == {
            "grant_type": "client_credentials",
            "audience": "https://api.dintero.com/v1/accounts/T12345678",
        }
        assert provider.requests[0].headers["Authorization"] == "Bearer canary-token-1"

    run_virtual(main)


def test_one_login_serves_all_that_wait_for_it() -> None:
    async def main(clock: VirtualClock) -> None:
        async def slowly(request: Request) -> Response:
            await clock.sleep(2)
            return provider.token(request)

        provider = Provider(login=slowly)
        client = client_of(provider, clock, request_rate=1000)
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(get(client))
        assert (len(provider.logins), len(provider.requests)) == (1, 50)

    run_virtual(main)


def test_a_token_is_renewed_at_nine_tenths_of_its_life() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(login=lambda request: answer({"access_token": "t", "expires_in": 1000}))
        client = client_of(provider, clock)
        await get(client)
        await clock.sleep(890)
        await get(client)
        assert len(provider.logins) == 1
        clock.step(-100_000)
        await clock.sleep(11)
        await get(client)
        assert len(provider.logins) == 2

    run_virtual(main)


@pytest.mark.parametrize("lifetime", [None, -1, 0, "soon", True, [], 0.001, 1e300, {}])
def test_an_odd_lifetime_neither_storms_nor_stops(lifetime: object) -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(login=lambda request: answer({"access_token": "t", "expires_in": lifetime}))
        client = client_of(provider, clock, request_rate=100)
        for _ in range(200):
            await get(client)
        assert len(provider.logins) <= 1 + clock.monotonic() / 0.9

    run_virtual(main)


def test_a_token_that_lives_shorter_than_its_fetch_takes_still_serves_those_who_waited() -> None:
    async def main(clock: VirtualClock) -> None:
        async def slowly(request: Request) -> Response:
            await clock.sleep(5)
            return answer({"access_token": f"t{len(provider.logins)}", "expires_in": 1})

        provider = Provider(login=slowly)
        client = client_of(provider, clock, request_rate=1000)
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(get(client))
        assert (len(provider.logins), len(provider.requests)) == (1, 20)

    run_virtual(main)


@pytest.mark.parametrize("tells", [True, False], ids=["told", "revoked"])
def test_a_request_that_waits_longer_than_a_token_lives_is_sent_with_a_living_one(tells: bool) -> None:
    """Found by the simulator: behind requests of a higher class each one came with a token that was dead."""

    async def main(clock: VirtualClock) -> None:
        born: dict[str, float] = {}

        def login(request: Request) -> Response:
            token = f"t{len(born)}"
            born[f"Bearer {token}"] = clock.monotonic()
            return answer({"access_token": token, "expires_in": 3 if tells else 14400})

        def strict(request: Request) -> Response:
            age_s = clock.monotonic() - born[request.headers["Authorization"]]
            return answer([]) if age_s < 3 else answer({}, 401)

        client = client_of(Provider(strict, login), clock, request_rate=2)

        async def press() -> None:
            while True:
                await get(client, Priority.MEMBERSHIP)

        pressing = [asyncio.create_task(press()) for _ in range(8)]
        await clock.sleep(10)
        begin = clock.monotonic()
        await get(client, Priority.SWEEP)
        assert 25 < clock.monotonic() - begin < 45
        for task in pressing:
            task.cancel()
        await asyncio.wait(pressing)

    run_virtual(main)


def test_a_token_revoked_early_is_replaced_once_for_all() -> None:
    async def main(clock: VirtualClock) -> None:
        good = "Bearer canary-token-1"

        async def strict(request: Request) -> Response:
            await clock.sleep(len(provider.requests) % 7)
            return answer([]) if request.headers["Authorization"] == good else answer({}, 401)

        provider = Provider(strict)
        client = client_of(provider, clock, request_rate=1000)
        await get(client)
        good = "Bearer canary-token-2"
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(get(client))
        assert len(provider.logins) == 2

    run_virtual(main)


def test_a_401_that_stays_is_access_denied_after_one_repetition() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(lambda request: answer({}, 401))
        client = client_of(provider, clock)
        with pytest.raises(AccessDenied):
            await get(client)
        assert (len(provider.logins), len(provider.requests)) == (2, 2)

    run_virtual(main)


def test_a_403_is_access_denied_without_repetition() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(lambda request: answer({}, 403))
        client = client_of(provider, clock)
        with pytest.raises(AccessDenied):
            await get(client)
        assert (len(provider.logins), len(provider.requests)) == (1, 1)

    run_virtual(main)


@pytest.mark.parametrize(
    ("status", "kind"), [(400, AccessDenied), (401, AccessDenied), (403, AccessDenied), (500, RetryLater)]
)
def test_a_failing_login_is_shared_and_not_stormed(status: int, kind: type[SourceError]) -> None:
    async def main(clock: VirtualClock) -> None:
        async def refuse(request: Request) -> Response:
            await clock.sleep(0.5)
            return answer({}, status)

        provider = Provider(login=refuse)
        client = client_of(provider, clock, request_rate=1000)
        results = await asyncio.gather(*(get(client) for _ in range(50)), return_exceptions=True)
        assert {type(result) for result in results} == {kind}
        assert len(provider.logins) == 1
        for _ in range(600):  # a minute of impatience
            with pytest.raises(kind):
                await get(client)
            await clock.sleep(0.1)
        assert len(provider.logins) <= 8
        provider.login = provider.token
        await clock.sleep(61)
        await get(client)

    run_virtual(main)


def test_a_cancelled_login_leaves_the_next_one_free() -> None:
    async def main(clock: VirtualClock) -> None:
        async def never(request: Request) -> Response:
            await clock.sleep(1e6)
            raise AssertionError

        provider = Provider(login=never)
        client = client_of(provider, clock)
        first = asyncio.create_task(get(client))
        second = asyncio.create_task(get(client))
        await clock.sleep(1)
        provider.login = provider.token
        first.cancel()
        await second
        assert first.cancelled()

    run_virtual(main)


@pytest.mark.parametrize("token", [None, 7, "", "a b", "a\r\nX: 1", "å", "x" * 20_000])
def test_a_token_that_could_split_a_header_is_refused(token: object) -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(login=lambda request: answer({"access_token": token}))
        with pytest.raises(Malformed):
            await get(client_of(provider, clock))
        assert not provider.requests

    run_virtual(main)


# Status and media type.


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRefused),
        (404, RequestRefused),
        (405, RequestRefused),
        (408, RetryLater),
        (409, RequestRefused),
        (422, RequestRefused),
        (425, RetryLater),
        (429, RetryLater),
        (500, RetryLater),
        (502, RetryLater),
        (503, RetryLater),
        (599, RetryLater),
        (301, RequestRefused),
        (307, RequestRefused),
        (304, RequestRefused),
    ],
)
def test_every_status_demands_one_reaction(status: int, kind: type[SourceError]) -> None:
    for body in (b"", b"<html>", b'{"error":{"message":"canary","code":"NOT FOUND"}}', b"\xff", b"[]", b"null"):
        error = error_for(answer(body, status))
        assert type(error) is kind
        assert str(status) in str(error)
        assert "canary" not in str(error)
        if isinstance(error, RequestRefused):
            assert error.status == status


def test_an_error_shows_the_providers_code_only_when_it_looks_like_one() -> None:
    assert "(NOT FOUND)" in str(error_for(answer({"error": {"code": "NOT FOUND", "message": "x"}}, 404)))
    for code in ("canary@example.com", "canary\nline", "canary" * 50, {"canary": 1}, 7, None):
        assert "canary" not in str(error_for(answer({"error": {"code": code}}, 404)))


def test_a_redirect_says_what_to_check() -> None:
    assert "base_url" in str(error_for(answer(b"", 302, location="https://evil.example/canary")))


@pytest.mark.parametrize(
    ("media", "kind"),
    [("text/html", RetryLater), ("TEXT/HTML; charset=utf-8", RetryLater), ("text/plain", Malformed), ("x", Malformed)],
)
def test_a_200_with_another_media_type_is_not_an_empty_page(media: str, kind: type[SourceError]) -> None:
    assert type(error_for(Response(200, {"content-type": media}, b"[]"))) is kind


@pytest.mark.parametrize("media", ["application/json", "Application/JSON;charset=utf-8", "application/hal+json", ""])
def test_json_by_any_of_its_names_is_read(media: str) -> None:
    assert parse(Response(200, {"content-type": media}, b"[1]"), "x") == [1]


# JSON.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[]]",
        b'[{"id":',
        b"\xef\xbb\xbf[]",
        "[]".encode("utf-16"),
        "[]".encode("utf-16-le"),
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b"[" + b"9" * 5000 + b"]",
        b'["\\ud800"]',
        b'["\xed\xa0\x80"]',
        b'["\xff"]',
        b"[" * 10_000 + b"]" * 10_000,
        b"[" * 400 + b"]" * 400,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"{'a':1}",
        b'["\x00"]',
        b"\x00",
    ],
    ids=lambda body: repr(body[:16]),
)
def test_what_is_not_json_fails_as_a_whole(body: bytes) -> None:
    assert type(error_for(answer(body))) is Malformed


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'[{"id":"x","b":{"c":1,"c":1}}]',
        b'{ "a" : 1 , "a" : 2 }',
        b'{"a":1,"\\u0061":2}',
        b'{"a":1,"a":2,"q":"\\u0022:"}',
        b'{"a":1,"a":2,"q":"\\u0022\\u0022"}',
        b'{"":1,"":2}',
        b'{"a":{},"b":[{"x":"y","x":"y"}]}',
        b'[{"a":1e2,"a":100.0}]',
    ],
)
def test_a_duplicate_key_anywhere_rejects_the_page(body: bytes) -> None:
    assert type(error_for(answer(body))) is Malformed
    assert "duplicate key" in str(error_for(answer(body)))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\n")]))
def test_json_in_any_spelling_is_read_as_it_is(value: Any, ascii_only: bool, separators: tuple[str, str]) -> None:
    try:
        body = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
    except UnicodeEncodeError:
        return  # lone surrogates do not get so far
    if any("\ud800" <= char <= "\udfff" for char in json.dumps(value, ensure_ascii=False)):
        return
    assert parse(answer(body), "x") == value


@given(JSON.filter(lambda value: isinstance(value, dict) and value), st.booleans(), st.data())
def test_a_key_given_twice_is_found_in_any_spelling(value: Any, ascii_only: bool, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    text = json.dumps(value, ensure_ascii=ascii_only)
    again = json.dumps({key: data.draw(JSON)}, ensure_ascii=data.draw(st.booleans()))
    body = text[:-1] + "," + again[1:]
    try:
        encoded = body.encode()
    except UnicodeEncodeError:
        return
    with pytest.raises(Malformed):
        parse(answer(encoded), "x")


# 429.


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("007", 7.0),
        (" 7 ", 7.0),
        ("300", 300.0),
        ("301", RETRY_AFTER_S_MAX),
        ("315360000", RETRY_AFTER_S_MAX),
        ("9" * 5000, RETRY_AFTER_S_MAX),
        ("0", None),
        ("0" * 5000, None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("soon", None),
        ("٧", None),
        ("", None),
        ("nan", None),
        ("Fri, 15 Jan 2027 08:00:42 GMT", 42.0),
        ("Fri, 15 Jan 2027 07:59:00 GMT", None),
        ("Fri, 15 Jan 2037 08:00:00 GMT", RETRY_AFTER_S_MAX),
        ("Fri, 99 Jan 2027 08:00:42 GMT", None),
        ("Fri, 15 Jan 99999999999999999 08:00:00 GMT", None),
        ("2027-01-15T08:00:42Z", None),
    ],
)
def test_a_hint_is_obeyed_when_it_is_sensible_and_bounded_always(header: str, seconds: float | None) -> None:
    assert retry_after(answer([], retry_after=header), WALL_START) == seconds


def test_a_date_as_hint_counts_from_the_servers_own_clock() -> None:
    skewed = answer([], retry_after="Fri, 15 Jan 2027 09:00:10 GMT", date="Fri, 15 Jan 2027 09:00:00 GMT")
    assert retry_after(skewed, WALL_START) == 10.0


@given(st.text(max_size=80))
def test_no_hint_crashes_or_exceeds_the_bound(header: str) -> None:
    seconds = retry_after(answer([], retry_after=header), WALL_START)
    assert seconds is None or 0 < seconds <= RETRY_AFTER_S_MAX
    server_date(answer([], date=header))


def test_a_429_holds_every_request_of_the_source_until_the_hint_has_passed() -> None:
    async def main(clock: VirtualClock) -> None:
        replies = [answer({}, 429, retry_after="20")]
        provider = Provider(lambda request: replies.pop() if replies else answer([]))
        observer = Observer()
        client = client_of(provider, clock, observer)
        with pytest.raises(RetryLater) as caught:
            await get(client)
        assert caught.value.delay_s == 20
        begin = clock.monotonic()
        async with asyncio.TaskGroup() as group:
            for priority in Priority:
                group.create_task(get(client, priority))
            group.create_task(clock.sleep(19.9)).add_done_callback(lambda _: sent.append(len(provider.requests)))
            sent: list[int] = []
        assert sent == [1]
        assert clock.monotonic() - begin >= 20
        assert observer.throttled_s == pytest.approx(20)
        assert 0.0 in observer.remaining

    run_virtual(main)


def test_without_a_hint_the_own_wait_grows_to_its_cap_and_starts_anew_after_a_success() -> None:
    async def main(clock: VirtualClock) -> None:
        status = 429
        provider = Provider(lambda request: answer([], status))
        client = client_of(provider, clock)
        moments = []
        for _ in range(12):
            with pytest.raises(RetryLater) as caught:
                await get(client)
            assert caught.value.delay_s is None
            moments.append(clock.monotonic())
        waits = [round(b - a) for a, b in pairwise(moments)]
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
        status = 200
        await get(client)
        status = 429
        with pytest.raises(RetryLater):
            await get(client)
        begin, status = clock.monotonic(), 200
        await get(client)
        assert clock.monotonic() - begin == pytest.approx(1, abs=0.5)

    run_virtual(main)


def test_many_requests_refused_together_count_once() -> None:
    async def main(clock: VirtualClock) -> None:
        async def play(request: Request) -> Response:
            await clock.sleep(1)
            return answer({}, 429)

        provider = Provider(play)
        observer = Observer()
        client = client_of(provider, clock, observer)
        await asyncio.gather(*(get(client) for _ in range(8)), return_exceptions=True)
        assert len(provider.requests) == 8
        assert observer.throttled_s == pytest.approx(1, abs=0.8)
        provider.play = lambda request: answer([])
        begin = clock.monotonic()
        await get(client)
        assert clock.monotonic() - begin < 2

    run_virtual(main)


def test_requests_are_observed_by_template_and_status() -> None:
    async def main(clock: VirtualClock) -> None:
        async def cut(request: Request) -> Response:
            raise RetryLater("no answer: the body was cut")

        observer = Observer()
        provider = Provider()
        client = client_of(provider, clock, observer)
        await get(client)
        plays: list[Play] = [lambda request: answer({}, 404), lambda request: answer({}, 999), cut]
        for play in plays:
            provider.play = play
            with pytest.raises(SourceError):
                await get(client)
        assert dict(observer.requests) == {
            ("token", 200): 1,
            ("tags.list", 200): 1,
            ("tags.list", 404): 1,
            ("tags.list", 999): 1,
            ("tags.list", None): 1,
        }

    run_virtual(main)


# Secrets.


def always(response: Response) -> Play:
    return lambda request: response


def spellings(secret: str) -> Sequence[str]:
    basic = base64.b64encode(f"client-1:{secret}".encode()).decode()
    return secret, basic, base64.b64encode(secret.encode()).decode(), secret.encode().hex()


def test_no_secret_in_any_repr_or_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")

    async def main(clock: VirtualClock) -> str:
        shown = []
        for status in (200, 302, 400, 401, 403, 404, 429, 500):
            echo = answer({"error": {"message": SECRET, "code": SECRET + "!"}, "access_token": None}, status)
            for provider in (Provider(login=always(echo)), Provider(always(echo))):
                source = source_over(provider, clock)
                shown += [repr(vars(source)), repr(source._token), str(source._token), repr(source.account)]
                try:
                    await source.login()
                    await source.feeds[Collection.TAGS].page(None)
                except BridgeError as error:
                    shown += [repr(error), "".join(traceback.format_exception(error)), repr(vars(error))]
                shown += [repr(request) for request in (*provider.logins, *provider.requests)]
                await clock.sleep(1000)
        return "\n".join(shown)

    text = run_virtual(main) + caplog.text
    for spelling in (*spellings(SECRET), "canary-token"):
        assert spelling not in text
