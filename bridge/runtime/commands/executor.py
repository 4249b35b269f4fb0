"""Executor: the task that does what the accepted commands of one source ask, one after the other, beside its loops.

A command begins when the one before it is answered and the answer is committed. Its outcome, the note that it is done
and its removal are one step of the ledger: after a crash it is either answered, or there to be executed again, which is
harmless for every kind (each says why). Trouble of the provider stays in here, as back-off up to a budget; nothing of
it holds up the loops or the inbox. While what a command is about is paused, the command waits.

The first requests of a busy time go before all others. Whoever sends a thousand commands, or one for a thousand
customers, takes turns with the polls after that.

One task per source, owned by its shard's task group, ended by cancellation.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from bridge.clock import WAIT_S_MIN
from bridge.commands.command import Kind, ProviderCommand, Refresh, Rename, Tagging, collection_of
from bridge.commands.outcome import Result, ended
from bridge.errors import AccessDenied, NotYet, SourceError
from bridge.model import Collection
from bridge.observability.logs import Throttle, get_logger
from bridge.runtime.answers import Answers
from bridge.runtime.commands.queue import CommandQueue, ProgressTooLarge
from bridge.runtime.commands.refreshing import RefreshWork
from bridge.runtime.commands.renaming import RenameWork
from bridge.runtime.commands.tagging import TagWork
from bridge.runtime.commands.work import Ended, Site, Work
from bridge.runtime.loop import SAY_AGAIN_S
from bridge.runtime.parking import FORESEEN
from bridge.runtime.schedule import ACCESS_PROBE_S, Backoff

RETRY_S_MAX = 900.0
"""A piece of a command that fails for a quarter of an hour is given up: those behind it wait as well."""

URGENT_S = 5.0
"""How long commands go before everything else; then polls have been late by one of their usual intervals."""

log = get_logger(__name__)


class Executor:
    """Of one source during one opening of its shard."""

    def __init__(self, site: Site, answers: Answers, spread: Callable[[], float] = random.random) -> None:
        """`spread`: a number in [0, 1) that keeps sources from coming back in step."""
        self._site = site
        self._answers = answers
        self._spread = spread
        self._busy_since: float | None = None
        self._throttle = Throttle(SAY_AGAIN_S, site.clock)

    @property
    def queue(self) -> CommandQueue:
        """Where commands are accepted."""
        return self._site.queue

    def takes(self, command: ProviderCommand) -> bool:
        """Whether this source has what the command is about, and the provider can do it."""
        if isinstance(command, Rename) and not self._site.commander.ways.renames:
            return False
        about = _about(command)
        return about in self._site.readings or (about is Collection.MEMBERSHIPS and self._site.reads_memberships)

    def await_again(self) -> None:
        """What the command under way may have done already is known before any loop sees it."""
        command = self._site.queue.first()
        if isinstance(command, Tagging):
            TagWork(command, self._site).await_again()

    async def run(self) -> None:
        """For ever; ends by cancellation only. Errors of the provider never leave."""
        while True:
            command = self._site.queue.first()
            if command is None:
                self._busy_since = None
                await self._site.queue.wait(None)
                continue
            end = await self._execute(command)
            outcome = ended(command, end.result, end.detail, self._answers.now(), end.count, end.others)
            digest = self._site.queue.digest(command.id)
            assert digest is not None, "what is executed was accepted"
            self._answers.give(self._site.source, digest, outcome)
            self._site.queue.drop(command.id)
            await self._site.ledger.wait_committed()

    async def _execute(self, command: ProviderCommand) -> Ended:
        work: Work | None = None
        backoff, failing_since = Backoff(), 0.0
        while True:
            await self._site.ledger.wait_committed()  # nothing is asked that only a former owner would ask
            begun = self._site.queue.progress(command.id) is not None
            if not begun and self._site.clock.wall() > command.expires_at:
                return Ended(Result.EXPIRED, "its time was over before it could begin")
            if self._paused(command):
                self._busy_since = None
                await self._site.queue.wait(self._left_s(command, begun))
                self._site.queue.touch(command.id)
                continue
            work = work or _work(command, self._site)
            now = self._site.clock.monotonic()
            self._busy_since = now if self._busy_since is None else self._busy_since
            try:
                end = await work.go_on(now - self._busy_since < URGENT_S)
            except SourceError as error:
                if isinstance(error, NotYet) or not backoff.attempts:
                    failing_since = now  # what has not been read yet is no failure of the provider
                backoff = backoff.failed()
                delay_s = self._trouble(command, error, backoff)
                if self._site.clock.monotonic() + delay_s - failing_since <= RETRY_S_MAX:
                    self._busy_since = None
                    await self._site.clock.sleep(delay_s)
                    self._site.queue.touch(command.id)  # another owner may have gone on meanwhile
                    continue
                end = work.give_up(str(error))
            except ProgressTooLarge:
                return Ended(Result.FAILED, "what is known of its progress is larger than the topics take; name fewer")
            except FORESEEN:
                raise
            except Exception as error:  # or the command would end each life of the shard, and hold up all behind it
                log.error("unforeseen", source=self._site.source, command=command.kind, exc_info=error)
                return Ended(Result.FAILED, f"unforeseen {type(error).__name__}. Please report it")
            backoff = Backoff()
            if end is not None:
                return end

    def _paused(self, command: ProviderCommand) -> bool:
        """Whether something is that the command stands on: nobody would look at what it has done."""
        about = _about(command)
        if isinstance(command, Tagging) or about is Collection.MEMBERSHIPS:
            needed = {Collection.CUSTOMERS, Collection.TAGS, Collection.MEMBERSHIPS}
        else:
            needed = {about}
        return any(self._site.paused(collection) for collection in needed)

    def _left_s(self, command: ProviderCommand, begun: bool) -> float | None:
        """How long a command that has to wait may wait; None: as long as it takes."""
        left_s = command.expires_at - self._site.clock.wall()
        return None if begun or left_s == float("inf") else max(0.0, left_s) + WAIT_S_MIN

    def _trouble(self, command: ProviderCommand, error: SourceError, backoff: Backoff) -> float:
        """Note what happened; seconds to wait."""
        hint = getattr(error, "delay_s", None)
        delay_s = ACCESS_PROBE_S if isinstance(error, AccessDenied) else backoff.delay_s(self._spread(), hint)
        if self._throttle.admit("trouble", delay_s) is not None:
            log.warning(
                "a command cannot be executed now",
                source=self._site.source,
                command=command.kind,
                cause=type(error).__name__,
                detail=str(error),
                attempt=backoff.attempts,
                next_try_s=round(delay_s, 1),
            )
        return delay_s


def _about(command: ProviderCommand) -> Collection:
    return collection_of(command) or Collection.CUSTOMERS


def _work(command: ProviderCommand, site: Site) -> Work:
    match command:
        case Rename():
            return RenameWork(command, site)
        case Tagging():
            return TagWork(command, site)
        case Refresh():
            return RefreshWork(command, site)
    raise AssertionError(f"nobody knows how to do {Kind(command.kind)}")
