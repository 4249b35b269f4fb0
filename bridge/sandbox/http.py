"""The simulated APIs over HTTP: a thin aiohttp server that hands every request to the `answer` of one of them.

The path is taken as it came over the wire; nothing decodes or normalises it before the API does. Faults of delivery
happen here for real: slow bodies drip, cut connections are reset in the middle of the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import parse_qsl

from aiohttp import web

from bridge.clock import Clock
from bridge.errors import EnvironmentUnavailable
from bridge.sandbox.answer import Answer
from bridge.source.transport import Request

DRIPS = 20
"""Pieces of a slow body."""
SHUTDOWN_S = 0.5
"""Seconds that requests in progress get when the server stops."""
KEEPALIVE_S = 75.0
HEADER_BYTES_MAX = 16 * 1024
"""Of one header and of the request line; an encoded customer_id of 255 characters needs 3 KiB."""


class Served(Protocol):
    """A simulated API as the server knows it."""

    def source(self, origin: str) -> Mapping[str, str]:
        """How a bridge reads it: keys of a `[[sources]]`, of the API at this origin."""
        ...

    @property
    def clock(self) -> Clock:
        """By which delays are waited out."""
        ...

    def inside(self, path: str) -> str | None:
        """A path of the server as the API knows it; None when it belongs to somebody else."""
        ...

    async def live(self) -> None:
        """Go on by itself, for ever; called once, beside the server."""
        ...

    def answer(self, request: Request) -> Answer:
        """What the API says to a request whose path is `inside`; called once per request, never waits."""
        ...


@asynccontextmanager
async def serve(*apis: Served, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve until the block is left; yields the origin, `http://127.0.0.1:40123`. Each API is below a path of its own.

    Port 0 takes a free one. Lets the worlds change only by requests; run each API's `live` beside it for more.
    """
    server = web.Server(
        lambda request: _handle(apis, request),
        keepalive_timeout=KEEPALIVE_S,
        access_log=None,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise EnvironmentUnavailable(
                f"the sandbox cannot listen on {host}:{port} ({error.strerror}); choose another --port"
            ) from None
        bound = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}"
    finally:
        await runner.cleanup()


async def _handle(apis: Sequence[Served], request: web.BaseRequest) -> web.StreamResponse:
    path, _, query = request.raw_path.partition("?")
    for api in apis:
        if (inside := api.inside(path)) is not None:
            return await _deliver(api, request, inside, query)
    return web.json_response({"error": {"message": "no such route"}}, status=404)


async def _deliver(api: Served, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
    body = await request.read() if request.can_read_body else None
    pairs = tuple(parse_qsl(query, keep_blank_values=True)) if query else ()
    answer = api.answer(Request(request.method, path, pairs, request.headers, body))
    if answer.delay_s > 0:
        await api.clock.sleep(answer.delay_s)
    if not answer.cut and answer.slow_s <= 0:
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    return await _deliver_badly(api, request, answer)


async def _deliver_badly(api: Served, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    body = answer.body or b"{}"
    response.content_length = len(body)
    await response.prepare(request)
    size = -(-len(body) // DRIPS)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    for piece in pieces[: len(pieces) // 2] if answer.cut else pieces:
        await response.write(piece)
        if answer.slow_s > 0:
            await api.clock.sleep(answer.slow_s / len(pieces))
    if answer.cut and request.transport is not None:
        request.transport.abort()
        return response
    await response.write_eof()
    return response


async def run(apis: Sequence[Served], host: str, port: int, echo: Callable[[str], None]) -> None:
    """Serve living worlds until cancelled."""
    async with serve(*apis, host=host, port=port) as url, asyncio.TaskGroup() as group:
        for api in apis:
            echo("\n".join(["[[sources]]", *(f'{key} = "{value}"' for key, value in api.source(url).items()), ""]))
            group.create_task(api.live())
