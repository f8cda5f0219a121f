"""Meter images: reserve them before the engine is called, and charge them when they are ready.

A reservation is one statement, `UPDATE … SET reserved = reserved + n WHERE used + reserved + n <=
quota`, so two concurrent calls cannot both reserve the last image. The reservations of a crashed
gateway expire.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from atelier.errors import Refused
from services.gateway.database import Database
from services.gateway.keys import Clock, KeyRecord, KeyRefused, utc_now
from services.gateway.tables import ApiKey, Reservation

# The sessions of this module contain no objects of the tables, so nothing must be synchronized.
PLAIN = {"synchronize_session": False}


@dataclass(frozen=True)
class Reserved:
    """The images that one in-flight request has reserved of the quota of its key."""

    id: str
    key_id: str
    images: int


@dataclass(frozen=True)
class Usage:
    """The usage of a key, in images. `reserved` images are in progress and not charged yet."""

    quota: int | None
    used: int
    reserved: int

    @property
    def remaining(self) -> int | None:
        """The number of images that a new request may have; None if the key has no quota."""
        return None if self.quota is None else max(0, self.quota - self.used - self.reserved)


class QuotaExceeded(Refused):
    """The requested images exceed the key's quota."""

    def __init__(self, images: int, usage: Usage) -> None:
        super().__init__(
            f"{images} image(s) requested, but {usage.remaining} left of a quota of {usage.quota} "
            f"({usage.used} delivered, {usage.reserved} in progress); request fewer, or ask the "
            "operator for a larger quota"
        )
        self.usage = usage


class Meter:
    """Reserve, settle and release images in one database. Each method is one short transaction.

    `lifetime` is in seconds and must be longer than a request may take. If a reservation expires
    before its request is charged, the request is charged only if the quota still suffices, so a
    quota is never exceeded. All methods raise DatabaseAway if the database is unavailable.
    """

    def __init__(self, database: Database, *, lifetime: timedelta, clock: Clock = utc_now) -> None:
        self._database = database
        self._lifetime = lifetime
        self._clock = clock

    def reserve(self, key: KeyRecord, images: int) -> Reserved:
        """Reserve `images` of the key's quota.

        Raises QuotaExceeded, KeyRefused if the key was revoked, and ValueError if `images` is less
        than 1.
        """
        if images < 1:
            raise ValueError(f"a reservation needs at least one image, not {images}")
        with self._database.write() as session:
            if not _reserve(session, key.id, images) and not (
                self._drop_expired(session, key.id) and _reserve(session, key.id, images)
            ):
                raise _refusal(session, key.id, images)
            reserved = Reserved(uuid.uuid4().hex, key.id, images)
            session.add(
                Reservation(
                    id=reserved.id,
                    key_id=key.id,
                    images=images,
                    expires_at=self._clock() + self._lifetime,
                )
            )
        return reserved

    def settle(self, reserved: Reserved) -> None:
        """Charge the reserved images as delivered.

        If the reservation has expired, the images are first reserved again. If this fails,
        QuotaExceeded or KeyRefused is raised, and the images must not be delivered.
        """
        with self._database.write() as session:
            valid = _delete(session, reserved)
            if not valid and not _reserve(session, reserved.key_id, reserved.images):
                raise _refusal(session, reserved.key_id, reserved.images)
            session.execute(
                update(ApiKey)
                .where(ApiKey.id == reserved.key_id)
                .values(
                    reserved=ApiKey.reserved - reserved.images,
                    used=ApiKey.used + reserved.images,
                )
                .execution_options(**PLAIN)
            )

    def release(self, reserved: Reserved) -> None:
        """Return the images to the quota without a charge. A second call changes nothing."""
        with self._database.write() as session:
            if _delete(session, reserved):
                _return(session, reserved.key_id, reserved.images)

    def usage(self, key: KeyRecord) -> Usage:
        """Read the usage of a key, without expired reservations."""
        expired = (
            select(func.coalesce(func.sum(Reservation.images), 0))
            .where(Reservation.key_id == key.id, Reservation.expires_at <= self._clock())
            .scalar_subquery()
        )
        with self._database.read() as session:
            # one statement, so that both tables are read in the same state
            quota, used, reserved = session.execute(
                select(ApiKey.quota, ApiKey.used, ApiKey.reserved - expired).where(
                    ApiKey.id == key.id
                )
            ).one()
        return Usage(quota, used, reserved)

    def _drop_expired(self, session: Session, key_id: str) -> bool:
        """Release the key's expired reservations; return whether there were any."""
        _lock(session, key_id)
        expired: Sequence[int] = session.scalars(
            delete(Reservation)
            .where(Reservation.key_id == key_id, Reservation.expires_at <= self._clock())
            .returning(Reservation.images)
            .execution_options(**PLAIN)
        ).all()
        if expired:
            _return(session, key_id, sum(expired))
        return bool(expired)


def _reserve(session: Session, key_id: str, images: int) -> bool:
    """Reserve images in one statement. Return whether this succeeded.

    It fails if the images exceed the quota, or if the key was revoked in the meantime.
    """
    room = or_(ApiKey.quota.is_(None), ApiKey.used + ApiKey.reserved + images <= ApiKey.quota)
    updated = session.scalars(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None), room)
        .values(reserved=ApiKey.reserved + images)
        .returning(ApiKey.id)
        .execution_options(**PLAIN)
    )
    return updated.one_or_none() is not None


def _lock(session: Session, key_id: str) -> None:
    """Lock the row of the key.

    All transactions lock it before they change reservations, so they cannot deadlock. SQLite needs
    no lock, because it has only one writer at a time.
    """
    session.execute(select(ApiKey.id).where(ApiKey.id == key_id).with_for_update())


def _delete(session: Session, reserved: Reserved) -> bool:
    """Delete a reservation. Return False if it has expired and was dropped, or was settled."""
    _lock(session, reserved.key_id)
    deleted = session.scalars(
        delete(Reservation)
        .where(Reservation.id == reserved.id)
        .returning(Reservation.id)
        .execution_options(**PLAIN)
    )
    return deleted.one_or_none() is not None


def _return(session: Session, key_id: str, images: int) -> None:
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id)
        .values(reserved=ApiKey.reserved - images)
        .execution_options(**PLAIN)
    )


def _usage(session: Session, key_id: str) -> Usage:
    quota, used, reserved = session.execute(
        select(ApiKey.quota, ApiKey.used, ApiKey.reserved).where(ApiKey.id == key_id)
    ).one()
    return Usage(quota, used, reserved)


def _refusal(session: Session, key_id: str, images: int) -> Refused:
    revoked = session.scalar(select(ApiKey.revoked_at).where(ApiKey.id == key_id))
    if revoked is not None:
        return KeyRefused("revoked", "API key: was revoked; ask the operator for a new one")
    return QuotaExceeded(images, _usage(session, key_id))
