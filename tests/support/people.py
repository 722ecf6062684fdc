"""Labelled tables of made-up people: what is personal in them is known, and so is what only looks so."""

import random
from dataclasses import dataclass
from zoneinfo import available_timezones

import pandas as pd
from faker import Faker

TUNED_ON = ("en_US", "de_DE", "fr_FR")  # looked at while the recognisers were written
HELD_OUT = ("en_GB", "es_ES", "it_IT", "nl_NL", "pl_PL", "sv_SE", "pt_BR", "fi_FI")
UNSEEN = ("cs_CZ", "da_DK", "no_NO", "pt_PT", "en_CA", "de_AT")  # looked at once, when all was done

NAMES = {  # kind -> what its columns are called where names tell
    "e-mail": ("email", "mail_address", "contactEmail"),
    "phone": ("phone", "telephone_number", "mobile"),
    "IBAN": ("iban", "bank_account"),
    "payment card": ("credit_card_number", "card_no"),
    "IP address": ("ip", "client_ip"),
    "MAC address": ("mac", "mac_address"),
    "national number": ("ssn", "national_id", "tax_id"),
    "postal address": ("address", "street", "home_address"),
    "person name": ("full_name", "customer_name", "name"),
    "geolocation": ("lat", "lon"),
    "birth date": ("date_of_birth", "dob"),
}

CITIES = sorted({name.rpartition("/")[2].replace("_", " ") for name in available_timezones() if name.startswith(("Europe/", "America/", "Asia/"))})  # Faker makes cities of family names


@dataclass(frozen=True)
class Labelled:
    """A table and what is personal in it."""

    name: str
    frame: pd.DataFrame
    labels: frozenset[tuple[str, str]]  # (column, kind)


def _personal(fake: Faker, dice: random.Random) -> list[tuple[str, str, object]]:
    """(kind, what the column is called when it is not the kind's own name, how a value is made)."""
    return [
        ("e-mail", "", fake.email),
        ("phone", "", fake.phone_number),
        ("IBAN", "", fake.iban),
        ("payment card", "", fake.credit_card_number),
        ("IP address", "", dice.choice([fake.ipv4, fake.ipv6])),
        ("MAC address", "", fake.mac_address),
        ("national number", "", {"es_ES": getattr(fake, "nif", None), "pl_PL": getattr(fake, "pesel", None), "pt_BR": getattr(fake, "cpf", None)}.get(str(fake.locales[0])) or fake.ssn),
        ("postal address", "", dice.choice([fake.address, fake.street_address])),
        ("person name", "", fake.name),
        ("person name", "first_name", fake.first_name),
        ("person name", "surname", fake.last_name),
        ("birth date", "", lambda: fake.date_of_birth(minimum_age=18, maximum_age=90)),
        ("remark: e-mail", "remark", lambda: f"{fake.sentence()} {fake.email()}" if dice.random() < 0.03 else fake.sentence()),
    ]


def _harmless(fake: Faker, dice: random.Random) -> list[tuple[str, object]]:
    """(what the column is called, how a value is made)."""
    return [
        ("order_id", lambda: dice.randrange(10**9, 10**10)),
        ("reference", fake.uuid4),
        ("company", fake.company),
        ("city", lambda: dice.choice(CITIES)),
        ("job", fake.job),
        ("isbn", fake.isbn13),
        ("ean", fake.ean13),
        ("product_name", lambda: fake.word().title() + " " + fake.word().title()),
        ("created_at", lambda: fake.date_time_between("-3y")),
        ("due", lambda: fake.date_between("-1y", "+1y").isoformat()),
        ("price", lambda: round(dice.uniform(1, 900), 2)),
        ("score", lambda: dice.gauss(0, 1)),
        ("version", lambda: f"{dice.randrange(4)}.{dice.randrange(20)}.{dice.randrange(9)}.{dice.randrange(9)}"),
        ("checksum", fake.sha1),
        ("notes", fake.sentence),
        ("sku", lambda: fake.bothify("??-####-##").upper()),
        ("colour", fake.color_name),
        ("url", fake.url),
        ("agent", fake.user_agent),
        ("country", fake.country_code),
        ("quantity", lambda: dice.randrange(1, 40)),
        ("amount", lambda: f"{dice.randrange(1, 10**7):,}"),
        ("path", fake.file_path),
        ("currency", fake.currency_name),
        ("active", lambda: dice.random() < 0.5),
    ]


def labelled_table(
    locale: str,  # of Faker: `de_DE`
    rows: int,
    seed: int,
    telling: bool,  # whether columns are called what they hold; otherwise c01, c02, …
    missing: float = 0.1,  # share of the values that are not there
) -> Labelled:
    """A table of twenty columns: ten or eleven personal ones, and harmless ones of which some look personal."""
    fake, dice = Faker(locale), random.Random(seed)
    fake.seed_instance(seed)
    columns: list[tuple[str, str, list[object]]] = []  # kind, name, values
    for kind, name, make in dice.sample(_personal(fake, dice), 9):
        called = name or dice.choice(NAMES[kind])
        values = [make() if dice.random() >= missing else None for _ in range(rows)]
        columns.append((kind.removeprefix("remark: "), called, values))
    if dice.random() < 0.5:
        columns += [("geolocation", "lat", [float(fake.latitude()) for _ in range(rows)]), ("geolocation", "lon", [float(fake.longitude()) for _ in range(rows)])]
    for name, make in dice.sample(_harmless(fake, dice), 20 - len(columns)):
        columns.append(("", name, [make() for _ in range(rows)]))
    if not telling:
        columns = [(kind, f"c{place:02}", values) for place, (kind, _, values) in enumerate(columns)]
    frame = pd.DataFrame({name: values for _, name, values in columns})
    return Labelled(f"raw.{locale.lower()}_{seed}", frame, frozenset((name, kind) for kind, name, _ in columns if kind))
