"""API keys: made once, shown once, kept as digests, looked up at every call.

A key reads `atl_<id>_<secret>`. The id is public and names the row; the secret has 256 random bits,
so a plain SHA-256 of the key is as hard to turn back as the key is to guess. Nothing is cached: a
revoked or expired key is refused from the next call on.
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
ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # nothing that is read as something else
ID_LENGTH = 8
SECRET_BYTES = 32
NAME_LENGTH = 100
# Longer than any key: what is longer is refused before it is hashed.
KEY_LENGTH = 128

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


class KeyRefused(Refused):
    """A call without a key that works; `reason` is stable and part of the API."""

    def __init__(
        self, reason: Literal["missing", "wrong", "expired", "revoked"], text: str
    ) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class KeyRecord:
    """What may be shown of a key."""

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
        """The visible beginning of the key, enough to recognise it."""
        return f"{PREFIX}_{self.id}"

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class KeyStore:
    """The keys of one database."""

    def __init__(self, database: Database | str, *, clock: Clock = utc_now) -> None:
        """`database` given as an address is opened and its schema made ready."""
        if isinstance(database, str):
            database = Database(database)
            database.prepare()
        self._database = database
        self._clock = clock

    def create(
        self, name: str, *, expires: datetime | None = None, quota: int | None = None
    ) -> tuple[str, KeyRecord]:
        """A new key in plain text, which nobody can show again, and its record."""
        now = self._clock()
        if not name.strip() or len(name) > NAME_LENGTH or not name.isprintable():
            raise BadInput(f"a key's name needs 1 to {NAME_LENGTH} printable characters: {name!r}")
        if expires is not None and expires <= now:
            raise BadInput(f"the expiry {expires.isoformat()} is not in the future")
        if quota is not None and quota < 1:
            raise BadInput(f"a quota is a number of images, at least 1, not {quota}")
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
        """Every key ever made, the oldest first."""
        with self._database.read() as session:
            rows = session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)).all()
            return [_record(row) for row in rows]

    def revoke(self, which: str) -> KeyRecord:
        """End a key named by its id, its prefix or its name; ending it twice changes nothing."""
        with self._database.write() as session:
            wanted = or_(ApiKey.id == which.removeprefix(f"{PREFIX}_"), ApiKey.name == which)
            rows = session.scalars(select(ApiKey).where(wanted).with_for_update()).all()
            if not rows:
                raise BadInput(f"no key is called {which!r}: `atelier keys list` shows them")
            if len(rows) > 1:
                named = ", ".join(f"{PREFIX}_{row.id}" for row in rows)
                raise BadInput(f"{len(rows)} keys are called {which!r}: say which of {named}")
            rows[0].revoked_at = rows[0].revoked_at or self._clock()
            return _record(rows[0])

    def verify(self, key: str | None) -> KeyRecord:
        """The record of a key that works now; KeyRefused says why it does not.

        Whether a key expired or was revoked is told only to who holds the whole of it.
        """
        if not key:
            raise KeyRefused("missing", "this call needs a key: send it as X-API-Key or as Bearer.")
        row = self._find(key)
        known = row.digest if row is not None else bytes(hashlib.sha256().digest_size)
        if not hmac.compare_digest(known, _digest(key)) or row is None:
            raise KeyRefused("wrong", "this key is not known here.")
        record = _record(row)
        state = record.state(self._clock())
        if state != "active":
            moment = record.revoked_at or record.expires_at
            since = f" on {moment:%Y-%m-%d at %H:%M UTC}" if moment else ""
            verb = "was revoked" if state == "revoked" else "expired"
            raise KeyRefused(state, f"this key {verb}{since}; ask the operator for a new one.")
        return record

    def ping(self) -> None:
        """Look at the table, to know that the database answers; DatabaseAway if not."""
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
