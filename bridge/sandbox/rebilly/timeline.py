"""Timelines: what has happened to each customer, told from the world's truth log."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from bridge.model import Body, Collection
from bridge.sandbox.population.truth import Truth
from bridge.sandbox.rebilly.documents import View
from bridge.sandbox.rebilly.filters import Field
from bridge.sandbox.world import World

MESSAGES_MAX = 100
"""Kept per customer; the oldest go first."""

CUSTOM = frozenset({"metadata", "attributes", "status", "marketing_consent"})
"""Fields of the world that show as `customFields`."""
CONTACT = frozenset(
    {"first_name", "last_name", "email", "phone_number", "addresses", "company", "date_of_birth", "primaryAddress"}
)

TIMELINE_FIELDS: dict[str, Field] = {
    "id": Field("text", lambda message: message["id"]),
    "type": Field("text", lambda message: message["type"]),
    "triggeredBy": Field("text", lambda message: message["triggeredBy"]),
    "occurredTime": Field("instant", lambda message: message["occurredTime"]),
}


class Timeline:
    """Reads on in the truth log whenever it is asked to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._read = world.truth.number
        self._messages: defaultdict[str, deque[Body]] = defaultdict(lambda: deque(maxlen=MESSAGES_MAX))

    def read(self, triggered_by: str) -> None:
        """Take over what has happened since; `triggered_by`: rebilly, app or direct-api, whoever did that."""
        for entry in self._world.truth.after(self._read):
            if entry.collection is Collection.CUSTOMERS:
                for uid, kind, message in _told(entry):
                    self._messages[uid].append(
                        {
                            "id": f"msg_{entry.number}_{kind}",
                            "type": kind,
                            "triggeredBy": triggered_by,
                            "message": message,
                            "occurredTime": self._world.register.text(entry.at),
                            "extraData": {"tagId": entry.detail["tag"]} if "tag" in entry.detail else {},
                        }
                    )
        self._read = self._world.truth.number

    def of(self, uid: str, view: View) -> Sequence[Body]:
        """Messages about a customer, oldest first."""
        link = [{"rel": "self", "href": view.href("customers", uid, "timeline")}]
        return [
            message | {"occurredTime": view.time(message["occurredTime"]), "_links": link}
            for message in self._messages.get(uid, ())
        ]


def _told(entry: Truth) -> Iterator[tuple[str, str, str]]:
    """Whom it is told of, as what, and in which words."""
    uid, detail = entry.uid, entry.detail
    match entry.kind:
        case "created":
            yield uid, "customer-created", "Customer created"
        case "merged":
            yield detail["into"], "customer-merged", f"Merged with {uid}"
        case "tagged" | "untagged":
            yield uid, f"customer-{entry.kind}", f"{detail['name']} {'added' if entry.kind == 'tagged' else 'removed'}"
        case "updated":
            if CUSTOM & detail["changed"].keys():
                yield uid, "custom-fields-changed", "Custom fields changed"
            if CONTACT & detail["changed"].keys():
                yield uid, "primary-address-changed", "Primary address changed"
