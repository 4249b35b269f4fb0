"""HttpTransport: requests to one configured origin over aiohttp; the only module of the folder that speaks HTTP.

One exchange as a value in, a value out. Connections are reused, redirects are not followed, cookies are not kept, no
proxy is taken from the environment. Every wait has a deadline and every size a bound: connect and TLS handshake,
silence (first byte included), the whole exchange; line, header and decoded body. Whatever does not end in a complete
answer is `RetryLater` with a short cause that holds no address and no data.

The path of a request is sent exactly as given, so it is checked first: nothing in it can end the request line, name
another host or climb out of the base path. A GET whose connection was closed by the server before any answer is sent
once more by aiohttp (it does so for idempotent methods); for every other method that repetition is suppressed here,
because whether a write was received is for the caller to find out.

The sources of one process share `Connections`, so that thousands of them neither hold a socket each nor ask all at
once. Waiting for one's turn is no part of a request's deadline.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType
from urllib.parse import quote

import aiohttp
from yarl import URL

from bridge import __version__
from bridge.errors import AnswerTooLarge, RequestRefused, RetryLater
from bridge.source.transport import Request, Response

CONNECT_TIMEOUT_S = 10.0
"""Name look-up, TCP and TLS together; a healthy provider needs less than one second."""

SILENCE_TIMEOUT_S = 30.0
"""Without a byte of the answer; above the slowest honest answers."""

KEEP_ALIVE_S = 30.0
"""An idle connection older than this is not used again; common gateways close after 60 s."""

REQUESTS_MAX = 128
"""Under way at once to one origin, from all sources of the process, with an answer of 100 KiB each. Enough for 2,000
sources that ask twice in 5 s where an answer takes a sixth of a second."""

LINE_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100
"""Lines of the answer's head. Together with the line bound an endless head ends below 2 MiB."""

