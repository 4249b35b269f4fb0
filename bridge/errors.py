"""Every error the bridge raises on purpose, named after the reaction it demands.

    BridgeError
    ├── ConfigurationError          fix the file; exit 2, nothing was touched
    ├── EnvironmentUnavailable      Kafka, provider, disk or a tool is not there; exit 3
    ├── SourceError                 what a provider did to one request
    │   ├── RetryLater              ask again, not before `delay_s`
    │   │   ├── AnswerTooLarge      ask for less at once, if that is possible
    │   │   └── NotYet              the bridge itself has not come so far: wait, the provider is not to blame
    │   ├── Malformed               the answer is not what its endpoint declares: nothing of it is used
    │   ├── AccessDenied            401/403 for good: stop asking beyond a slow probe, raise an alarm
    │   ├── CursorRejected          the provider does not know the cursor: begin the sweep again
    │   └── RequestRefused          a permanent answer (400, 404, 409, 422): do not repeat
    └── PublishError                what Kafka did to one shard
        ├── Fenced                  a newer owner, or our own transaction was too slow: close dirty, ask the group
        ├── CommitUnknown           no answer: discard what is pending, reopen, restore
        ├── PublishFailed           the transaction did not happen: discard, reopen
        └── StateLost               the log contradicts itself: refuse to run, a person decides

Components raise; only `runtime` decides what happens next. Messages never hold a secret or a person's data.
"""

from __future__ import annotations


class BridgeError(Exception):
    """Something went wrong in the bridge; the message says what, where and what to do."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class ConfigurationError(BridgeError):
    """The configuration is wrong; correct the named key and start again."""


class EnvironmentUnavailable(BridgeError):
    """Something outside the bridge is missing; the message names it and the remedy."""


class SourceError(BridgeError):
    """A provider did not answer one request as its contract says."""


class RetryLater(SourceError):
    """The provider cannot answer now; ask again later."""

    def __init__(self, message: str, *, delay_s: float | None = None) -> None:
        """`delay_s`: seconds the provider asked for (already bounded), None when it gave no hint."""
        super().__init__(message)
        self.delay_s = delay_s


class AnswerTooLarge(RetryLater):
    """The answer is larger than may be kept in memory; ask for less at once."""


class NotYet(RetryLater):
    """The bridge has not read yet what it needs for this; it comes by itself."""


class Malformed(SourceError):
    """The provider's answer does not have its declared shape; nothing of it was used."""


class AccessDenied(SourceError):
    """The provider refuses the credentials or the right; check credentials, account and rights."""


class CursorRejected(SourceError):
    """The provider does not know the cursor any more; the sweep begins again."""


class RequestRefused(SourceError):
    """The provider refuses the request for good."""

    def __init__(
        self, message: str, *, status: int, location: str | None = None, invalid_fields: tuple[str, ...] = ()
    ) -> None:
        """location: where a redirect leads; it may name a person's record, so it is no part of the message.

        invalid_fields: names of the fields that the provider does not accept, without their values.
        """
        super().__init__(message)
        self.status = status
        self.location = location
        self.invalid_fields = invalid_fields


class PublishError(BridgeError):
    """A shard could not publish."""


class Fenced(PublishError):
    """Another owner of the shard is active, or our transaction took longer than its timeout."""


class CommitUnknown(PublishError):
    """Kafka gave no answer to a commit; the log decides what happened."""


class PublishFailed(PublishError):
    """The transaction was not committed; everything pending is detected again after a restore."""


class StateLost(PublishError):
    """The state topic contradicts the rest of the log; refuse to run until a person has looked."""
