"""The beginning of the world: customers who signed up over the last two years, tags, and who has which.

Nothing of it is in the truth log; the log starts from here. This is the one hot loop of the sandbox: ten to twenty
microseconds per customer, so it writes text and columns directly instead of going through the world's operations.
"""

from __future__ import annotations

from random import Random

from bridge.model import Body
from bridge.sandbox.population.customers import TYPES
from bridge.sandbox.population.dialect import new_id
from bridge.sandbox.population.instants import STEP_US, render
from bridge.sandbox.population.people import LEVELS, People, json_text
from bridge.sandbox.population.register import Register

HISTORY_US = 2 * 365 * 86_400 * 1_000_000
"""How long before now the first customer signed up, in microseconds."""
EDITED_SHARE = 0.3
"""Customers that were edited since they signed up."""
TAGGED_SHARE = 0.6
TAGS_PER_CUSTOMER_MAX = 3
COMBINATIONS = 512
"""Different sets of tags in the beginning; drawn once, so that customers share them."""

TAG_WORDS = (
    "VIP",
    "Newsletter",
    "Oslo",
    "Employee",
    "Press",
    "Returns often",
    "Birthday club",
    "Wholesale",
    "Students",
)


def populate(register: Register, people: People, rng: Random, customers: int, tags: int, now: float) -> None:
    """Fill an empty register; `now` is the wall-clock second at which the world begins."""
    step = STEP_US[register.rules.precision]
    now_us = int(now * 1_000_000) // step * step
    start_us = now_us - HISTORY_US
    for number in range(tags):
        register.add_tag(_tag(register, rng, number, render(start_us, register.rules.precision)))
    _people(register, people, rng, customers, start_us, now_us)
    register.customers.sort_log()
    register.begin(now_us)
    if tags:
        _memberships(register, rng)
    for number, kind in enumerate(register.dialect.foreign_tag_types, tags):
        name = f"{kind.replace('-', ' ').capitalize()} checked"
        tag = _tag(register, rng, number, render(start_us, register.rules.precision))
        register.add_tag({**tag, "tag": name, "type": kind})


def _tag(register: Register, rng: Random, number: int, instant: str) -> Body:
    word = TAG_WORDS[number % len(TAG_WORDS)]
    tag: Body = {"id": register.new_tag_id(rng), "tag": word if number < len(TAG_WORDS) else f"{word} {number}"}
    tag |= {"created_at": instant, "updated_at": instant, "created_by": register.client_id}
    if number % 3 == 0:
        tag["metadata"] = {"colour": LEVELS[number % len(LEVELS)]}
    return tag


def _people(register: Register, people: People, rng: Random, customers: int, start_us: int, now_us: int) -> None:
    precision = register.rules.precision
    step_us = STEP_US[precision]
    table, random, invent, creator = register.customers, rng.random, people.customer, register.client_id
    prefix, counted = register.dialect.customer_prefix, ',"revision":1' if register.dialect.revisions else ""
    stride = (now_us - start_us) / max(1, customers)
    for serial in range(customers):
        created = int(start_us + (serial + random()) * stride) // step_us * step_us
        updated = created
        if random() < EDITED_SHARE:
            updated += int(random() * (now_us - created)) // step_us * step_us
        instant = render(created, precision)
        link = table.customer_ids[int(random() * serial)] if serial else None
        kind, customer_id, fields, links = invent(rng, serial, instant, link)
        drawn = rng.getrandbits(128)
        bits = f"{drawn:032x}"
        uid = f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-{bits[20:]}"
        if prefix:
            uid = new_id(prefix, drawn)
        body = (
            f'{{"id":"{uid}","customer_id":{json_text(customer_id)},"type":"{TYPES[kind]}","created_at":"{instant}"'
            f',"created_by":"{creator}","updated_at":"{render(updated, precision)}"{counted},{fields}}}'
        )
        row = table.append(uid, customer_id, kind, body.encode(), created, stamp=updated)
        if links is not None:
            table.links[row] = (links,)


def _memberships(register: Register, rng: Random) -> None:
    tags = register.tag_ids
    # Early tags are used far more often than late ones, as everywhere.
    weights = [1.0 / (rank + 1) for rank in range(len(tags))]
    combinations = []
    for _ in range(COMBINATIONS):
        drawn = rng.choices(tags, weights, k=1 + int(rng.random() * TAGS_PER_CUSTOMER_MAX))
        combinations.append(tuple(dict.fromkeys(drawn)))
    table = register.customers
    for row in table.order:
        if rng.random() < TAGGED_SHARE:
            table.tags[row] = chosen = combinations[int(rng.random() * COMBINATIONS)]
            for tag in chosen:
                table.members[tag].append(row)
