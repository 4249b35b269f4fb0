"""One Kafka node: broker and controller in one process (KRaft), and its directory.

It is a process, not a task: a `LocalKafka` belongs to no event loop, so that a test session may start it in
one loop and use it from many. It runs in a session of its own (Ctrl-C in the terminal reaches us, and we
stop it in order) and on a leash (`leash.py`): when we die without a word it is killed and its temporary
directory removed.

Promised: after `start` clients can connect; after `stop` there is no process and no temporary directory;
data in a directory that the caller named is kept and found again. Not promised: durability against a power
cut, speed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from bridge.errors import EnvironmentUnavailable
from bridge.sandbox.kafka.archive import archive_of, making, tried, usable
from bridge.sandbox.kafka.java import OTHER_CLUSTER, Java, find_java, resolve_jars
from bridge.sandbox.kafka.ports import answers, bindable, free_port
from bridge.sandbox.kafka.settings import HOST, KAFKA_VERSION, KafkaSettings, node_properties

START_ATTEMPTS_MAX = 5  # another process may take a port between our test and Kafka's bind
FORMAT_TIMEOUT_S = 60.0  # takes one second
START_TIMEOUT_S = 60.0  # takes two seconds; after a kill with many partitions up to 16
STOP_TIMEOUT_S = 20.0  # takes under one second; then it is killed
ARCHIVE_TIMEOUT_S = 60.0  # takes five seconds, at the end of the broker that writes it
POLL_S = 0.05
LOG_LINES_QUOTED_MAX = 12

Progress = Callable[[str], None]


class LocalKafka:
    """One broker process. After `kill` or `stop` it can `start` again, on the same port."""

    def __init__(self, settings: KafkaSettings | None = None) -> None:
        self._settings = settings or KafkaSettings()
        self._port = self._settings.port
        self._home: Path | None = None
        self._command: list[str] | None = None
        self._stop_timeout_s = STOP_TIMEOUT_S
        self._java: Java | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._leash: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        if self._port is None:
            raise RuntimeError("the port is chosen by start(), which has not run yet")
        return f"{HOST}:{self._port}"

    @property
    def running(self) -> bool:
        """True while the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._live_process().pid

    @property
    def home(self) -> Path | None:
        """Where data, properties and log are; None before `start`, and after `stop` if it was temporary."""
        return self._home

    def describe(self) -> str:
        """One line for people, once started."""
        java = f" on Java {self._java.major}" if self._java else ""
        return f"Apache Kafka {KAFKA_VERSION}{java} at {self.bootstrap_servers}"

    async def start(self, progress: Progress | None = None) -> None:
        """Return when clients can connect. Cancelled or failed, it leaves no process, no temporary directory.

        `progress` gets one line per step. Raises `EnvironmentUnavailable` with the remedy.
        """
        if self.running:
            raise RuntimeError("this broker is already running")
        say = progress or _silent
        if self._settings.port is not None and not bindable(self._settings.port):
            raise _port_in_use(self._settings.port)
        try:
            if self._command is None:
                command, archive = await self._resolve(say)
                if archive is not None:
                    command = await self._archived(command, archive, say)
                self._command = command
            if self._home is None:
                self._home = self._make_home()
            await self._launch(self._home, self._command, say)
        except BaseException:
            self.kill()
            self._forget_temporary()
            raise
        say(f"{self.describe()} is ready")

    async def stop(self) -> None:
        """Stop in order (killed when it takes too long, or when cancelled); remove a temporary directory."""
        try:
            await self._terminate()
        finally:
            self._forget_temporary()

    async def restart(self, progress: Progress | None = None) -> None:
        """Stop in order and start again: the same port, the same data even in a temporary directory."""
        await self._terminate()
        await self.start(progress)

    def kill(self) -> None:
        """SIGKILL, which clients see as a crash; `start` goes on with the same port and data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._drop_leash()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, like a broker in a long garbage collection."""
        self._live_process().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._live_process().send_signal(signal.SIGCONT)

    def quote_log(self) -> str:
        """What the broker complained about last, or else said last; without stack frames, bounded."""
        lines = [line for line in self._log().splitlines() if not line.startswith("\tat ")]
        complaints = [line for line in lines if ("ERROR" in line or "Exception" in line) and " INFO " not in line]
        return "\n".join((complaints or lines)[-LOG_LINES_QUOTED_MAX:]) or "(nothing)"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _resolve(self, say: Progress) -> tuple[list[str], Path | None]:
        """The command line up to the main class, and where its classes may lie ready.

        In threads: both calls block, the second one for a while.
        """
        self._java = await asyncio.to_thread(find_java, self._settings.java)
        say(f"Resolving the jars of Apache Kafka {KAFKA_VERSION} (up to a minute the first time, then cached)")
        jars = await asyncio.to_thread(resolve_jars, self._settings.coordinates)
        command = [
            str(self._java.executable),
            f"-Xmx{self._settings.heap_mib}m",
            "-XX:+UseSerialGC",  # the smallest collector in memory and threads
            "-XX:TieredStopAtLevel=1",  # starts in half the time; peak speed is of no use here
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
            # Prints every setting twice at each start.
            "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
            "-cp",
            os.pathsep.join(map(str, jars)),
        ]
        return command, archive_of(self._java, jars)

    async def _archived(self, command: list[str], archive: Path, say: Progress) -> list[str]:
        """The command line with the classes as they lie ready, which they do from the first start on."""
        if not tried(archive):
            with contextlib.suppress(OSError):  # a folder that cannot be written
                async with making(archive) as written:
                    if written is not None:
                        say("Preparing the classes of Kafka (once, ten seconds; every start takes half the time then)")
                        await self._write_archive(command, written)
        return _with_option(command, f"-XX:SharedArchiveFile={archive}") if usable(archive) else command

    async def _write_archive(self, command: list[str], written: Path) -> None:
        """Run a broker for nobody that writes down the classes it has loaded as it ends.

        Nothing is written where Java has no such option, or no archive of its own to add to.
        """
        writer = LocalKafka(KafkaSettings(heap_mib=self._settings.heap_mib))
        writer._command = _with_option(command, f"-XX:ArchiveClassesAtExit={written}")
        writer._stop_timeout_s = ARCHIVE_TIMEOUT_S
        with contextlib.suppress(EnvironmentUnavailable):
            async with writer:
                pass

    def _make_home(self) -> Path:
        if self._settings.data is None:
            return Path(tempfile.mkdtemp(prefix="bridge-kafka-"))
        home = self._settings.data.absolute()
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentUnavailable(f"Kafka's data directory cannot be created: {error}.") from error
        return home

    async def _launch(self, home: Path, command: list[str], say: Progress) -> None:
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            port = self._port or free_port()
            properties = home / "server.properties"
            properties.write_text(node_properties(self._settings, home / "log", port, free_port(other_than=port)))
            if not (home / "log" / "meta.properties").exists():
                say("Formatting Kafka's storage")
                await self._format(home, command, properties)
            say(f"Starting Kafka on {HOST}:{port}")
            self._spawn(home, command, properties)
            if await self._ready(port):
                self._port = port
                return
            if "Address already in use" not in self._log():
                raise EnvironmentUnavailable(f"Kafka ended while starting. Its log says:\n{self.quote_log()}")
            if attempt == START_ATTEMPTS_MAX:
                raise _port_in_use(port)
            await asyncio.sleep(POLL_S)

    async def _format(self, home: Path, command: list[str], properties: Path) -> None:
        """Once per data directory. An interrupted one leaves no meta.properties, hence --ignore-formatted."""
        # 16 bytes in base64; never a dash in front, which the tool would take for an option.
        cluster_id = self._settings.cluster_id or "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "--cluster-id", cluster_id]
        formatter = _popen([*command, *tool, "--config", str(properties)], home)
        try:
            await _wait_exit(formatter, FORMAT_TIMEOUT_S)
        finally:
            formatter.kill()
            formatter.wait()
        if formatter.returncode != 0:
            raise EnvironmentUnavailable(
                f"Kafka's storage in {home} cannot be formatted. The tool says:\n{self.quote_log()}"
            )

    def _spawn(self, home: Path, command: list[str], properties: Path) -> None:
        self._drop_leash()  # of a process that ended by itself
        self._process = _popen([*command, "kafka.Kafka", str(properties)], home)
        temporary = [str(home)] if self._settings.data is None else []
        script = str(Path(__file__).with_name("leash.py"))
        self._leash = subprocess.Popen(
            # Isolated and without site-packages: it starts in milliseconds and no environment can break it.
            [sys.executable, "-I", "-S", script, str(self._process.pid), *temporary],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    async def _ready(self, port: int) -> bool:
        """True when the broker answers, False when it ended first; raises when neither happens in time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.running:
            if await answers(port):
                return True
            if time.monotonic() > deadline:
                raise EnvironmentUnavailable(
                    f"Kafka did not answer within {START_TIMEOUT_S:.0f} s. Its log says:\n{self.quote_log()}"
                )
            await asyncio.sleep(POLL_S)
        self._drop_leash()
        return False

    async def _terminate(self) -> None:
        try:
            if self._process is not None and self.running:
                self._process.terminate()
                self._process.send_signal(signal.SIGCONT)  # a paused process cannot act on SIGTERM
                await _wait_exit(self._process, self._stop_timeout_s)
        finally:
            self.kill()

    def _drop_leash(self) -> None:
        """Kill it before its pipe closes, or it would kill a process id that is perhaps not ours any more."""
        if self._leash is not None:
            self._leash.kill()
            self._leash.communicate()
            self._leash = None

    def _forget_temporary(self) -> None:
        if self._home is not None and self._settings.data is None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def _live_process(self) -> subprocess.Popen[bytes]:
        if self._process is None or not self.running:
            raise RuntimeError("this broker is not running")
        return self._process

    def _log(self) -> str:
        if self._home is None:
            return ""
        with contextlib.suppress(FileNotFoundError):
            return (self._home / "broker.log").read_text(errors="replace")
        return ""


def _with_option(command: list[str], option: str) -> list[str]:
    return [command[0], option, *command[1:]]


def _popen(command: list[str], home: Path) -> subprocess.Popen[bytes]:
    """Start it with its output in broker.log. One former log is kept: what it said before a crash matters."""
    log_path = home / "broker.log"
    with contextlib.suppress(FileNotFoundError):
        log_path.replace(home / "broker.log.1")
    with log_path.open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


async def _wait_exit(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Return when it has ended or the time is over. Polls: the handle belongs to no event loop."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - see above
        await asyncio.sleep(POLL_S)


def _port_in_use(port: int) -> EnvironmentUnavailable:
    return EnvironmentUnavailable(
        f"Port {port} on {HOST} is in use. Stop what listens there, choose another with --port, {OTHER_CLUSTER}."
    )


def _silent(_line: str) -> None:
    """Progress for callers who do not want any."""
