"""Wire: hears what one client of the library says to Kafka, and cuts it off for good.

Every request of a client goes through two methods of its connection pool, `send` and `ready`. A `Wire` stands in
for both. It tells an observer how each request ended, which is the only way to learn about transport errors that
the library repairs silently, and it remembers the background tasks that asked. `cut` uses that: after it nothing
more is sent, the tasks are cancelled and the sockets are gone, whatever the broker does. The library's own `stop`
methods cannot do that; they wait for answers, without end while a broker is away, and what "timed out" is still
delivered later by a task that lives on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakSet

import aiokafka
import aiokafka.client
import aiokafka.conn
from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn, get_ip_port_afi
from aiokafka.errors import KafkaConnectionError, KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError

from bridge.errors import EnvironmentUnavailable
from bridge.publish.settings import (
    CLOSE_DEADLINE_S,
    KafkaSettings,
    SilentMetadataRequest,
    client_options,
    milliseconds,
)

CUT_DEADLINE_S = 1.5
"""For cancelled tasks to end after a cut; a dirty close promises two seconds in all."""

PROBE_DEADLINE_S = 3.0
"""For one connection that only finds out why Kafka cannot be reached."""

_LIBRARY = os.path.dirname(aiokafka.__file__)

# The library has no types: its clients, requests and responses are `Any` throughout this folder.
Client = Any
Request = Any
Response = Any


class Observer(Protocol):
    """Told about every request; must neither wait nor raise."""

    def sent(self, request: Request) -> None:
        """It is about to be sent."""
        ...

    def answered(self, request: Request, response: Response) -> None:
        """Kafka answered, possibly with an error code."""
        ...

    def lost(self, request: Request) -> None:
        """It ended in an exception; Kafka may have seen it or not, or may see it later."""
        ...


class Wire:
    """Stands between one client and its connections, for the client's whole life."""

    def __init__(self, client: Client, observer: Observer | None = None) -> None:
        self._client = client
        self._observer = observer
        self._send: Callable[..., Awaitable[Response]] = client.send
        self._ready: Callable[..., Awaitable[bool]] = client.ready
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sealed = False
        client.send = self._watched_send
        client.ready = self._watched_ready

    def seal(self) -> None:
        """Let no further request pass: whoever tries is cancelled. What was sent before stays sent."""
        self._sealed = True

    async def cut(self, tasks: Iterable[asyncio.Task[Any] | None] = ()) -> None:
        """Seal, cancel the client's tasks (and those given), abort its sockets; bounded, never raises."""
        self.seal()
        doomed = {task for task in [*self._tasks, *tasks, self._client._sync_task] if task is not None}
        for task in doomed:
            task.cancel()
        for connection in list(self._client._conns.values()):
            _abort(connection)
        if doomed:
            await asyncio.wait(doomed, timeout=CUT_DEADLINE_S)
        for connection in list(self._client._conns.values()):
            _abort(connection)
        for task in doomed:
            if task.done() and not task.cancelled():
                task.exception()  # looked at, or the loop would report it as forgotten

    async def _watched_send(self, node_id: Any, request: Request, **options: Any) -> Response:
        self._enter()
        observer = self._observer
        if observer is None:
            return await self._send(node_id, request, **options)
        observer.sent(request)
        try:
            response = await self._send(node_id, request, **options)
        except BaseException:
            observer.lost(request)
            raise
        observer.answered(request, response)
        return response

    async def _watched_ready(self, node_id: Any, **options: Any) -> bool:
        self._enter()
        return await self._ready(node_id, **options)

    def _enter(self) -> None:
        if self._sealed:
            raise asyncio.CancelledError("this client was cut off")
        task = asyncio.current_task()
        if task is not None and task not in self._tasks and _is_of_library(task):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def stop_or_cut(
    stop: Coroutine[Any, Any, None],
    cut: Callable[[], Awaitable[None]],
    deadline_s: float = CLOSE_DEADLINE_S,
) -> None:
    """Run a client's own `stop`; cut the client off when that does not end well in time, or on cancellation.

    In a task of its own, on purpose outside of any group: `stop` can raise a `CancelledError` of its own making,
    which must not be taken for ours, and it may never return.
    """
    task = asyncio.get_running_loop().create_task(stop, name="client stops")
    clean = False
    try:
        await asyncio.wait({task}, timeout=deadline_s)
        clean = task.done() and not task.cancelled() and task.exception() is None
    finally:
        if not clean:
            task.cancel()
            await cut()


