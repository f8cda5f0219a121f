"""`atelier keys`: who may ask the gateway for pictures, until when, and how many."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.table import table
from commands.verb import Answer, verb
from services.gateway.keys import KeyRecord, KeyStore, utc_now

app = typer.Typer(
    name="keys",
    help="API keys of the gateway: create, list, revoke.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@verb(app, "create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in lists.")],
    expires: Annotated[
        str | None,
        typer.Option(help="After 30d, 12h, 45m or 2w from now, or at 2027-01-31[T12:00] UTC."),
    ] = None,
    quota: Annotated[int | None, typer.Option(help="Pictures it may make in all.")] = None,
) -> Answer:
    """Make a key and print it. It is shown this once and stored only as a digest."""
    until = None if expires is None else parse_expiry(expires, utc_now())
    key, record = _store().create(name, expires=until, quota=quota)
    text = f"{key}\n\nKeep it now: it cannot be shown again. {_terms(record)}"
    return Answer(text, {"key": key, **describe(record)})


@verb(app, "list")
def list_keys() -> Answer:
    """Every key by its visible beginning, with what it has used."""
    records = _store().list()
    now = utc_now()
    heads = ("KEY", "NAME", "STATE", "PICTURES", "QUOTA", "EXPIRES", "CREATED")
    rows = [
        (
            record.prefix,
            record.name,
            record.state(now),
            record.used,
            record.quota,
            _day(record.expires_at),
            _day(record.created_at),
        )
        for record in records
    ]
    return Answer(table(heads, rows), {"keys": [describe(record) for record in records]})


@verb(app, "revoke")
def revoke(
    which: Annotated[str, typer.Argument(help="A key's visible beginning, or its name.")],
) -> Answer:
    """End a key. It is refused from the next call on; a call already running is finished."""
    record = _store().revoke(which)
    return Answer(f"{record.prefix} ({record.name}) is revoked.", describe(record))


def describe(record: KeyRecord) -> dict[str, Any]:
    """A key for --json, never with anything that opens a door."""
    fields = {key: value for key, value in asdict(record).items() if key != "reserved"}
    moments = {
        key: value.isoformat() for key, value in fields.items() if isinstance(value, datetime)
    }
    state = record.state(utc_now())
    return {**fields, **moments, "prefix": record.prefix, "state": state}


def parse_expiry(text: str, now: datetime) -> datetime:
    """`30d`, `12h`, `45m`, `2w` from `now`, or a date or moment (UTC where it names no zone)."""
    span = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    try:
        if span:
            return now + timedelta(**{UNITS[span[2]]: int(span[1])})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise BadInput(f"--expires {text!r}: give 30d, 12h, 45m, 2w or 2027-01-31") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _store() -> KeyStore:
    return KeyStore(Home.find().database_url)


def _terms(record: KeyRecord) -> str:
    quota = "without quota" if record.quota is None else f"for {record.quota} pictures"
    until = "without expiry" if record.expires_at is None else f"until {_day(record.expires_at)}"
    return f"{record.prefix} ({record.name}) is good {quota}, {until}."


def _day(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else None
