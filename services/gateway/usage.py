"""Metering that concurrent calls cannot cheat: images are reserved first and charged when made.

Reserving is one statement, `UPDATE … SET reserved = reserved + n WHERE used + reserved + n <=
quota`, so two calls can never both take the last image. What a crashed gateway had reserved comes
back when its reservation expires.
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

# No object of these tables is kept in a session here, so there is none to bring up to date.
PLAIN = {"synchronize_session": False}


@dataclass(frozen=True)
class Reserved:
    """Images of a key's quota held by one running request."""

    id: str
    key_id: str
    images: int


@dataclass(frozen=True)
class Usage:
    """Where a key stands. `reserved` images are being made now and are not charged yet."""

    quota: int | None
    used: int
    reserved: int

    @property
    def remaining(self) -> int | None:
        """Images that a new call may still ask for; None without a quota."""
        return None if self.quota is None else max(0, self.quota - self.used - self.reserved)


class QuotaExceeded(Refused):
    """The key's quota has no room for the images asked for."""

    def __init__(self, asked: int, usage: Usage) -> None:
        super().__init__(
            f"{asked} image(s) asked, {usage.remaining} left of a quota of {usage.quota} "
            f"({usage.used} delivered, {usage.reserved} being made)."
        )
        self.usage = usage


class Meter:
    """Reserve, settle and release on one database; every method is one short transaction.

    `lifetime` has to be longer than a request may last. A request that outlives it all the same
    is charged only if the quota still has room, so a quota is never exceeded.
    """

    def __init__(self, database: Database, *, lifetime: timedelta, clock: Clock = utc_now) -> None:
        self._database = database
        self._lifetime = lifetime
        self._clock = clock

    def reserve(self, key: KeyRecord, images: int) -> Reserved:
        """Hold `images` of the key's quota; QuotaExceeded or KeyRefused where that cannot be."""
        if images < 1:
            raise ValueError(f"a reservation is of at least one image, not {images}")
        with self._database.write() as session:
            if not _hold(session, key.id, images) and not (
                self._drop_expired(session, key.id) and _hold(session, key.id, images)
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
        """Charge the images as delivered. QuotaExceeded: the reservation expired and its room has
        gone to others, so they must not be delivered."""
        with self._database.write() as session:
            held = _take_back(session, reserved)
            if not held and not _hold(session, reserved.key_id, reserved.images):
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
        """Give the images back: none was delivered. Doing so twice changes nothing."""
        with self._database.write() as session:
            if _take_back(session, reserved):
                _return(session, reserved.key_id, reserved.images)

    def usage(self, key: KeyRecord) -> Usage:
        """Where the key stands, expired reservations not counted. It only looks."""
        expired = (
            select(func.coalesce(func.sum(Reservation.images), 0))
            .where(Reservation.key_id == key.id, Reservation.expires_at <= self._clock())
            .scalar_subquery()
        )
        with self._database.read() as session:
            # one statement, so that both tables are seen at the same moment
            quota, used, reserved = session.execute(
                select(ApiKey.quota, ApiKey.used, ApiKey.reserved - expired).where(
                    ApiKey.id == key.id
                )
            ).one()
        return Usage(quota, used, reserved)

    def _drop_expired(self, session: Session, key_id: str) -> bool:
        """Give back what crashed requests held; whether there was anything."""
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


def _hold(session: Session, key_id: str, images: int) -> bool:
    """Reserve in one statement, which also refuses a key revoked since it was verified."""
    room = or_(ApiKey.quota.is_(None), ApiKey.used + ApiKey.reserved + images <= ApiKey.quota)
    held = session.scalars(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None), room)
        .values(reserved=ApiKey.reserved + images)
        .returning(ApiKey.id)
        .execution_options(**PLAIN)
    )
    return held.one_or_none() is not None


def _lock(session: Session, key_id: str) -> None:
    """Every transaction takes the key's row before reservations: one order, so no deadlock.

    On sqlite a write transaction is alone anyway.
    """
    session.execute(select(ApiKey.id).where(ApiKey.id == key_id).with_for_update())


def _take_back(session: Session, reserved: Reserved) -> bool:
    """Delete the reservation; False where it had expired and was dropped, or was settled."""
    _lock(session, reserved.key_id)
    gone = session.scalars(
        delete(Reservation)
        .where(Reservation.id == reserved.id)
        .returning(Reservation.id)
        .execution_options(**PLAIN)
    )
    return gone.one_or_none() is not None


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
        return KeyRefused("revoked", "this key was revoked; ask the operator for a new one.")
    return QuotaExceeded(images, _usage(session, key_id))