_PATH = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*)+", re.ASCII)
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.ASCII | re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class Connections:
    """What the transports of one process share: connections, and whose turn it is; first come first served.

    Each origin has turns of its own, so that one that hangs holds up nobody else. Complete answers are handed out one
    per round of the event loop: working on a page takes milliseconds, and neither commits nor heartbeats may wait for
    hundreds of them.
    """

    def __init__(self, requests_max: int = REQUESTS_MAX) -> None:
        """`requests_max`: under way at once to one origin."""
        self._requests_max = requests_max
        self._turns: dict[URL, asyncio.Semaphore] = {}
        self._hands = asyncio.Lock()
        self._handed_out = False
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def turn(self, origin: URL) -> AsyncIterator[None]:
        """Wait until a request may be sent; at the end, until its answer may be worked on."""
        turns = self._turns.setdefault(origin, asyncio.Semaphore(self._requests_max))
        async with turns:
            yield
            if self._handed_out or self._hands.locked():
                async with self._hands:
                    if self._handed_out:
                        await asyncio.sleep(0)  # `_next_round` is called before this returns
            self._handed_out = True
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self._handed_out = False

    def session(self) -> aiohttp.ClientSession:
        """Opened when it is asked for the first time, on the loop that asks."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),  # the turns are the limit
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "User-Agent": f"customer-bridge/{__version__}",
                    "Accept": "application/json",
                    "Accept-Encoding": "gzip",
                },
                auto_decompress=False,
                trust_env=False,
                max_line_size=LINE_BYTES_MAX,
                max_field_size=LINE_BYTES_MAX,
                max_headers=HEADERS_MAX,
                middlewares=(_repeat_only_reads,),
            )
        return self._session

    async def close(self) -> None:
        """Release them; idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class HttpTransport:
    """Implements `Transport`. Connections open with the first request, on the loop that sends it."""

    def __init__(
        self,
        base_url: str,
        connections: Connections | None = None,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        silence_timeout_s: float = SILENCE_TIMEOUT_S,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`base_url`: scheme, host, port and base path; `ssl_context`: for a private certificate authority.

        connections: shared with others, who close them; None: own ones.
        """
        base = URL(base_url)
        if base.scheme not in ("http", "https") or not base.raw_host or base.raw_user or base.raw_password:
            raise ValueError("base_url must be http(s)://host[:port][/path] without user and password")
        if base.raw_query_string or base.raw_fragment:
            raise ValueError("base_url must not have a query or a fragment")
        self._base = base
        self._base_path = base.raw_path.rstrip("/")
        self._connections = connections or Connections()
        self._shared = connections is not None
        self._ssl = ssl_context or True
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_timeout_s, sock_read=silence_timeout_s
        )

    async def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        url = self._url(request)
        headers = _checked_headers(request)
        try:
            async with self._connections.turn(self._base.origin()), asyncio.timeout(request.timeout_s):
                return await self._exchange(request, url, headers)
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:  # asyncio's TimeoutError is an OSError
            raise RetryLater(f"no answer: {_cause(error)}") from None

    async def close(self) -> None:
        """See `Transport.close`."""
        if not self._shared:
            await self._connections.close()

    def _url(self, request: Request) -> URL:
        if not _PATH.fullmatch(request.path) or _DOT_SEGMENT.search(request.path):
            raise RequestRefused("the request's path is not a plain encoded path; it was not sent", status=400)
        try:
            query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in request.query)
        except UnicodeEncodeError:
            raise RequestRefused("the request's query is not Unicode text; it was not sent", status=400) from None
        base = self._base
        return URL.build(
            scheme=base.scheme,
            authority=base.raw_authority,
            path=self._base_path + request.path,
            query_string=query,
            encoded=True,
        )

    async def _exchange(self, request: Request, url: URL, headers: dict[str, str]) -> Response:
        async with self._connections.session().request(
            request.method,
            url,
            headers=headers,
            data=request.body,
            allow_redirects=False,
            timeout=self._timeout,
            ssl=self._ssl,
        ) as answer:
            body = await _read_body(answer, request.body_bytes_max)
            names = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, MappingProxyType(names), body)


class _Unrepeatable(aiohttp.ClientError):
    """The connection broke during a write; aiohttp must not send it again."""


async def _repeat_only_reads(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if request.method == "GET":
            raise
        raise _Unrepeatable from error


def _checked_headers(request: Request) -> dict[str, str]:
    if not _TOKEN.fullmatch(request.method):
        raise RequestRefused("the request's method is not a token; it was not sent", status=400)
    for name, value in request.headers.items():
        if not (_TOKEN.fullmatch(name) and value.isascii() and value.isprintable()):
            raise RequestRefused("a header of the request is not printable text; it was not sent", status=400)
    return dict(request.headers)


async def _read_body(answer: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The decoded body; never holds more than the bound plus one network read."""
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise RetryLater("no answer: it uses a content encoding that was not offered")
    if encoding == "gzip":
        return await _read_gzip(answer, bytes_max)
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > bytes_max:
            raise _too_large(bytes_max)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _read_gzip(answer: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """One gzip member, nothing missing and nothing behind it."""
    stream = zlib.decompressobj(_GZIP_WINDOW)
    chunks: list[bytes] = []
    room = bytes_max + 1
    received = False
    try:
        async for chunk in answer.content.iter_any():
            received = True
            decoded = stream.decompress(chunk, room)
            room -= len(decoded)
            if room <= 0:
                raise _too_large(bytes_max)
            chunks.append(decoded)
    except zlib.error:
        raise RetryLater("no answer: its gzip encoding is damaged") from None
    if received and (not stream.eof or stream.unused_data):
        raise RetryLater("no answer: its gzip encoding is cut or followed by garbage")
    return b"".join(chunks)


def _too_large(bytes_max: int) -> AnswerTooLarge:
    return AnswerTooLarge(f"no answer: its body is larger than {bytes_max} bytes")


def _cause(error: Exception) -> str:
    """Which wait or step failed, in words for the log; most specific class first."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        code = getattr(error.certificate_error, "verify_code", 0)
        return _CERTIFICATES.get(code, "the TLS certificate cannot be verified")
    for kind, words in _CAUSES:
        if isinstance(error, kind):
            return words
    return "the connection failed"


_CERTIFICATES = {
    number: f"the TLS certificate {what}"
    for what, numbers in {
        "is not valid yet": (9,),
        "has expired": (10,),
        "is of an authority that is not trusted here": (2, 18, 19, 20, 21),
        "was revoked": (23,),
        "is of another host": (62, 64),
    }.items()
    for number in numbers
}
"""By OpenSSL's number of the finding, whose own text would name the address."""

_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorSSLError, "the TLS handshake failed; it may speak no version later than 1.1"),
    (ssl.SSLError, "the TLS connection failed"),
    (aiohttp.ClientConnectorDNSError, "the host name does not resolve"),
    (aiohttp.ClientConnectorError, "the connection was refused or the host is unreachable"),
    (aiohttp.ConnectionTimeoutError, "no connection within the deadline"),
    (aiohttp.SocketTimeoutError, "the provider went silent"),
    (TimeoutError, "not complete within the deadline"),
    (aiohttp.ClientPayloadError, "the body was cut"),
    (aiohttp.ClientResponseError, "the head is not valid HTTP or too large"),
    (aiohttp.ServerDisconnectedError, "the connection was closed before the answer"),
    (_Unrepeatable, "the connection broke during a write"),
    (ConnectionError, "the connection was reset"),
)
