"""HttpTransport against a server that plays bytes: every exchange ends in a complete answer or in `RetryLater`."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from bridge.errors import RequestRefused, RetryLater
from bridge.source.client import Connections, HttpTransport
from bridge.source.transport import Request
from tests.support.raw_server import CLOSE, HALF_CLOSE, REQUEST, RESET, RawServer, Script, Send, Wait, response

GET = Request("GET", "/accounts/T12345678/customers/tags", timeout_s=5)
OK = response(b"[]")
SOON_S = 0.3
"""A deadline that a test really waits for: these are real sockets."""


@asynccontextmanager
async def talking(*scripts: Script, silence_s: float = 5.0) -> AsyncIterator[tuple[RawServer, HttpTransport]]:
    async with RawServer(scripts) as server:
        transport = HttpTransport(server.url, silence_timeout_s=silence_s)
        try:
            yield server, transport
        finally:
            await transport.close()


async def fails(transport: HttpTransport, request: Request = GET) -> str:
    with pytest.raises(RetryLater) as caught:
        await transport.send(request)
    return str(caught.value)


async def test_an_answer_comes_back_whole_and_the_connection_is_used_again() -> None:
    async with talking([REQUEST, response(b"[1]", "X-Note: a", "X-Note: b"), REQUEST, OK]) as (server, transport):
        answer = await transport.send(GET)
        assert (answer.status, answer.body) == (200, b"[1]")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-note"] == "b"
        await transport.send(GET)
        assert server.connections == 1
        assert server.heads[0].startswith(b"GET /v1/accounts/T12345678/customers/tags HTTP/1.1\r\n")


async def test_refused_and_unknown_hosts_are_retried_later() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        transport = HttpTransport(f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "refused" in await fails(transport)
        await transport.close()
    transport = HttpTransport("http://no-such-host.invalid")
    assert "does not resolve" in await fails(transport)
    await transport.close()


async def test_a_server_that_accepts_and_says_nothing_is_left_after_the_silence_limit() -> None:
    async with talking([REQUEST, Wait(30)], silence_s=SOON_S) as (_, transport):
        begin = time.monotonic()
        assert "silent" in await fails(transport)
        assert time.monotonic() - begin < 3


async def test_a_tls_handshake_that_never_answers_is_left_after_the_connect_limit() -> None:
    async with RawServer([[Wait(30)]]) as server:
        transport = HttpTransport(f"https://127.0.0.1:{server.port}", connect_timeout_s=SOON_S)
        assert "no connection within the deadline" in await fails(transport)
        await transport.close()


async def test_requests_that_hang_give_their_turns_back() -> None:
    """Whatever a provider holds up is not held up for longer than the deadline, and costs the next request nothing."""
    scripts: list[Script] = [[REQUEST, Wait(30)], [REQUEST, Send(b"HTTP/1.1 200 OK\r\n"), Wait(30)], [REQUEST, OK]]
    async with RawServer(scripts) as server:
        connections = Connections(requests_max=1)
        transport = HttpTransport(server.url, connections, silence_timeout_s=SOON_S)
        assert "silent" in await fails(transport)
        assert "deadline" in await fails(transport, Request("GET", "/x", timeout_s=SOON_S / 3))
        assert (await transport.send(GET)).status == 200
        await connections.close()


async def test_a_body_that_drips_is_cut_by_the_deadline_of_the_whole_while_others_go_on() -> None:
    drops: Script = [Wait(0.05), Send(b"1")] * 99
    dripping: Script = [REQUEST, Send(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"), *drops]
    async with talking(dripping, [REQUEST, OK]) as (_, transport):
        slow = asyncio.create_task(fails(transport, Request("GET", "/slow", timeout_s=SOON_S)))
        await asyncio.sleep(0.05)  # the first connection takes the first script
        assert (await transport.send(GET)).status == 200
        assert not slow.done()
        assert "deadline" in await slow


@pytest.mark.parametrize(
    "steps",
    [
        [Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,2"), CLOSE],
        [Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,2"), RESET],
        [Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,2"), HALF_CLOSE],
        [Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n[1,2\r\n"), CLOSE],
        [Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[1,2\r\n"), CLOSE],
        [Send(b"HTTP/1.1 200 OK\r\nContent-Le"), CLOSE],
        [Send(b"no HTTP at all\r\n\r\n"), CLOSE],
        [Send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\n[1,2"), CLOSE],
        [RESET],
        [CLOSE],
    ],
    ids=lambda steps: repr(steps)[:60],
)
async def test_an_answer_that_is_not_whole_is_none(steps: Sequence[Send]) -> None:
    async with talking([REQUEST, *steps]) as (_, transport):
        assert (await fails(transport)).startswith("no answer: ")


async def test_a_read_on_a_stale_connection_is_repeated_once_at_once() -> None:
    async with talking([REQUEST, OK, REQUEST, RESET], [REQUEST, OK]) as (server, transport):
        await transport.send(GET)
        assert (await transport.send(GET)).status == 200
        assert server.connections == 2


async def test_a_connection_closed_while_idle_is_not_noticed_by_the_caller() -> None:
    async with talking([REQUEST, OK, CLOSE], [REQUEST, OK]) as (server, transport):
        await transport.send(GET)
        assert (await transport.send(GET)).status == 200
        assert server.connections == 2


async def test_a_read_is_not_repeated_for_ever() -> None:
    async with talking([REQUEST, CLOSE]) as (server, transport):
        await fails(transport)
        assert server.connections == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_write_is_never_repeated(method: str) -> None:
    async with talking([REQUEST, OK, REQUEST, RESET], [REQUEST, OK]) as (server, transport):
        await transport.send(GET)
        await fails(transport, Request(method, "/x", body=b"{}", timeout_s=5))
        assert len(server.heads) == 2


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
@pytest.mark.parametrize("target", ["https://evil.example/", "http://127.0.0.1:{port}/v1/x", "file:///etc/passwd"])
async def test_redirects_are_not_followed(status: str, target: str) -> None:
    async with RawServer([[REQUEST, response(b"", "Location: http://169.254.169.254/", status=status)]]) as server:
        moved = response(b"", f"Location: {target.format(port=server.port)}", status=status)
        server._scripts[:] = [[REQUEST, moved]]
        transport = HttpTransport(server.url)
        answer = await transport.send(GET)
        assert answer.status == int(status[:3])
        assert len(server.heads) == 1
        await transport.close()


async def test_a_compressed_answer_is_decoded() -> None:
    body = gzip.compress(b'["a"]')
    async with talking([REQUEST, response(body, "Content-Encoding: gzip")]) as (_, transport):
        assert (await transport.send(GET)).body == b'["a"]'


async def test_a_gzip_bomb_is_left_as_soon_as_it_is_larger_than_the_bound() -> None:
    bomb = gzip.compress(b" " * 64_000_000)
    async with talking([REQUEST, response(bomb, "Content-Encoding: gzip")]) as (_, transport):
        request = Request("GET", "/x", timeout_s=5, body_bytes_max=1_000_000)
        begin = time.process_time()
        assert "larger than 1000000 bytes" in await fails(transport, request)
        assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"[]"),
        ("gzip", gzip.compress(b"[1,2,3]", mtime=0)[:-4]),
        ("gzip", gzip.compress(b"[]", mtime=0) + b"garbage"),
        ("br", b"[]"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"[]", mtime=0), mtime=0)),
    ],
)
async def test_a_damaged_or_unasked_encoding_is_no_answer(encoding: str, body: bytes) -> None:
    async with talking([REQUEST, response(body, f"Content-Encoding: {encoding}")]) as (_, transport):
        await fails(transport)


async def test_a_body_of_exactly_the_bound_passes_and_one_more_byte_does_not() -> None:
    bound = Request("GET", "/x", timeout_s=5, body_bytes_max=10)
    for encode, header in ((bytes, "X-Plain: 1"), (gzip.compress, "Content-Encoding: gzip")):
        right, more = response(encode(b"1" * 10), header), response(encode(b"1" * 11), header)
        async with talking([REQUEST, right], [REQUEST, more]) as (_, transport):
            assert len((await transport.send(bound)).body) == 10
            await transport.close()
            await fails(transport, bound)


async def test_a_page_of_two_hundred_megabytes_is_left_as_soon_as_it_is_larger_than_the_bound() -> None:
    head = Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = Send(b"100000\r\n" + b" " * 0x100000 + b"\r\n", times=200)
    tracemalloc.start()
    try:
        async with talking([REQUEST, head, chunk, Send(b"0\r\n\r\n")]) as (_, transport):
            request = Request("GET", "/x", timeout_s=60, body_bytes_max=4_000_000)
            assert "larger than 4000000 bytes" in await fails(transport, request)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "head",
    [
        [Send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000 + b"\r\n")],
        [Send(b"HTTP/1.1 200 " + b"x" * 1_000_000 + b"\r\n")],
        [Send(b"HTTP/1.1 200 OK\r\n"), Send(b"X-Many: 1\r\n", times=10_000)],
    ],
    ids=["line", "reason", "count"],
)
async def test_a_giant_head_is_not_read(head: Script) -> None:
    async with talking([REQUEST, *head, Send(b"Content-Length: 2\r\n\r\n[]"), Wait(5)]) as (_, transport):
        assert "head" in await fails(transport)


async def test_cancelling_closes_the_connection() -> None:
    async with talking([REQUEST, Wait(30)], [REQUEST, OK]) as (server, transport):
        task = asyncio.create_task(transport.send(GET))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await transport.send(GET)).status == 200
        assert server.connections == 2


async def test_closing_twice_is_fine_and_a_closed_transport_opens_again() -> None:
    async with talking([REQUEST, OK]) as (_, transport):
        await transport.send(GET)
        await transport.close()
        await transport.close()
        assert (await transport.send(GET)).status == 200


async def test_no_message_names_the_address_or_the_path() -> None:
    async with talking([REQUEST, RESET]) as (server, transport):
        text = await fails(transport, Request("GET", "/canary", (("email", "canary"),), {"X": "canary"}, timeout_s=5))
        assert "canary" not in text
        assert str(server.port) not in text


@pytest.mark.parametrize(
    "path",
    [
        "",
        "x",
        "//evil.example/",
        "/a/../b",
        "/a/%2e%2E/b",
        "/a/.",
        "/a?b=c",
        "/a#b",
        "/a b",
        "/a\r\nHost: evil",
        "/a\n",
        "/\x00",
        "/å",
        "/%zz",
        "/%2",
        "@evil.example/",
        "/a\\b",
    ],
)
async def test_a_path_that_is_not_plainly_encoded_is_not_sent(path: str) -> None:
    async with talking([REQUEST, OK]) as (server, transport):
        if path == "//evil.example/":
            # An empty first segment is legal in a path; what counts is that the host stays.
            await transport.send(Request("GET", path, timeout_s=5))
            assert server.heads[0].startswith(b"GET /v1//evil.example/ HTTP/1.1\r\n")
            return
        with pytest.raises(RequestRefused):
            await transport.send(Request("GET", path, timeout_s=5))
        assert server.connections == 0


@pytest.mark.parametrize(
    "header", [("X", "a\r\nEvil: 1"), ("X\r\nEvil", "1"), ("X", "a\x00"), ("X y", "1"), ("X", "å")]
)
async def test_a_header_that_would_split_the_head_is_not_sent(header: tuple[str, str]) -> None:
    async with talking([REQUEST, OK]) as (server, transport):
        with pytest.raises(RequestRefused):
            await transport.send(Request("GET", "/x", headers=dict([header]), timeout_s=5))
        with pytest.raises(RequestRefused):
            await transport.send(Request("GET /evil HTTP/1.1\r\n", "/x", timeout_s=5))
        assert server.connections == 0


@pytest.mark.parametrize(
    "base",
    [
        "ftp://h/",
        "http://",
        "http://user:pw@h/",
        "https://h/?q",
        "https://h/#f",
        "h/v1",
        "file:///etc/passwd",
        "//h/v1",
    ],
)
def test_a_base_url_that_is_no_plain_origin_is_refused(base: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        HttpTransport(base)


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), max_size=3))
def test_whatever_a_query_holds_arrives_and_never_leaves_the_origin(query: list[tuple[str, str]]) -> None:
    url = HttpTransport("https://api.example:444/v1")._url(Request("GET", "/a", tuple(query)))
    text = str(url)
    assert text.startswith("https://api.example:444/v1/a")
    assert text.isascii()
    assert not set(text) & set(" \r\n\t\x00#")
    pairs = [pair.split("=") for pair in url.raw_query_string.split("&") if pair]
    assert [(unquote_to_bytes(n).decode(), unquote_to_bytes(v).decode()) for n, v in pairs] == query
    assert URL(text, encoded=True).raw_host == "api.example"


def test_a_query_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(RequestRefused):
        HttpTransport("https://h/v1")._url(Request("GET", "/a", (("q", "\ud800"),)))


async def test_every_byte_string_of_a_broken_server_ends_in_an_answer_or_retry_later() -> None:
    rng = random.Random(7)
    parts = [
        b"HTTP/1.1 200 OK\r\n",
        b"Content-Length: 3\r\n",
        b"\r\n",
        b"[1]",
        b"Transfer-Encoding: chunked\r\n",
        b"\x00\xff",
    ]
    for _ in range(40):
        noise = b"".join(rng.choices(parts, k=rng.randint(1, 6)))
        async with talking([REQUEST, Send(noise), CLOSE]) as (_, transport):
            try:
                answer = await transport.send(GET)
            except RetryLater:
                continue
            assert 100 <= answer.status <= 599
