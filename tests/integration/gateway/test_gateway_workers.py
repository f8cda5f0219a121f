"""Several gateway processes on one port count as one: quota, metrics, and how they end."""

import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from atelier.contract.gateway import GatewayFolder
from services.gateway.keys import KeyStore
from services.triton.process import alive
from tests.gateway import ONE
from tests.integration.gateway.conftest import Gateway, Setting
from tests.integration.gateway.v2 import wait_for

QUOTA, CALLS, WORKERS = 20, 60, 2


@pytest.fixture
def gateway(setting: Setting) -> Gateway:
    """One address, two processes, both at work."""
    setting.stage.load(ONE, 1)
    setting.environment["ATELIER_GATEWAY_WORKERS"] = str(WORKERS)
    (made,) = setting.start()
    reports = GatewayFolder(setting.stage.home.gateways)
    wait_for(lambda: len(reports.list()) == WORKERS, 120)
    return made


def workers_of(setting: Setting) -> set[int]:
    reports = GatewayFolder(setting.stage.home.gateways).list()
    return {int(name.rpartition("-")[2]) for name in reports}


def measured(gateway: Gateway, name: str) -> float:
    """By a connection of its own, so that any worker may answer."""
    text = httpx.get(f"{gateway.http.base_url}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith(f"atelier_gateway_{name}")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_they_share_a_quota_and_add_up_their_metrics(setting: Setting, gateway: Gateway) -> None:
    key, _ = KeyStore(setting.database_url).create("tests", quota=QUOTA)

    def call(_: int) -> int:
        body, headers = {"prompt": "a cat", "seed": 1}, {"X-API-Key": key}
        url = f"{gateway.http.base_url}/generate_image"
        return httpx.post(url, json=body, headers=headers, timeout=120).status_code

    with ThreadPoolExecutor(CALLS) as threads:
        answers = Counter(threads.map(call, range(CALLS)))
    assert answers == {200: QUOTA, 429: CALLS - QUOTA}
    assert gateway.usage(key)["images"] == QUOTA
    for _ in range(8):
        assert measured(gateway, "images_total") == QUOTA
        assert measured(gateway, "quota_rejections_total") == CALLS - QUOTA
    workers = workers_of(setting)
    assert gateway.stop() == 0
    assert not [pid for pid in workers if alive(pid)]
    assert workers_of(setting) == set()


def test_a_killed_one_is_replaced_and_none_outlives_their_keeper(
    setting: Setting, gateway: Gateway
) -> None:
    first = workers_of(setting)
    os.kill(next(iter(first)), signal.SIGKILL)
    wait_for(lambda: len({pid for pid in workers_of(setting) if alive(pid)} - first) == 1, 120)
    assert measured(gateway, "requests_running") >= 1  # this very one; the dead one's are gone
    running = {pid for pid in workers_of(setting) if alive(pid)}
    gateway.process.kill()
    gateway.process.wait(30)
    wait_for(lambda: not [pid for pid in running if alive(pid)], 60)
    assert "Traceback" not in Path(gateway.log).read_text()
