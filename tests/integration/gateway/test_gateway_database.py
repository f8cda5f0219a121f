"""Keys and metering on sqlite and on a real PostgreSQL, by gateways that work at the same time."""

import random
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import psycopg
from sqlalchemy import select

from services.gateway.database import Database
from services.gateway.keys import KeyStore, utc_now
from services.gateway.tables import SCHEMA_VERSION, SchemaVersion
from services.gateway.usage import Meter, QuotaExceeded, Usage
from tests.integration.gateway.conftest import Gateway, Setting, empty_database, run_gateway
from tests.integration.gateway.v2 import Call, wait_for

LIFETIME = timedelta(minutes=5)


def fail_some(call: Call) -> None:
    if call.prompt == "fail":
        call.fail(grpc.StatusCode.UNAVAILABLE, "the queue is full (retry after 1.0 s)")


def test_two_gateways_start_at_once_and_share_a_quota(
    stored: Setting,
) -> None:
    """64 calls by 16 threads at both; a third of them fail in the engine."""
    stored.v2.on_call = fail_some
    gateways = stored.start(2)
    database = Database(stored.database_url)
    with database.read() as session:
        assert session.scalars(select(SchemaVersion.version)).all() == [SCHEMA_VERSION]
    store = KeyStore(database)
    key, record = store.create("shared", quota=20)

    def call(index: int) -> int:
        prompt = "fail" if index % 3 == 0 else "a cat"
        return gateways[index % 2].make(key, prompt=prompt).status_code

    with ThreadPoolExecutor(16) as threads:
        statuses = Counter(threads.map(call, range(64)))
    assert set(statuses) == {200, 429, 503}
    assert statuses[200] <= 20
    for gateway in gateways:
        assert gateway.usage(key)["images"] == statuses[200]
    # a failing call held a place for a moment, so others may have been refused: no place is lost
    while (status := gateways[0].make(key).status_code) == 200:
        statuses[200] += 1
    assert (status, statuses[200]) == (429, 20)
    for gateway in gateways:
        usage = gateway.usage(key)
        assert (usage["images"], usage["in_progress"], usage["remaining"]) == (20, 0, 0)
    store.revoke(record.id)
    for gateway in gateways:
        assert gateway.make(key).json()["type"] == "urn:atelier:problem:key-revoked"
    database.close()


def test_reserving_settling_and_expiring_at_the_same_time(database_url: str) -> None:
    """Eight threads, reservations that expire under them: no deadlock, and never over the quota."""
    database = Database(database_url)
    database.prepare()
    _, record = KeyStore(database).create("busy", quota=60)
    late = [timedelta()]
    meter = Meter(database, lifetime=LIFETIME, clock=lambda: utc_now() + late[0])
    delivered: list[int] = []
    lock = threading.Lock()

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(12):
            images = draw.randint(1, 3)
            try:
                held = meter.reserve(record, images)
                if draw.random() < 0.2:
                    late[0] += 2 * LIFETIME  # every reservation of that moment expires
                if draw.random() < 0.6:
                    meter.settle(held)
                    with lock:
                        delivered.append(images)
                elif draw.random() < 0.5:
                    meter.release(held)
            except QuotaExceeded:
                continue

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    late[0] += 2 * LIFETIME
    assert meter.usage(record) == Usage(60, used=sum(delivered), reserved=0)
    assert sum(delivered) <= 60
    database.close()


def test_a_killed_gateway_leaves_a_reservation_that_expires(setting: Setting) -> None:
    v2, forever = setting.v2, threading.Event()
    v2.on_call = lambda call: forever.wait(30) and None
    (gateway,) = setting.start()
    database = Database(setting.database_url)
    key, record = KeyStore(database).create("victim", quota=2)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(gateway.make, key, images=2)
        wait_for(lambda: bool(v2.calls))
        gateway.process.send_signal(signal.SIGKILL)
        assert call.exception() is not None
    forever.set()
    soon = Meter(database, lifetime=LIFETIME)
    assert soon.usage(record) == Usage(2, used=0, reserved=2)
    hours = Meter(database, lifetime=LIFETIME, clock=lambda: utc_now() + timedelta(hours=3))
    assert hours.usage(record) == Usage(2, used=0, reserved=0)
    database.close()


def test_a_database_that_goes_away_is_a_503_until_it_is_back(postgres: str, tmp_path: Path) -> None:
    url = empty_database(postgres)
    setting = Setting(tmp_path, url)
    (gateway,) = setting.start()
    key, _ = KeyStore(url).create("tests")
    assert gateway.make(key).status_code == 200
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        response = gateway.make(key)
        assert response.status_code == 503 and response.headers["retry-after"] == "1"
        assert response.json()["type"] == "urn:atelier:problem:database-away"
        assert gateway.http.get("/readyz").json()["checks"]["database"] is False
        assert gateway.http.get("/healthz").status_code == 200
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert gateway.make(key).status_code == 200
    setting.close()


def test_a_pod_waits_for_its_database(postgres: str, tmp_path: Path) -> None:
    """Until it is there, or the pod is told to end; what follows needs a cluster."""
    url = empty_database(postgres)
    name = url.partition("?")[0].rpartition("/")[2]
    pod = {
        "ATELIER_HOME": str(tmp_path),
        "ATELIER_DATABASE_URL": url,
        "ATELIER_GATEWAY_KUBERNETES": "1",
    }
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        gateways = [Gateway(tmp_path, **pod) for _ in range(2)]
        wait_for(lambda: all("(again in 5 s)" in one.log.read_text() for one in gateways), 120)
        assert gateways[0].stop() == 0
        assert gateways[1].process.poll() is None
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    gateways[1].process.wait(60)
    database = Database(url)
    with database.read() as session:
        assert session.scalars(select(SchemaVersion.version)).all() == [SCHEMA_VERSION]
    database.close()
    gateways[1].stop()


def test_a_database_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    url = "postgresql://atelier:hunter2@127.0.0.1:1/atelier"
    ended = run_gateway(ATELIER_HOME=str(tmp_path), ATELIER_DATABASE_URL=url)
    assert ended.returncode == 3
    assert "database postgresql+psycopg://***@127.0.0.1:1/atelier: unavailable: " in ended.stderr
    assert "Traceback" not in ended.stderr and "hunter2" not in ended.stderr
