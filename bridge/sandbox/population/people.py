"""Invented people: names, addresses and habits, from pools that are built once and combined at random.

The pools come from mimesis (the extra `sandbox`); combining them costs a few microseconds, so that a hundred thousand
customers are there within seconds. Documents are written as JSON text straight away: building dictionaries first
would double the time. The same seed and the same release of mimesis give the same people.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple, TypeVar

import orjson

from bridge.errors import EnvironmentUnavailable
from bridge.model import Body
from bridge.sandbox.population.customers import CONTACT, TYPES

T = TypeVar("T")

POOL_SEED = 1
NAMES_PER_LOCALE = 400
ADDRESSES_PER_LOCALE = 1_500
COMPANIES_PER_LOCALE = 200

UNUSUAL_ID_SHARE = 0.005
"""Customers whose customer_id was typed by hand and holds characters that a path must encode."""

KIND_SHARES = (0.86, 0.06, 0.04, 0.02, 0.02)
"""Shares of the customer types, in the order of TYPES."""
KINDS = bytes(kind for kind, share in enumerate(KIND_SHARES) for _ in range(round(share * 100)))
"""A hundred tickets to draw a type from."""

TERM_ID = "7f3e2a52-8f0b-4f39-9a36-6a6a4a1f2b10"
"""The one version of the terms that everybody accepted."""

COUNTRIES = (
    # locale, country, calling code, mail domains; Norwegians twice, as the provider is at home there
    ("no", "NO", "47", ("online.example", "epost.example")),
    ("no", "NO", "47", ("online.example", "firma.example")),
    ("sv", "SE", "46", ("brev.example", "mejl.example")),
    ("da", "DK", "45", ("mail.example", "post.example")),
    ("fi", "FI", "358", ("posti.example", "mail.example")),
    ("en-gb", "GB", "44", ("mail.example", "letters.example")),
)
STATUSES = ("active", "active", "active", "new", "paused", "vip")
STORES = ("oslo-city", "bergen-storsenter", "stockholm-c", "københavn k", "tampere", "web")
LEVELS = ("bronze", "silver", "gold", "platinum")
INTERESTS = ("ski", "bike", "garden", "books", "coffee", "running", "sailing", "knitting")
UNUSUAL = ("kunde/{} #1", "{}@klubb+gold", "50% rabatt {}", "Ærlig & Ko? {}", "a/../{}", "{} 🙂", "%2F{}", "x=1;y={}")


class Name(NamedTuple):
    """A name as JSON text, and its letters as they go into a mail address."""

    text: str
    slug: str


class Country(NamedTuple):
    """The pools of one locale."""

    calling_code: str
    domains: tuple[str, ...]
    first_names: list[Name]
    last_names: list[Name]
    companies: list[str]
    addresses: list[str]


class Invented(NamedTuple):
    """A customer without the fields that the server gives: `fields` is the inside of a JSON object."""

    kind: int
    customer_id: str
    fields: str
    link: str | None


class People:
    """Draws people from the pools. Whoever asks brings the random numbers and a serial number."""

    def __init__(self) -> None:
        self.countries = _countries()

    def customer(self, rng: Random, serial: int, at: str, link: str | None) -> Invented:
        """Customer number `serial`. at: an instant as text, for consents. link: whom a contact is a contact for."""
        random = rng.random
        country = self.countries[int(random() * len(self.countries))]
        kind = KINDS[int(random() * 100)]
        if kind == CONTACT and link is None:
            kind = 0
        fields = _person(random, country, serial)
        if random() < 0.7:
            fields += f',"metadata":{{"source":"{_pick(random, STORES)}","erp_id":"K-{serial:07d}"}}'
        if random() < 0.6:
            fields += _attributes(random)
        if random() < 0.5:
            fields += f',"enrolled_by":{{"type":"store","value":"{_pick(random, STORES)}"}}'
        fields += _consents(random, at)
        if random() < 0.8:
            places = [_pick(random, country.addresses)] if random() < 0.85 else rng.sample(country.addresses, 2)
            fields += f',"addresses":[{",".join(places)}]'
        if TYPES[kind] == "company" or (TYPES[kind] == "other" and random() < 0.5):
            fields += _company(random, country, serial)
        if kind == CONTACT:
            fields += f',"contact_for":[{{"customer_id":{json_text(link)}}}]'
        return Invented(kind, self.customer_id(rng, serial), fields, link if kind == CONTACT else None)

    def customer_id(self, rng: Random, serial: int) -> str:
        """A new customer's id, a serial number mostly."""
        if rng.random() < UNUSUAL_ID_SHARE:
            return _pick(rng.random, UNUSUAL).format(serial)
        return str(100_000 + serial)

    def edit(self, rng: Random, document: Mapping[str, Any], serial: int, at: str) -> Body:
        """Fields of an update that changes something. `Any`: a JSON object."""
        country = self.countries[int(rng.random() * len(self.countries))]
        turn = int(rng.random() * 6)
        if turn == 0:
            return {"phone_number": _phone(country, serial)}
        if turn == 1:
            return {"addresses": [orjson.loads(_pick(rng.random, country.addresses))]}
        if turn == 2:
            status = [status for status in sorted(set(STATUSES)) if status != document.get("status")]
            return {"status": rng.choice(status)}
        if turn == 3:
            consents = dict(document.get("marketing_consent") or {})
            channel = rng.choice(("sms", "email"))
            given = bool((consents.get(channel) or {}).get("consent"))
            return {"marketing_consent": consents | {channel: {"consent": not given, "updated_at": at}}}
        if turn == 4:
            return {"email": f"{_pick(rng.random, country.last_names).slug}.{serial}@{country.domains[0]}"}
        return {"metadata": {"visits": str(serial)}}

    def tag(self, rng: Random, serial: int) -> str:
        """The visible value of a new tag."""
        return f"{rng.choice(INTERESTS).title()} {rng.choice(LEVELS)} {serial}"


