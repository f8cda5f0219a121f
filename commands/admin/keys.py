"""`atelier keys`: API keys of the gateway, with their quota and expiry."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from commands.terminal import table
from commands.verb import Answer

if TYPE_CHECKING:
    from services.gateway.keys import KeyRecord, KeyStore

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def create(
    name: Annotated[str, typer.Argument(help="Name of the key's owner, shown in listings.")],
    expires: Annotated[
        str | None,
        typer.Option(
            help="A time from now (30d, 12h, 45m, 2w) or a date in UTC: 2027-01-31[T12:00]."
        ),
    ] = None,
    quota: Annotated[int | None, typer.Option(help="Maximum number of pictures in total.")] = None,
) -> Answer:
    """Create a key and print it.

    The key is shown only once. Only its digest is stored.
    """
    until = None if expires is None else parse_expiry(expires, datetime.now(UTC))
    key, record = _store().create(name, expires=until, quota=quota)
    text = f"{key}\n\nStore it now: it cannot be shown again. {_terms(record)}"
    return Answer(text, {"key": key, **describe(record)})


def list_keys() -> Answer:
    """List all keys by their visible prefix, with their usage."""
    records = _store().list()
    now = datetime.now(UTC)
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


def revoke(
    which: Annotated[str, typer.Argument(help="The key's visible prefix, or its name.")],
) -> Answer:
    """Revoke a key.

    It is refused from the next call on. A running call is completed.
    """
    record = _store().revoke(which)
    return Answer(f"{record.prefix} ({record.name}) is revoked.", describe(record))


def describe(record: KeyRecord) -> dict[str, Any]:
    """A key for --json, without its secret part."""
    fields = {key: value for key, value in asdict(record).items() if key != "reserved"}
    moments = {
        key: value.isoformat() for key, value in fields.items() if isinstance(value, datetime)
    }
    state = record.state(datetime.now(UTC))
    return {**fields, **moments, "prefix": record.prefix, "state": state}


def parse_expiry(text: str, now: datetime) -> datetime:
    """Parse `30d`, `12h`, `45m` or `2w` from `now`, or a date or time (UTC if it has no zone)."""
    span = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    try:
        if span:
            return now + timedelta(**{UNITS[span[2]]: int(span[1])})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise BadInput(f"--expires {text!r}: give 30d, 12h, 45m, 2w or 2027-01-31") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _store() -> KeyStore:
    from commands.settings import CommandSettings
    from services.gateway.keys import KeyStore

    return KeyStore(CommandSettings.read().database_url)


def _terms(record: KeyRecord) -> str:
    quota = "no quota" if record.quota is None else f"quota {record.quota} pictures"
    until = "no expiry" if record.expires_at is None else f"expires {_day(record.expires_at)}"
    return f"{record.prefix} ({record.name}): {quota}, {until}."


def _day(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else None
