"""Essence: the part of a document whose change is an event.

Two bodies with equal essence are the same document; the one that is known stays. Left out are values that move by
themselves: the provider's change time, its count of changes (Rebilly's `revision`), and the trail that Dintero writes
into a customer at each rename (the rename itself is seen in `customer_id`). A customer's tags are left out too: each
edge that moves is an event of its own (`detect.edges`). E-mail addresses compare without case, as providers compare
them. Sets arrive in canonical order from the source, so lists compare by position here. The projection has a number
(`store.record.ESSENCE`); raise it together with any change below.
"""

from __future__ import annotations

from hashlib import blake2b

import orjson

from bridge.model import Body

DIGEST_BYTES = 16
"""That two essences of one document share a digest is less likely than any other fault."""

VOLATILE = frozenset({"updated_at", "tags"})
"""Top-level fields that never make a change of the document. (`tags` made none before either: no document had it.)"""

EXTRA_VOLATILE = frozenset({"customer_id_changes", "revision"})
"""Fields of `extra` that never make a change: evidence of renames, and a count of changes that do not all count here;
shown but not compared. (No document had a `revision` before it was in this list.)"""

CASELESS = ("email",)
"""Top-level strings that compare without case."""


def essence(body: Body) -> Body:
    """The compared projection; the argument is not changed."""
    result = {name: value for name, value in body.items() if name not in VOLATILE}
    extra = result.get("extra")
    if isinstance(extra, dict) and not EXTRA_VOLATILE.isdisjoint(extra):
        rest = {name: value for name, value in extra.items() if name not in EXTRA_VOLATILE}
        if rest:
            result["extra"] = rest
        else:
            del result["extra"]
    for name in CASELESS:
        value = result.get(name)
        if isinstance(value, str):
            result[name] = value.lower()
    return result


def essence_digest(body: Body) -> str:
    """For comparing with an essence of which nothing else is kept."""
    return blake2b(orjson.dumps(essence(body), option=orjson.OPT_SORT_KEYS), digest_size=DIGEST_BYTES).hexdigest()
