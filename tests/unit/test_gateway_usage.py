"""Metering: whatever calls do at the same time, the quota holds and every image is counted once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway.database import Database
from services.gateway.keys import KeyRecord, KeyRefused, KeyStore, utc_now
from services.gateway.usage import Meter, QuotaExceeded, Usage

LIFETIME = timedelta(minutes=5)


@dataclass
class Bench:
    """A database with one key, and a clock that can be moved."""

    database: Database
    later: timedelta = timedelta()
    key: KeyRecord = field(init=False)
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.database.prepare()
        self.meter = Meter(self.database, lifetime=LIFETIME, clock=lambda: utc_now() + self.later)

    def with_quota(self, quota: int | None) -> "Bench":
        _, self.key = KeyStore(self.database).create("bench", quota=quota)
        return self

    def usage(self) -> Usage:
        return self.meter.usage(self.key)


@pytest.fixture
def make_bench(tmp_path: Path) -> Callable[[int | None], Bench]:
    bench = Bench(Database(f"sqlite:///{tmp_path / 'usage.db'}"))
    return bench.with_quota


def test_images_are_charged_when_settled(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(5)
    held = bench.meter.reserve(bench.key, 3)
    assert bench.usage() == Usage(5, used=0, reserved=3)
    bench.meter.settle(held)
    assert bench.usage() == Usage(5, used=3, reserved=0)
    assert bench.usage().remaining == 2


def test_a_failed_call_costs_nothing(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(1)
    held = bench.meter.reserve(bench.key, 1)
    bench.meter.release(held)
    bench.meter.release(held)  # twice gives back once
    assert bench.usage() == Usage(1, used=0, reserved=0)


def test_what_is_being_made_counts_against_the_quota(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(4)
    bench.meter.reserve(bench.key, 3)
    with pytest.raises(QuotaExceeded, match=r"2 image\(s\) requested, but 1 left of a quota of 4"):
        bench.meter.reserve(bench.key, 2)
    bench.meter.reserve(bench.key, 1)


def test_without_quota_usage_is_counted_all_the_same(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(None)
    for _ in range(3):
        bench.meter.settle(bench.meter.reserve(bench.key, 8))
    assert bench.usage() == Usage(None, used=24, reserved=0)
    assert bench.usage().remaining is None


def test_a_crashed_reservation_comes_back_when_it_expires(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(2)
    bench.meter.reserve(bench.key, 2)  # and its gateway dies
    bench.later = LIFETIME - timedelta(seconds=1)
    with pytest.raises(QuotaExceeded):
        bench.meter.reserve(bench.key, 1)
    bench.later = LIFETIME + timedelta(seconds=1)
    assert bench.usage().remaining == 2
    bench.meter.settle(bench.meter.reserve(bench.key, 2))
    assert bench.usage() == Usage(2, used=2, reserved=0)


def test_a_late_settlement_is_charged_if_there_is_room_and_refused_if_not(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(2)
    slow = bench.meter.reserve(bench.key, 1)
    slower = bench.meter.reserve(bench.key, 1)
    bench.later = LIFETIME + timedelta(seconds=1)
    quick = bench.meter.reserve(bench.key, 1)
    bench.meter.settle(slow)
    with pytest.raises(QuotaExceeded):
        bench.meter.settle(slower)
    bench.meter.settle(quick)
    assert bench.usage() == Usage(2, used=2, reserved=0)


def test_a_key_revoked_after_its_check_reserves_nothing(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(None)
    running = bench.meter.reserve(bench.key, 1)
    KeyStore(bench.database).revoke(bench.key.id)
    with pytest.raises(KeyRefused, match="revoked"):
        bench.meter.reserve(bench.key, 1)
    bench.meter.settle(running)  # what ran already is finished and charged
    assert bench.usage().used == 1


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    quota=st.integers(1, 12),
    calls=st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from(["settle", "release", "crash"])),
        min_size=2,
        max_size=14,
    ),
)
def test_concurrent_calls_never_pass_the_quota(
    make_bench: Callable[..., Bench], quota: int, calls: list[tuple[int, str]]
) -> None:
    bench = make_bench(quota)
    delivered, crashed = [], []
    lock = threading.Lock()

    def call(images: int, end: str) -> None:
        try:
            held = bench.meter.reserve(bench.key, images)
        except QuotaExceeded:
            return
        if end == "settle":
            bench.meter.settle(held)
        elif end == "release":
            bench.meter.release(held)
        with lock:
            {"settle": delivered, "crash": crashed}.get(end, []).append(images)

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(call, *one) for one in calls]:
            future.result()
    usage = bench.usage()
    assert (usage.used, usage.reserved) == (sum(delivered), sum(crashed))
    assert usage.used + usage.reserved <= quota
    bench.later = 2 * LIFETIME
    assert bench.usage() == Usage(quota, used=sum(delivered), reserved=0)
    bench.later = timedelta()
