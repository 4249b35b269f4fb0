"""A provider whose TLS is not in order is not talked to, and told by name; nothing is ever sent in clear instead."""

from __future__ import annotations

import ssl

import pytest

from bridge.errors import RetryLater
from bridge.source.client import HttpTransport
from bridge.source.transport import Request
from tests.support import certificates
from tests.support.raw_server import REQUEST, RawServer, Send, response

GET = Request("GET", "/accounts/T12345678/customers/tags", headers={"Authorization": "Bearer canary"}, timeout_s=10)


async def test_a_server_that_is_in_order_is_answered() -> None:
    async with RawServer([[REQUEST, response(b"[]")]], certificates.serving(certificates.GOOD)) as server:
        transport = HttpTransport(server.url, ssl_context=certificates.trusting())
        assert (await transport.send(GET)).body == b"[]"
        await transport.close()


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (certificates.EXPIRED, "the TLS certificate has expired"),
        (certificates.ELSEWHERE, "the TLS certificate is of another host"),
        (certificates.STRANGER, "the TLS certificate is of an authority that is not trusted here"),
    ],
    ids=["expired", "another host", "unknown authority"],
)
async def test_a_certificate_that_is_not_in_order_is_named_and_nothing_is_sent(certificate: str, said: str) -> None:
    async with RawServer([[REQUEST, response(b"[]")]], certificates.serving(certificate)) as server:
        transport = HttpTransport(server.url, ssl_context=certificates.trusting())
        with pytest.raises(RetryLater) as caught:
            await transport.send(GET)
        assert str(caught.value) == f"no answer: {said}"
        assert not server.heads
        await transport.close()


async def test_without_a_private_authority_only_what_the_system_trusts_is_trusted() -> None:
    async with RawServer([[REQUEST, response(b"[]")]], certificates.serving(certificates.GOOD)) as server:
        transport = HttpTransport(server.url)
        with pytest.raises(RetryLater, match="not trusted here"):
            await transport.send(GET)
        assert not server.heads
        await transport.close()


async def test_an_old_version_of_tls_is_refused() -> None:
    context = certificates.serving(certificates.GOOD, latest=ssl.TLSVersion.TLSv1)
    async with RawServer([[REQUEST, response(b"[]")]], context) as server:
        transport = HttpTransport(server.url, ssl_context=certificates.trusting())
        with pytest.raises(RetryLater):
            await transport.send(GET)
        assert not server.heads
        await transport.close()


@pytest.mark.parametrize(
    "greeting",
    [b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"],
    ids=["protocol_version", "no TLS at all"],
)
async def test_a_handshake_that_fails_is_named_and_not_repeated_in_clear(greeting: bytes) -> None:
    async with RawServer([[Send(greeting), REQUEST]]) as server:
        transport = HttpTransport(server.url.replace("http:", "https:"), ssl_context=certificates.trusting())
        with pytest.raises(RetryLater, match="the TLS handshake failed"):
            await transport.send(GET)
        assert not server.heads
        await transport.close()