@cache
def _countries() -> tuple[Country, ...]:
    # The pools are the same for every world of a process; its seed decides how they are combined.
    return tuple(_country(POOL_SEED + i, *country) for i, country in enumerate(COUNTRIES))


def _country(seed: int, locale: str, code: str, calling_code: str, domains: tuple[str, ...]) -> Country:
    try:
        # Imported where it is needed, so that the rest of the sandbox works without the extra.
        from mimesis import Address, Finance, Person  # noqa: PLC0415
        from mimesis.locales import Locale  # noqa: PLC0415
    except ImportError as missing:
        raise EnvironmentUnavailable(
            "The sandbox invents its people with 'mimesis', which is missing: pip install 'customer-bridge[sandbox]'"
        ) from missing
    person, place, finance = (
        Person(Locale(locale), seed=seed),
        Address(Locale(locale), seed=seed),
        Finance(Locale(locale), seed=seed),
    )
    addresses = [_address(place, code, i) for i in range(ADDRESSES_PER_LOCALE)]
    return Country(
        calling_code,
        domains,
        [_name(person.first_name()) for _ in range(NAMES_PER_LOCALE)],
        [_name(person.last_name()) for _ in range(NAMES_PER_LOCALE)],
        [json_text(finance.company()) for _ in range(COMPANIES_PER_LOCALE)],
        addresses,
    )


def _name(text: str) -> Name:
    plain = text.casefold().replace("ø", "o").replace("æ", "ae")
    letters = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return Name(json_text(text), "".join(c for c in letters if c.isalnum()) or "x")


def _address(place: Any, country: str, number: int) -> str:
    """`Any`: mimesis may be missing, so its types are not named here."""
    address: Body = {
        "address_line": place.address(),
        "postal_code": place.postal_code(),
        "postal_place": place.city(),
        "country": country,
        "type": ("home", "home", "work", "other", "custom")[number % 5],
    }
    if address["type"] == "custom":
        address["custom_type"] = "cabin"
    if number % 3 == 0:
        address |= {"latitude": round(place.latitude(), 5), "longitude": round(place.longitude(), 5)}
    if number % 7 == 0:
        address["comment"] = "Ring twice"
    return json_text(address)


def _person(random: Callable[[], float], country: Country, serial: int) -> str:
    first = _pick(random, country.first_names)
    last = _pick(random, country.last_names)
    dot = "." if random() < 0.9 else "_"
    local = f"{first.slug}{dot}{last.slug}{serial}"
    # Letter case of a mail address is kept but does not count; some people like capitals.
    mail = f"{local if random() < 0.9 else local.title()}@{_pick(random, country.domains)}"
    return (
        f'"first_name":{first.text},"last_name":{last.text},"email":"{mail}"'
        f',"phone_number":"{_phone(country, serial)}","status":"{_pick(random, STATUSES)}"'
        f',"favorite_store":"{_pick(random, STORES)}","gender":"{"female" if random() < 0.5 else "male"}"'
        f',"date_of_birth":"{1940 + int(random() * 66)}-{1 + int(random() * 12):02d}-{1 + int(random() * 28):02d}"'
    )


def _phone(country: Country, serial: int) -> str:
    return f"+{country.calling_code}{40_000_000 + serial % 59_999_999}"


def _attributes(random: Callable[[], float]) -> str:
    return (
        f',"attributes":{{"loyalty_level":"{_pick(random, LEVELS)}","shoe_size":{35 + int(random() * 13)}'
        f',"newsletter":{"true" if random() < 0.5 else "false"}'
        f',"interests":["{_pick(random, INTERESTS[:4])}","{_pick(random, INTERESTS[4:])}"]}}'
    )


def _consents(random: Callable[[], float], at: str) -> str:
    return (
        f',"marketing_consent":{{"sms":{{"consent":{"true" if random() < 0.4 else "false"},"updated_at":"{at}"}}'
        f',"email":{{"consent":{"true" if random() < 0.6 else "false"},"updated_at":"{at}"}}}}'
        f',"term":{{"id":"{TERM_ID}","accepted_at":"{at}"}}'
    )


def _company(random: Callable[[], float], country: Country, serial: int) -> str:
    # The provider spells it with three s; so do we.
    return (
        f',"company":{{"bussiness_name":{_pick(random, country.companies)}'
        f',"organization_number":"{900_000_000 + serial}"'
        f',"industry":"{_pick(random, INTERESTS)}","number_of_employees":"{1 + int(random() * 500)}"}}'
    )


def _pick(random: Callable[[], float], pool: Sequence[T]) -> T:
    return pool[int(random() * len(pool))]


def json_text(value: object) -> str:
    return orjson.dumps(value).decode()
