"""RenameWork: a customer gets another customer_id.

Repeating it is harmless: who is meant is noted, by its uid, before the first write, so a name that changes hands
meanwhile misleads nobody; and the commander looks under which name this uid is before it writes, and writes nothing
when that is the new one already.
"""

from __future__ import annotations

from bridge.commands.command import Rename
from bridge.commands.outcome import Result
from bridge.errors import RequestRefused, RetryLater, SourceError
from bridge.model import Collection, Document
from bridge.runtime.commands.work import Ended, Site
from bridge.source.commanding import Refused
from bridge.source.memberships import Untold

LOOKS_MAX = 3
"""Attempts to see, and to publish as caused by the command, what was done for sure; polls will see it anyway."""

_RENAMED = "the customer has the new customer_id"


class RenameWork:
    """Implements `Work`."""

    def __init__(self, command: Rename, site: Site) -> None:
        self._command = command
        self._site = site
        self._renamed: Document | None = None
        self._looks = 0

    async def go_on(self, urgent: bool) -> Ended | None:
        """See `Work.go_on`."""
        if self._renamed is not None:
            return await self._look(self._renamed)
        progress = self._site.queue.progress(self._command.id)
        if progress is None:
            return await self._begin(urgent)
        uid = progress["customer"]
        known = self._site.step.known(Collection.CUSTOMERS, [uid])
        # Found by its name and not known yet: its name is all that is needed to find it again.
        customer = known[0] if known else Document(uid, {"uid": uid, "customer_id": progress["customer_id"]}, 0)
        found = await self._site.commander.rename(customer, self._command.new_customer_id, urgent=urgent)
        match found:
            case Refused(said):
                return Ended(Result.REJECTED, said)
            case Untold.GONE:
                return Ended(Result.REJECTED, "the provider does not have the customer any more")
            case Untold.NEVER:
                return Ended(Result.REJECTED, "the provider cannot be asked by the name that the customer has")
            case Untold.NOT_NOW:
                raise RetryLater("the provider does not say which name the customer has")
            case Document():
                self._renamed = found
        return None

    def give_up(self, said: str) -> Ended:
        """See `Work.give_up`."""
        return Ended(Result.FAILED, said) if self._renamed is None else Ended(Result.APPLIED, _RENAMED)

    async def _begin(self, urgent: bool) -> Ended | None:
        """Find out who is meant."""
        command = self._command
        if command.customer is not None:
            customer = self._site.known(Collection.CUSTOMERS, [command.customer]).get(command.customer)
            missing = "the bridge knows no customer with this uid"
        else:
            assert command.customer_id is not None, "one of both is given"
            try:
                customer = await self._site.commander.find(command.customer_id, urgent=urgent)
            except RequestRefused as error:
                return Ended(Result.REJECTED, str(error))
            missing = "the provider has no customer with this customer_id"
        if customer is None:
            return Ended(Result.REJECTED, missing)
        if not self._site.step.known(Collection.CUSTOMERS, [customer.uid]):
            # It would be told as new, and not as renamed.
            self._site.await_reading(Collection.CUSTOMERS)
        self._site.note(command.id, {"customer": customer.uid, "customer_id": customer.body.get("customer_id", "")})
        return None

    async def _look(self, customer: Document) -> Ended | None:
        self._looks += 1
        try:
            await self._site.look(Collection.CUSTOMERS, [customer], self._command.id)
        except SourceError:
            if self._looks < LOOKS_MAX:
                raise
        return Ended(Result.APPLIED, _RENAMED)
