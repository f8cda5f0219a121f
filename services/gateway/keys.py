"""API keys. A key is shown once and stored as a digest.

A key has the form `atl_<id>_<secret>`. The id is public and identifies the row. The secret has 256
random bits, so a plain SHA-256 of the key is as hard to invert as the key is to guess. Every
request looks up its key without a cache, so a revoked or expired key is refused immediately.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import or_, select

from atelier.errors import BadInput, Refused
from services.gateway.database import Database
from services.gateway.tables import ApiKey

PREFIX = "atl"
ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # without l, o, 0 and 1, which look alike
ID_LENGTH = 8
SECRET_BYTES = 32
NAME_LENGTH = 100
# More than the length of any key. Longer texts are refused without hashing.
KEY_LENGTH = 128

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time in UTC, with its zone."""
    return datetime.now(UTC)


class KeyRefused(Refused):
    """The key of a request is missing or invalid; `reason` is stable and part of the API."""

    def __init__(
        self, reason: Literal["missing", "wrong", "expired", "revoked"], text: str
    ) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class KeyRecord:
    """The public data of a key; counts are images."""

    id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    quota: int | None
    used: int
    reserved: int

    @property
    def prefix(self) -> str:
        """The visible beginning of the key, enough to identify it."""
        return f"{PREFIX}_{self.id}"

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        """Return the state of the key at a time. A key that is revoked and expired is `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class KeyStore:
    """The keys in one database. All methods raise DatabaseAway if the database is unavailable."""

    def __init__(self, database: Database | str, *, clock: Clock = utc_now) -> None:
        """Use a database. If it is given as an address, create its schema if there is none."""
        if isinstance(database, str):
            database = Database(database)
            database.prepare()
        self._database = database
        self._clock = clock

    def create(
        self, name: str, *, expires: datetime | None = None, quota: int | None = None
    ) -> tuple[str, KeyRecord]:
        """Create a key, and return it with its record. The key itself is not stored.

        `quota` is in images. Raises BadInput for an invalid name, expiry or quota.
        """
        now = self._clock()
        if not name.strip() or len(name) > NAME_LENGTH or not name.isprintable():
            raise BadInput(f"name {name!r}: must have 1 to {NAME_LENGTH} printable characters")
        if expires is not None and expires <= now:
            raise BadInput(f"expiry {expires.isoformat()}: must be in the future")
        if quota is not None and quota < 1:
            raise BadInput(f"quota {quota}: must be a number of images, at least 1")
        key_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
        key = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
        row = ApiKey(
            id=key_id,
            name=name,
            digest=_digest(key),
            created_at=now,
            expires_at=expires,
            quota=quota,
            used=0,
            reserved=0,
        )
        with self._database.write() as session:
            session.add(row)
        return key, _record(row)

    def list(self) -> list[KeyRecord]:
        """Return all keys, including revoked and expired keys, the oldest first."""
        with self._database.read() as session:
            rows = session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)).all()
            return [_record(row) for row in rows]

    def revoke(self, which: str) -> KeyRecord:
        """Revoke a key by its id, prefix or name. A second call changes nothing.

        Raises BadInput unless exactly one key matches.
        """
        with self._database.write() as session:
            matches = or_(ApiKey.id == which.removeprefix(f"{PREFIX}_"), ApiKey.name == which)
            rows = session.scalars(select(ApiKey).where(matches).with_for_update()).all()
            if not rows:
                raise BadInput(f"key {which!r}: no such key; see `atelier keys list`")
            if len(rows) > 1:
                prefixes = ", ".join(f"{PREFIX}_{row.id}" for row in rows)
                raise BadInput(f"key {which!r}: {len(rows)} keys match; use one of {prefixes}")
            rows[0].revoked_at = rows[0].revoked_at or self._clock()
            return _record(rows[0])

    def verify(self, key: str | None) -> KeyRecord:
        """Return the record of a valid key. Raises KeyRefused with the reason for any other key.

        The reasons `expired` and `revoked` are given only if the secret is correct.
        """
        if not key:
            raise KeyRefused("missing", "API key: missing; send it as X-API-Key or as Bearer")
        row = self._find(key)
        stored = row.digest if row is not None else bytes(hashlib.sha256().digest_size)
        if not hmac.compare_digest(stored, _digest(key)) or row is None:
            raise KeyRefused("wrong", "API key: unknown; check it, or ask the operator for one")
        record = _record(row)
        state = record.state(self._clock())
        if state != "active":
            moment = record.revoked_at or record.expires_at
            since = f" on {moment:%Y-%m-%d at %H:%M UTC}" if moment else ""
            verb = "was revoked" if state == "revoked" else "expired"
            raise KeyRefused(state, f"API key: {verb}{since}; ask the operator for a new one")
        return record

    def ping(self) -> None:
        """Check the database with a short query. Raises DatabaseAway if it is unavailable."""
        with self._database.read() as session:
            session.execute(select(ApiKey.id).limit(1))

    def _find(self, key: str) -> ApiKey | None:
        parts = key.split("_", 2) if len(key) <= KEY_LENGTH and key.isascii() else []
        if len(parts) != 3 or parts[0] != PREFIX or not parts[1].isalnum():
            return None
        with self._database.read() as session:
            return session.get(ApiKey, parts[1])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _record(row: ApiKey) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        quota=row.quota,
        used=row.used,
        reserved=row.reserved,
    )
