"""Plan: what one seed decides beforehand. Weights differ from seed to seed, many are zero: so rare combinations occur.

Most seeds draw only such switches under which polling alone can see every change. In the others (`blind`) a provider
hides some changes from polls, sweeps come often, and only the end is compared with the truth: until a sweep has found
it, nobody can know what was hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from bridge.detect.scan import DeleteLimit
from bridge.model import Collection
from bridge.sandbox.population.life import Rates, RebillyRates

_EARLIER = (
    "kill",
    "kill at a call",
    "stop",
    "cancel",
    "freeze",
    "start",
    "lose disk",
    "bad way",
    "trouble at a call",
    "good way",
    "no way",
    "broker away",
    "provider faults",
    "provider well",
    "compact",
    "letter",
    "burst",
    "empty tag list",
    "list lies",
    "no right",
    "tokens revoked",
    "tagged in bulk",
    "tag deleted",
    "many deleted",
    "staff changes",
    "ids change hands",
    "approve",
    "pause",
    "resume",
    "resync",
    "signal again",
    "a week off",
)

_LATER = ("tag some", "untag some", "rename one", "refresh some", "order again", "two are one")
"""Drawn by themselves, so that the other weights of a seed stay what they are."""

ACTIONS = (*_EARLIER, *_LATER)
"""What may happen; see `happenings`, `provider`, `signals` and `orders`."""

_ALWAYS = {
    "start": 1.0,
    "letter": 0.7,
    "good way": 0.3,
    "provider well": 0.3,
    "trouble at a call": 0.3,
    "resume": 0.3,
}
"""Without these a seed would only break things."""

_RARE = {"a week off": 0.03, "pause": 0.3, "resync": 0.3, "approve": 0.3}

_FOCI: tuple[dict[str, float], ...] = (
    {},
    # Commits whose outcome nobody is told, in the middle of much to tell.
    {"trouble at a call": 4.0, "burst": 3.0, "kill at a call": 1.0},
    # Owners that sleep over the end of their ownership.
    {"freeze": 3.0, "burst": 2.0, "letter": 2.0, "bad way": 1.0},
    # Ownership that goes round.
    {"start": 4.0, "stop": 1.0, "cancel": 1.0, "kill": 1.0, "letter": 3.0, "burst": 1.0, "lose disk": 0.3},
    # People who ask for this and that, while owners come and go.
    {"pause": 1.0, "resume": 2.0, "resync": 1.0, "approve": 1.0, "signal again": 1.0, "start": 1.0, "kill": 1.0},
    # Memberships that move by the hundred, and tags that go with all of theirs.
    {"tagged in bulk": 3.0, "tag deleted": 1.5, "list lies": 1.0, "kill": 0.5, "start": 0.5},
    # Customers who leave together, and customer_ids that go round.
    {"many deleted": 1.5, "ids change hands": 3.0, "kill": 0.7, "start": 1.0, "no right": 0.5},
)
"""What a seed may have more of than of all the rest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One seed's circumstances.

    duration_s: of the time in which things happen. pause_s: on average between two of them. weights: of `ACTIONS`.
    collections: what is read, by source. silent: first sights are kept without an event. page_limit: rows of a page of
    customers. snapshot_parallelism: pages side by side, the first time. cursor_kind: as the source is told.
    delete_limit: so many deletions at once wait for a person. lie: what the customer list does for a while.
    poll_interval_s_max: between two polls while nothing changes, 0 for always the same. disk: `memory` (a store that
    outlives its process) or `sqlite`. slow_markers: share of commit markers that come late. latency_s: of a request to
    Kafka. old_rows: share of pages that also show rows as an earlier page has shown them. rounds_interval_s: in which
    the members of every tag are read. epilogue: the state topic is lost in the end. blind: see the module.
    providers: by source. rebilly_...: of sources of Rebilly. mirrored: the first two sources have the same people, and
    a mirror to each other.
    """

    seed: int
    processes: int
    shards: int
    collections: dict[str, tuple[Collection, ...]]
    silent: bool
    customers: int
    tags: int
    rates: Rates
    switches: dict[str, object]
    faults: dict[str, float]
    page_limit: int
    cursor_kind: str
    delete_limit: DeleteLimit
    lie: dict[str, object]
    snapshot_parallelism: int
    poll_interval_s: float
    poll_interval_s_max: float
    request_rate: float
    duration_s: float
    pause_s: float
    weights: dict[str, float]
    disk: str
    slow_markers: float
    latency_s: float
    old_rows: float
    epilogue: bool
    sweep_interval_s: float
    rounds_interval_s: float
    blind: bool
    providers: dict[str, str]
    rebilly_switches: dict[str, object]
    rebilly_rates: RebillyRates
    rebilly_page_limit: int
    mirrored: bool


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    chance = Random(f"{seed}/plan")
    weights = {name: 0.0 if chance.random() < 0.5 else chance.random() for name in _EARLIER}
    weights |= {name: max(weights[name], least) for name, least in _ALWAYS.items()}
    weights |= {name: weights[name] * share for name, share in _RARE.items()}
    focus = chance.choice(_FOCI)
    blind = chance.random() < 0.25
    weights |= {name: weights[name] + weight for name, weight in focus.items()}
    switches = _switches(chance) | (_blind(chance) if blind else {})
    sources = chance.choice((1, 1, 2))
    if switches["cursor_kind"] == "customer_id" and not blind:
        # A page that begins after whoever has that id now may leave out what lies between the two.
        weights["ids change hands"] = 0.0
    plan = Plan(
        seed=seed,
        processes=chance.choice((2, 3)) if focus.keys() & {"freeze", "stop"} else chance.choice((1, 1, 2, 3)),
        shards=chance.choice((1, 1, 2, 3)),
        collections={f"source-{number}": chance.choice(_COLLECTIONS) for number in range(sources)},
        silent=chance.random() < 0.08,
        customers=chance.choice((0, 3, 12, 30)),
        tags=chance.choice((0, 2, 6)),
        rates=_rates(chance),
        switches=switches,
        faults=_faults(chance, switches, blind=blind),
        page_limit=chance.choice((2, 4, 6, 10, 100)),
        cursor_kind=str(switches["cursor_kind"]),
        # The first is the default, which is never reached in a town this small.
        delete_limit=chance.choice((DeleteLimit(), DeleteLimit(0.2, 2), DeleteLimit(0.1, 4))),
        lie=chance.choice(_LIES) if blind else {},
        snapshot_parallelism=Random(f"{seed}/slices").choice((1, 1, 4, 8)),
        poll_interval_s=chance.choice((1.0, 3.0, 5.0)),
        poll_interval_s_max=chance.choice((0.0, 0.0, 20.0)),
        request_rate=chance.choice((5.0, 20.0, 1000.0)),
        duration_s=chance.uniform(20.0, 150.0),
        pause_s=chance.choice((1.0, 3.0, 8.0)),
        weights=weights,
        disk="sqlite" if chance.random() < 0.1 else "memory",
        slow_markers=chance.choice((0.0, 0.02, 0.5)),
        latency_s=chance.choice((0.001, 0.02, 0.2)),
        old_rows=chance.choice((0.0, 0.0, 0.2)),
        epilogue=chance.random() < 0.1,
        sweep_interval_s=chance.choice((20.0, 60.0)) if blind else chance.choice((20.0, 6 * 3600.0)),
        rounds_interval_s=chance.choice((20.0, 60.0)),
        blind=blind,
        providers={},
        rebilly_switches={},
        rebilly_rates=RebillyRates(),
        rebilly_page_limit=1000,
        mirrored=False,
    )
    return _with_providers(plan, Random(f"{seed}/providers"))


def _with_providers(plan: Plan, chance: Random) -> Plan:
    """Some sources are of Rebilly; services send commands; and two sources may be mirrored."""
    names = list(plan.collections)
    providers = {name: "rebilly" if chance.random() < 0.3 else "dintero" for name in names}
    ordered = chance.random() < 0.4
    weights = {name: chance.random() if ordered and chance.random() < 0.8 else 0.0 for name in _LATER}
    there = "rebilly" in providers.values()
    collections = {
        name: tuple(each for each in read if each is not Collection.USERS or providers[name] == "dintero")
        for name, read in plan.collections.items()
    }
    mirrored = len(names) > 1 and chance.random() < 0.5
    if mirrored:
        collections |= dict.fromkeys(names[:2], (Collection.CUSTOMERS, Collection.TAGS, Collection.MEMBERSHIPS))
    speed = chance.choice((2.0, 10.0, 60.0))
    rates = {name: chance.random() * speed if chance.random() < 0.6 else 0.0 for name in RebillyRates.model_fields}
    rates["tag_delete"] = min(rates["tag_delete"], rates["tag_create"])
    rates["delete"] = min(rates["delete"], rates["sign_up"] / 2)
    rates["merge"] = min(rates["merge"], rates["sign_up"] / 2)
    sweep_interval_s = chance.choice((20.0, 60.0))
    return replace(
        plan,
        providers=providers,
        collections=collections,
        # Whoever leaves Rebilly is missed only by those who look at everybody.
        sweep_interval_s=sweep_interval_s if there else plan.sweep_interval_s,
        weights=plan.weights | weights | ({"two are one": chance.random()} if there else {}),
        rebilly_switches=_rebilly(chance),
        rebilly_rates=RebillyRates().changed(rates),
        # Polls of tags in many pages would take all of the smallest budget: a sweep then has one request a minute.
        rebilly_page_limit=max(chance.choice((4, 10, 100, 1000)), 100 if plan.request_rate <= 5.0 else 0),
        mirrored=mirrored,
    )


def _rebilly(chance: Random) -> dict[str, object]:
    return {
        "rate_limit": chance.choice((0, 0, 0, 20)),
        "rate_limit_window": 60,
        "rate_limit_reads": False,
        "rate_limit_retry_after": chance.choice(("timestamp", "past", "missing", "text", "standard")),
        "offset_above_1000": chance.choice(("422", "400", "clamped", "empty")),
        "sort_ties": chance.choice(("reversed", "same", "shuffled")),
        "bulk_delay": chance.choice((0.0, 0.5, 20.0)),
        "bulk_order": chance.choice(("given", "random")),
        "bulk_lost": chance.random() < 0.2,
        "bulk_unknown_tag": chance.choice(("422", "404", "204")),
        "tagging_moves": chance.choice(("nothing", "both", "updated_time", "revision")),
        "tag_rename_moves_customers": chance.random() < 0.3,
        "tags_order": chance.choice(("assigned", "shuffled")),
        "payments_move_customers": chance.random() < 0.3,
        "merged_read": chance.choice(("404", "301", "survivor")),
        "survivor_tags": chance.choice(("union", "own")),
        "timestamp_precision": chance.choice(("seconds", "seconds", "microseconds")),
        "timestamp_zone": chance.choice(("Z", "+00:00")),
        "error_media_type": chance.choice(("json", "problem", "html")),
        "etag": chance.choice(("honoured", "ignored", "changing", "none")),
        "latency_ms": chance.choice((0.0, 20.0, 300.0)),
        "fault_429_retry_after": chance.choice(("none", "1", "date", "0", "soon")),
        "fault_slow_s": chance.choice((2.0, 70.0)),
        "fault_on": chance.choice(("any", "any", "customers", "customers", "customer", "tags", "bulk", "timeline")),
    }


_COLLECTIONS = (
    tuple(Collection),
    tuple(Collection),
    (Collection.CUSTOMERS, Collection.TAGS, Collection.MEMBERSHIPS),
    (Collection.CUSTOMERS, Collection.TAGS, Collection.USERS),
    (Collection.CUSTOMERS, Collection.TAGS),
    (Collection.CUSTOMERS,),
    (Collection.TAGS, Collection.USERS),
)
"""What a source may be read for; everything, mostly."""

_FAULTS = (
    "fault_429",
    "fault_500",
    "fault_502_html",
    "fault_200_html",
    "fault_slow",
    "fault_cut",
    "duplicate_rows",
)
"""Faults of the provider after which the same page, read again, is whole."""

_LIES: tuple[dict[str, object], ...] = (
    # Each request in another order: a reading misses some rows and does not know.
    {"list_order": "shuffled"},
    # Every page is page one: a reading that never ends, so it must give up.
    {"cursor_kind": "ignored"},
    {},
)
"""What the list of customers may do for a while, so that a reading of it proves nothing. No deletion may follow."""


def _faults(chance: Random, switches: dict[str, object], *, blind: bool) -> dict[str, float]:
    """By the name of the switch. A row that cannot be read hides a change from polls, and so does an empty page,
    or one of nothing but null.

    A provider that shows nothing twice in a row is believed where nothing else can be asked: the lists of tags and of
    users. What is missing from the list of customers can be looked up, so that one may lie.
    """
    names = [*_FAULTS, *(["bad_row", "bad_shape"] if blind else [])]
    names += ["empty_page"] if blind and switches["fault_on"] == "customers" else []
    return {name: chance.random() * 0.3 for name in names if chance.random() < 0.4}


def _rates(chance: Random) -> Rates:
    """Changes per minute, together about what a few polls see."""
    speed = chance.choice((2.0, 10.0, 60.0))
    values = {name: chance.random() * speed if chance.random() < 0.7 else 0.0 for name in Rates.model_fields}
    values["tag_delete"] = min(values["tag_delete"], values["tag_create"])
    values["user_delete"] = min(values["user_delete"], values["user_create"])
    values["delete"] = min(values["delete"], values["sign_up"] + 0.5)
    return Rates().changed(values)


def _blind(chance: Random) -> dict[str, object]:
    """What hides changes from polls."""
    hiding: dict[str, object] = {
        "late_visibility_s": 25.0,
        "tombstones_in_since": "never",
        "tombstones": "never",
        "rename_bumps_updated_at": False,
        # Any page may be cut short to make room, so its reader cannot know where the list ends.
        "linked_users": "inside_limit",
    }
    return {name: value for name, value in hiding.items() if chance.random() < 0.5}


def _switches(chance: Random) -> dict[str, object]:
    return {
        "timestamp_precision": chance.choice(("seconds", "seconds", "milliseconds", "microseconds")),
        "since_bound": chance.choice(("inclusive", "exclusive")),
        "since_order": chance.choice(("ascending", "ascending", "ascending", "descending")),
        "since_with_cursor": chance.choice(("error", "ignore_cursor", "ignore_since")),
        # Not shuffled: a sweep can miss rows of such a list. See `_LIES`.
        "list_order": chance.choice(("created", "created", "id", "created_descending")),
        "cursor_kind": chance.choice(("id", "id", "customer_id")),
        # Less than the overlap of polls (10 s): what shows up later is for the sweep.
        "late_visibility_s": chance.choice((0.0, 0.0, 2.0, 7.0)),
        "tag_bumps_updated_at": chance.random() < 0.3,
        "deleted_read": chance.choice(("404", "tombstone")),
        "roles_without_expand": chance.choice(("ids", "absent")),
        "etag": chance.choice(("honoured", "honoured", "ignored", "changing", "none")),
        "limit_per_minute": chance.choice((0, 0, 0, 300)),
        "limit_headers": chance.choice(("none", "x", "ratelimit", "draft")),
        "token_lifetime": chance.choice((14_400, 60, 5)),
        "token_revoke_after": chance.choice((0.0, 0.0, 30.0, 3.0)),
        "latency_ms": chance.choice((0.0, 20.0, 300.0)),
        "page_latency_ms": chance.choice((0.0, 0.0, 100.0)),
        "fault_429_retry_after": chance.choice(("none", "1", "date", "0", "soon")),
        "fault_slow_s": chance.choice((2.0, 70.0)),
        "fault_on": chance.choice(
            ("any", "any", "customers", "customers", "customer", "customer_tags", "tags", "management", "token")
        ),
    }
