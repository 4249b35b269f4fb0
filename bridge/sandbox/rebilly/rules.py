"""Rules: automation that tags customers, or takes tags from them, when something happens to them.

So tags change without any call: what happened is told by the truth log, and what a rule does is recorded there too,
to be seen by other rules the next time.
"""

from __future__ import annotations

from bridge.model import Body
from bridge.sandbox.rebilly.documents import CUSTOMER_FIELDS
from bridge.sandbox.rebilly.events import Event, events_of
from bridge.sandbox.rebilly.filters import admits, parse
from bridge.sandbox.rebilly.hooks import Hooks
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.world import World


class RuleBook:
    """Applies the active rules. Names of tags that do not exist are passed over."""

    def __init__(self, world: World, hooks: Hooks) -> None:
        self._world = world
        self._hooks = hooks
        self._read = world.truth.number

    def apply(self, switches: RebillySwitches) -> None:
        """To everything that has happened since it was asked before."""
        entries, self._read = self._world.truth.after(self._read), self._world.truth.number
        rules = [rule for rule in self._hooks.rules.values() if rule["status"] == "active"]
        for entry in entries if rules else ():
            for event in events_of(entry, switches):
                for rule in rules:
                    if rule["eventType"] == event.type:
                        self._follow(rule, event)

    def _follow(self, rule: Body, event: Event) -> None:
        world, row = self._world, self._world.customers.row_of.get(event.uid)
        if row is None or not world.customers.alive(row):
            return
        document = world.register.document(row)
        if not admits(parse(rule["filter"], CUSTOMER_FIELDS), document, CUSTOMER_FIELDS):
            return
        for name, on in [(name, False) for name in rule["removeTags"]] + [(name, True) for name in rule["addTags"]]:
            tag = world.register.named(name)
            if tag is not None and "type" not in tag:
                world.changes.tag(tag["id"], [event.uid], on=on)
