"""How much memory a gateway takes while it answers calls for large pictures.

    python -m bench.gateway --calls 4
    python -m bench.gateway --calls 2 --side 1024 --images 1

Starts a gateway before engines of a page that answer with noise, the worst case for PNG, sends the
calls at the same moment and reports the highest resident memory of the gateway's process
(`VmHWM`), for `/generate_image` and for both forms of `/v2`.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from atelier.contract.replica import Replica, ReplicaFolder
from services.gateway.keys import KeyStore
from tests.gateway import BASE
from tests.integration.gateway.conftest import Gateway, Setting
from tests.integration.gateway.v2http import V2HttpServer

MIB = 2**20
TOGETHER = 5.0  # seconds in which the calls that an engine gets at once have come
SECONDS = 900.0


def noise(shape: tuple[int, ...], _: int = 0) -> NDArray[np.uint8]:
    """Pixels that cannot be compressed; the same array for every call."""
    if shape not in _MADE:
        _MADE[shape] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return _MADE[shape]


_MADE: dict[tuple[int, ...], NDArray[np.uint8]] = {}


class Together:
    """Holds calls back until `count` of them are there, or some seconds have passed."""

    def __init__(self, count: int):
        self._barrier = threading.Barrier(count)

    def __call__(self, _: Any) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            self._barrier.wait(TOGETHER)


def memory(pid: int, name: str) -> int:
    """Bytes that the kernel counts for a process, by the name in /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(found) * 1024


def measure(gateway: Gateway, calls: int, ask: Callable[[httpx.Client], Counter[str]]) -> Any:
    """Statuses, bytes received, seconds, and the process's memory before and at its highest."""
    pid = gateway.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
    before, began = memory(pid, "VmRSS"), time.monotonic()
    with (
        httpx.Client(base_url=gateway.http.base_url, timeout=SECONDS) as http,
        ThreadPoolExecutor(calls) as threads,
    ):
        found = list(threads.map(lambda _: ask(http), range(calls)))
    return {
        "answers": dict(sum(found, Counter())),
        "seconds": round(time.monotonic() - began, 1),
        "before_mib": before // MIB,
        "highest_mib": memory(pid, "VmHWM") // MIB,
    }


def received(http: httpx.Client, path: str, **given: Any) -> Counter[str]:
    """One call, its body read and dropped piece by piece."""
    with http.stream("POST", path, **given) as response:
        size = sum(len(piece) for piece in response.iter_raw())
    return Counter({f"HTTP {response.status_code}": 1, "bytes": size})


def v2_body(images: int, side: int, *, binary: bool) -> dict[str, Any]:
    """An infer call whose inputs are JSON."""
    numbers = {"IMAGES": images, "WIDTH": side, "HEIGHT": side, "STEPS": 1}
    inputs: list[dict[str, Any]] = [
        {"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["a cat"]}
    ]
    inputs += [
        {"name": name, "datatype": "INT32", "shape": [1], "data": [value]}
        for name, value in numbers.items()
    ]
    return {"inputs": inputs, "parameters": {"binary_data_output": binary}}


Way = Callable[[httpx.Client, str], Counter[str]]  # one call with a key


def ways(images: int, side: int) -> dict[str, Way]:
    """How a client may ask; V2's JSON only for small calls: it takes the engine of a page GiB."""
    generate = {"prompt": "a cat", "images": images, "width": side, "height": side, "steps": 1}

    def by_v2(http: httpx.Client, key: str, *, binary: bool) -> Counter[str]:
        body = v2_body(images, side, binary=binary)
        path = "/v2/models/atelier/infer"
        return received(http, path, json=body, headers={"X-API-Key": key})

    found: dict[str, Way] = {
        "generate_image": lambda http, key: received(
            http, "/generate_image", json=generate, headers={"X-API-Key": key}
        ),
        "v2 binary": lambda http, key: by_v2(http, key, binary=True),
    }
    if images * side * side <= 8 * MIB:
        found["v2 JSON"] = lambda http, key: by_v2(http, key, binary=False)
    return found


def run(root: Path, calls: int, way: Way, environment: dict[str, str]) -> Any:
    """One measurement, of a gateway of its own: freed memory may stay with a process."""
    root.mkdir()
    setting = Setting(root, **environment)
    setting.v2.paint, setting.v2.on_call = noise, Together(calls)
    engine = V2HttpServer(paint=noise, on_call=Together(calls))
    told = Replica(
        replica="one",
        base=BASE,
        backend="painted",
        engine_digest="e",
        heartbeat=time.time() + SECONDS,  # nobody renews it
        address=engine.address,
        grpc=f"127.0.0.1:{setting.v2.port}",
    )
    ReplicaFolder(setting.stage.home.replicas).put(told)
    try:
        (gateway,) = setting.start()
        key, _ = KeyStore(setting.database_url).create("bench")
        return measure(gateway, calls, lambda http: way(http, key))
    finally:
        setting.close()
        engine.stop()


def main() -> None:
    """Measure and print JSON."""
    options = argparse.ArgumentParser(prog="bench.gateway", description=__doc__.splitlines()[0])
    options.add_argument("--calls", type=int, default=4, help="at the same moment")
    options.add_argument("--images", type=int, default=8, help="of each call")
    options.add_argument("--side", type=int, default=2048, help="pixels")
    options.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings")
    chosen = options.parse_args()
    pairs = [one.partition("=") for one in chosen.set]
    environment = {f"ATELIER_GATEWAY_{name}": value for name, _, value in pairs}
    found: dict[str, Any] = {
        "calls": chosen.calls,
        "images": chosen.images,
        "side": chosen.side,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    with tempfile.TemporaryDirectory() as aside:
        for name, way in ways(chosen.images, chosen.side).items():
            found[name] = run(Path(aside) / name, chosen.calls, way, environment)
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
