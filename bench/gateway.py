"""Measure the memory of a gateway during calls for large pictures.

    python -m bench.gateway --calls 4
    python -m bench.gateway --calls 2 --side 1024 --images 1

Starts a gateway with simulated engines that return noise, which is the worst case for PNG. Sends
the calls at the same time and prints the peak resident memory of the gateway's process (`VmHWM`),
for `/generate_image` and for both forms of `/v2`.
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
TOGETHER = 5.0  # seconds in which all simultaneous calls reach an engine
SECONDS = 900.0  # timeout of a call


def noise(shape: tuple[int, ...], _: int = 0) -> NDArray[np.uint8]:
    """Return pixels that cannot be compressed; every call gets the same array."""
    if shape not in _NOISE:
        _NOISE[shape] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return _NOISE[shape]


_NOISE: dict[tuple[int, ...], NDArray[np.uint8]] = {}


class Together:
    """Delays calls until `count` of them have arrived, or until TOGETHER seconds have passed."""

    def __init__(self, count: int):
        self._barrier = threading.Barrier(count)

    def __call__(self, _: Any) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            self._barrier.wait(TOGETHER)


def memory(pid: int, name: str) -> int:
    """Return the bytes in the field `name` of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kibibytes) * 1024


def measure(gateway: Gateway, calls: int, ask: Callable[[httpx.Client], Counter[str]]) -> Any:
    """Send simultaneous calls; return the statuses, bytes, seconds, and initial and peak memory."""
    pid = gateway.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets VmHWM
    before, began = memory(pid, "VmRSS"), time.monotonic()
    with (
        httpx.Client(base_url=gateway.http.base_url, timeout=SECONDS) as http,
        ThreadPoolExecutor(calls) as threads,
    ):
        counts = list(threads.map(lambda _: ask(http), range(calls)))
    return {
        "answers": dict(sum(counts, Counter())),
        "seconds": round(time.monotonic() - began, 1),
        "before_mib": before // MIB,
        "highest_mib": memory(pid, "VmHWM") // MIB,
    }


def received(http: httpx.Client, path: str, **options: Any) -> Counter[str]:
    """Send one call and discard its body in pieces; return its status and its number of bytes."""
    with http.stream("POST", path, **options) as response:
        size = sum(len(piece) for piece in response.iter_raw())
    return Counter({f"HTTP {response.status_code}": 1, "bytes": size})


def v2_body(images: int, side: int, *, binary: bool) -> dict[str, Any]:
    """Return the body of an infer call with JSON inputs."""
    numbers = {"IMAGES": images, "WIDTH": side, "HEIGHT": side, "STEPS": 1}
    inputs: list[dict[str, Any]] = [
        {"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["a cat"]}
    ]
    inputs += [
        {"name": name, "datatype": "INT32", "shape": [1], "data": [value]}
        for name, value in numbers.items()
    ]
    return {"inputs": inputs, "parameters": {"binary_data_output": binary}}


Way = Callable[[httpx.Client, str], Counter[str]]  # sends one call with a key


def ways(images: int, side: int) -> dict[str, Way]:
    """Return the forms of a call by name.

    V2 with JSON outputs is for small calls only, because it needs GiB in the simulated engine.
    """
    generate = {"prompt": "a cat", "images": images, "width": side, "height": side, "steps": 1}

    def by_v2(http: httpx.Client, key: str, *, binary: bool) -> Counter[str]:
        body = v2_body(images, side, binary=binary)
        path = "/v2/models/atelier/infer"
        return received(http, path, json=body, headers={"X-API-Key": key})

    forms: dict[str, Way] = {
        "generate_image": lambda http, key: received(
            http, "/generate_image", json=generate, headers={"X-API-Key": key}
        ),
        "v2 binary": lambda http, key: by_v2(http, key, binary=True),
    }
    if images * side * side <= 8 * MIB:
        forms["v2 JSON"] = lambda http, key: by_v2(http, key, binary=False)
    return forms


def run(root: Path, calls: int, way: Way, environment: dict[str, str]) -> Any:
    """Measure one form of call with a new gateway, because a process may not return memory."""
    root.mkdir()
    setting = Setting(root, **environment)
    setting.v2.paint, setting.v2.on_call = noise, Together(calls)
    engine = V2HttpServer(paint=noise, on_call=Together(calls))
    report = Replica(
        replica="one",
        base=BASE,
        backend="painted",
        engine_digest="e",
        heartbeat=time.time() + SECONDS,  # stays valid without a renewal
        address=engine.address,
        grpc=f"127.0.0.1:{setting.v2.port}",
    )
    ReplicaFolder(setting.stage.home.replicas).put(report)
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
    options.add_argument("--calls", type=int, default=4, help="simultaneous calls")
    options.add_argument("--images", type=int, default=8, help="images in each call")
    options.add_argument("--side", type=int, default=2048, help="side of an image in pixels")
    options.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings")
    chosen = options.parse_args()
    pairs = [setting.partition("=") for setting in chosen.set]
    environment = {f"ATELIER_GATEWAY_{name}": value for name, _, value in pairs}
    results: dict[str, Any] = {
        "calls": chosen.calls,
        "images": chosen.images,
        "side": chosen.side,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    with tempfile.TemporaryDirectory() as aside:
        for name, way in ways(chosen.images, chosen.side).items():
            results[name] = run(Path(aside) / name, chosen.calls, way, environment)
    json.dump(results, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