async def cut_consumer(consumer: Client, wire: Wire) -> None:
    """Dirty close of one of the library's consumers, within two seconds whatever Kafka does."""
    consumer._closed = True  # or its destructor complains that it was not stopped
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    tasks = list(getattr(fetcher, "_pending_tasks", ()))
    for owner, name in (
        (coordinator, "_coordination_task"),
        (coordinator, "_heartbeat_task"),
        (coordinator, "_commit_refresh_task"),
        (coordinator, "_reset_committed_task"),  # of a consumer without a group
        (fetcher, "_fetch_task"),
    ):
        tasks.append(getattr(owner, name, None))
    await wire.cut(tasks)


async def bootstrap(settings: KafkaSettings, start: Coroutine[Any, Any, None]) -> None:
    """Run a client's own `start` under our deadline. Raises `EnvironmentUnavailable` that says why.

    The caller still has to close the client, but for connections that the client does not know yet.
    """
    opened: WeakSet[Any] = WeakSet()
    token = _opened.set(opened)
    try:
        async with asyncio.timeout(settings.answer_deadline_s):
            await start
    except BaseException as error:
        for connection in list(opened):
            _abort(connection)
        if isinstance(error, TimeoutError):
            raise unreachable(settings, f"no answer within {settings.answer_deadline_s:.0f} s") from None
        if isinstance(error, KafkaConnectionError | OSError):
            raise unreachable(settings, await why_unreachable(settings) or describe(error)) from error
        # With an assertion the library says that Kafka names no broker, as one does that is not leading anything yet.
        if isinstance(error, KafkaError | AssertionError):
            raise unreachable(settings, describe(error)) from error
        raise
    finally:
        _opened.reset(token)


_opened: ContextVar[WeakSet[Any] | None] = ContextVar("opened", default=None)


async def _remembered_create_conn(*args: Any, **options: Any) -> Any:
    """The library keeps its first connection in a local variable, and forgets to close it when it is cancelled."""
    connection = await create_conn(*args, **options)
    opened = _opened.get()
    if opened is not None:
        opened.add(connection)
    return connection


class _Connection(AIOKafkaConnection):  # type: ignore[misc]  # the library has no types
    """Leaves no socket behind when it is refused at its greeting: TLS, versions or login."""

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:
        """As the library, but at once when it gives up a connection that it has just made: nobody waits for its end."""
        writer = getattr(self, "_writer", None) if reason in (None, CloseReason.AUTH_FAILURE) else None
        closed = super().close(reason=reason, exc=exc)
        if writer is not None:
            writer.transport.abort()
        return closed


aiokafka.conn.AIOKafkaConnection = _Connection
aiokafka.client.create_conn = _remembered_create_conn


def unreachable(settings: KafkaSettings, why: str) -> EnvironmentUnavailable:
    """Kafka is not there, for people."""
    return EnvironmentUnavailable(
        f"Kafka at {settings.servers} cannot be used: {why}. Is it running, and is kafka.bootstrap_servers right?"
    )


async def why_unreachable(settings: KafkaSettings) -> str | None:
    """Open one connection to each address and say what is wrong with the first that fails; None when all work.

    The library logs the cause, and raises the same error for a wrong password, an unknown authority and a closed port.
    """
    options = client_options(settings) | {"request_timeout_ms": milliseconds(PROBE_DEADLINE_S)}
    for address in options.pop("bootstrap_servers"):
        host, port, _ = get_ip_port_afi(address)
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                connection = await create_conn(host, port, **options)
        except TimeoutError:
            return f"{address} does not answer (spoken to without TLS where TLS is wanted, or a firewall?)"
        except ConnectionRefusedError:
            return f"nothing listens at {address} (connection refused)"
        except socket.gaierror:
            return f"the host name in {address} is unknown"
        except ssl.SSLCertVerificationError as error:
            return f"the certificate of {address} is not trusted, see kafka.ssl_cafile ({error.verify_message})"
        except (SaslAuthenticationFailed, UnsupportedSaslMechanismError) as error:
            return f"{address} refuses the login, see kafka.sasl_* ({describe(error)})"
        except (KafkaError, OSError, AssertionError, EOFError) as error:
            return f"{address}: {describe(error)} (kafka.security_protocol is {settings.security_protocol})"
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                await connection.send(SilentMetadataRequest([]))
        except (KafkaError, OSError, EOFError):  # a TimeoutError is an OSError
            return (
                f"{address} lets us connect and then hangs up; does it want a login? (kafka.security_protocol is "
                f"{settings.security_protocol})"
            )
        finally:
            _abort(connection)
    return None


def describe(error: BaseException) -> str:
    """One line of an error of the library, which often has a name only."""
    text = str(error).strip()
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name


def _abort(connection: Any) -> None:
    """Close at once: a graceful close would still write what waits in the buffer, a commit for instance."""
    writer = connection._writer
    connection.close(reason=CloseReason.SHUTDOWN)
    if writer is not None:
        writer.transport.abort()


def _is_of_library(task: asyncio.Task[Any]) -> bool:
    """A background task of the client, as opposed to a task of ours that calls it."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_LIBRARY)
