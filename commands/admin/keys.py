"""`atelier keys`: manage the API keys of the gateway, with their quota and expiry."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from commands.command import Answer
from commands.terminal import table

if TYPE_CHECKING:
    from services.gateway.keys import KeyRecord, KeyStore

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Owner of the key, shown in listings.")
    ],
    expires: Annotated[
        str | None,
        typer.Option(help="Time from now (30d, 12h, 45m, 2w) or date in UTC (2027-01-31[T12:00])."),
    ] = None,
    quota: Annotated[int | None, typer.Option(help="Maximum number of images in total.")] = None,
) -> Answer:
    """Create an API key and print it.

    The key is shown only once, because only its digest is stored.
    """
    until = None if expires is None else parse_expiry(expires, datetime.now(UTC))
    key, record = _store().create(name, expires=until, quota=quota)
    text = f"{key}\n\nStore it now: it cannot be shown again. {_terms(record)}"
    return Answer(text, {"key": key, **describe(record)})


def list_keys() -> Answer:
    """List all keys by visible prefix, with state, usage and quota."""
    records = _store().list()
    now = datetime.now(UTC)
    heads = ("KEY", "NAME", "STATE", "IMAGES", "QUOTA", "EXPIRES", "CREATED")
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
    key: Annotated[str, typer.Argument(metavar="KEY", help="Visible prefix or name of the key.")],
) -> Answer:
    """Revoke a key.

    The gateway refuses all later requests with this key. Running requests are completed.
    """
    record = _store().revoke(key)
    return Answer(f"{record.prefix} ({record.name}) is revoked.", describe(record))


def describe(record: KeyRecord) -> dict[str, Any]:
    """Return the --json fields of a key, without its secret part."""
    fields = {key: value for key, value in asdict(record).items() if key != "reserved"}
    moments = {
        key: value.isoformat() for key, value in fields.items() if isinstance(value, datetime)
    }
    state = record.state(datetime.now(UTC))
    return {**fields, **moments, "prefix": record.prefix, "state": state}


def parse_expiry(text: str, now: datetime) -> datetime:
    """Parse a duration from `now` (`30d`, `12h`, `45m`, `2w`) or an ISO date or time.

    A time without a zone is UTC. Raises BadInput if the text is neither.
    """
    span = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    try:
        if span:
            return now + timedelta(**{UNITS[span[2]]: int(span[1])})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise BadInput(
            f"--expires {text!r}: not a duration or date; give 30d, 12h, 45m, 2w or 2027-01-31"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _store() -> KeyStore:
    from commands.settings import CommandSettings
    from services.gateway.keys import KeyStore

    return KeyStore(CommandSettings.read().database_url)


def _terms(record: KeyRecord) -> str:
    quota = "no quota" if record.quota is None else f"quota {record.quota} images"
    until = "no expiry" if record.expires_at is None else f"expires {_day(record.expires_at)}"
    return f"{record.prefix} ({record.name}): {quota}, {until}."


def _day(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else None
