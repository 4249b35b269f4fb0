"""Probes: the small HTTP server that tells machines and people how the bridge is.

    GET /metrics   Prometheus text or OpenMetrics        GET /live    200, or 503 when a loop stands still
    GET /          status page for people                GET /ready   200, or 503 while it cannot serve

Read-only and without a login, so it listens on loopback unless the configuration says otherwise, and shows neither a
secret nor a customer. Other parts of the process may add routes, which see to their own rights. Built by the
assembly; `start` and `stop` belong to the supervisor. The server runs no task of its own beyond aiohttp's one per
connection, which `stop` ends; the one slow thing, writing out thousands of series, happens in a thread, one at a
time, so that a scrape never holds up the loops.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from bridge.errors import ConfigurationError, EnvironmentUnavailable
from bridge.observability.metrics import Metrics
from bridge.observability.status import CONTENT_SECURITY_POLICY, ProcessStatus, to_json, to_page

HANDLER_S_MAX = 10.0
"""Prometheus gives up after 10 s by default; answering later helps nobody."""

IDLE_S_MAX = 75.0
"""A connection without a request is closed; longer than the usual scrape interval of a minute."""

STOP_S_MAX = 2.0
"""Requests under way get this long at the end; a scrape is worth no more of the shutdown."""

HEADER_BYTES_MAX = 8192
"""Of the request line and of one header."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "bridge",
    "X-Content-Type-Options": "nosniff",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProbeServer:
    """Serves `/metrics`, `/live`, `/ready` and `/`. Start and stop once.

    listen: `host:port`; port 0 takes a free one, see `port`.
    status: called on the loop for every request; quick, and never raises for an expected fault.
    routes: of other parts, in the same bounds of time; they bound the bodies themselves.
    """

    def __init__(
        self,
        listen: str,
        metrics: Metrics,
        status: Callable[[], ProcessStatus],
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        self._listen = listen
        self._host, self._port = parse_listen(listen)
        self._metrics = metrics
        self._status = status
        self._routes = routes
        self._writing = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port in use; before `start` the configured one."""
        return self._port

    async def start(self) -> None:
        """Listen. Raises `EnvironmentUnavailable` when the address cannot be had; nothing is left open then.

        Cancellation leaves nothing open either.
        """
        assert self._runner is None, "started twice"
        app = web.Application(middlewares=[_guard], client_max_size=HEADER_BYTES_MAX)
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/live", self._get_live)
        app.router.add_get("/ready", self._get_ready)
        app.router.add_get("/", self._get_page)
        app.add_routes(self._routes)
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=IDLE_S_MAX,
            lingering_time=0.0,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            shutdown_timeout=STOP_S_MAX,
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise EnvironmentUnavailable(_why(self._listen, error)) from error
        except asyncio.CancelledError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening, give requests under way `STOP_S_MAX`, close all connections. Idempotent.

        Cancellation may leave connections to the end of the loop.
        """
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        async with self._writing:
            accept = request.headers.get("Accept", "")
            content_type, body = await asyncio.to_thread(self._metrics.render, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _get_live(self, request: web.Request) -> web.Response:
        live = self._status().live
        return web.json_response({"live": live}, status=200 if live else 503)

    async def _get_ready(self, request: web.Request) -> web.Response:
        status = self._status()
        return web.Response(body=to_json(status), content_type="application/json", status=200 if status.ready else 503)

    async def _get_page(self, request: web.Request) -> web.Response:
        status = self._status()
        async with self._writing:
            page = await asyncio.to_thread(lambda: to_page(status, self._metrics.statistics()))
        return web.Response(text=page, content_type="text/html")


def parse_listen(listen: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8080`, `[::1]:8080` or `name:0`; `ConfigurationError` for anything else."""
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    valid = colon and name and (bracketed or ":" not in name) and port.isascii() and port.isdigit()
    if not valid or int(port[:6]) > 65535:
        raise ConfigurationError(f"listen address {listen[:100]!r}: expected host:port, as in 127.0.0.1:8080")
    return name, int(port)


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One deadline for every handler."""
    try:
        async with asyncio.timeout(HANDLER_S_MAX):
            return await handler(request)
    except TimeoutError:
        return web.Response(status=503, text="busy\n")


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _why(listen: str, error: OSError) -> str:
    """What a person can do about an address that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return f"{listen} is in use: stop the other process, or choose another port in http.listen (0: any)"
    if error.errno == errno.EACCES:
        return f"{listen} may not be used by this user; choose a port above 1023 in http.listen"
    return f"cannot listen on {listen}: {error.strerror or error}; check http.listen"
