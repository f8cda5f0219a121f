"""How long a swap takes while requests keep coming, beside what diffusers takes to change a LoRA.

    python -m bench.swap --base models/miniature
    python -m bench.swap --base models/miniature --packages runs/thor/1/package runs/thor/2/package

Starts `atelier serve` in a home of its own, keeps it busy over gRPC, and moves one adapter's
release to and fro. The first swap fetches the package from the registry, the later ones find it at
hand. A swap ends with the first picture whose answer names the new digest.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from atelier.adapter.package import ADAPTER, Package
from atelier.data.release import Pin
from tests.integration.stack import ServedStack
from tests.tiny import tiny_adapter, tiny_base


@dataclass(frozen=True)
class Answer:
    """One answered request; times are seconds of the monotonic clock."""

    sent: float
    done: float
    digest: str

    @property
    def seconds(self) -> float:
        """From sending to answer."""
        return self.done - self.sent


class Load:
    """Clients that ask again as soon as they are answered."""

    def __init__(self, stack: ServedStack, name: str, *, clients: int, steps: int):
        self._stack, self._name, self._clients, self._steps = stack, name, clients, steps
        self._ended = threading.Event()
        self.answers: list[Answer] = []
        self.failures: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask in the background."""
        with ThreadPoolExecutor(self._clients) as threads:
            for number in range(self._clients):
                threads.submit(self._ask, number)
            try:
                yield
            finally:
                self._ended.set()

    def first_of(self, digest: str, since: float, *, timeout: float = 300.0) -> float:
        """When the first answer by `digest` came after `since`."""
        while time.monotonic() - since < timeout:
            for answer in reversed(self.answers[-200:]):
                if answer.digest == digest and answer.sent >= since:
                    found = [a.done for a in self.answers if a.digest == digest and a.done > since]
                    return min(found)
            time.sleep(0.005)
        raise SystemExit(f"no answer by {digest} in {timeout:.0f} s; failures: {self.failures[:3]}")

    def _ask(self, number: int) -> None:
        seed = number * 1_000_000
        while not self._ended.is_set():
            seed += 1
            sent = time.monotonic()
            try:
                picture = self._stack.grpc(
                    prompt="a cat on the beach",
                    seed=seed,
                    steps=self._steps,
                    adapters=[{"name": self._name}],
                )
            except Exception as error:
                self.failures.append(repr(error))
            else:
                self.answers.append(Answer(sent, time.monotonic(), picture.digest))


def measure(
    stack: ServedStack, pins: tuple[Pin, Pin], name: str, *, clients: int, steps: int, swaps: int
) -> dict[str, object]:
    """Swap seconds (the first with its fetch), and latencies near swaps and away from them."""
    stack.release(name, pins[0])
    load = Load(stack, name, clients=clients, steps=steps)
    times: list[tuple[float, float]] = []  # when a swap began, how long it took
    with load.running():
        load.first_of(pins[0].digest, time.monotonic())
        time.sleep(3.0)
        for number in range(swaps):
            pin = pins[(number + 1) % 2]
            began = time.monotonic()
            stack.release(name, pin, wait=False)
            times.append((began, load.first_of(pin.digest, began) - began))
            time.sleep(3.0)
    near = [a.seconds for a in load.answers if any(b <= a.done <= b + d + 0.5 for b, d in times)]
    away = [a.seconds for a in load.answers if a.seconds not in set(near)]
    seconds = [took for _, took in times]
    return {
        "first_swap_seconds": seconds[0],
        "later_swap_seconds": seconds[1:],
        "later_swap_median": statistics.median(seconds[1:]) if swaps > 1 else None,
        "requests": len(load.answers),
        "failures": load.failures,
        "latency_near_swaps": quantiles(near),
        "latency_away": quantiles(away),
    }


def diffusers_baseline(base: Path, packages: tuple[Package, Package], rounds: int) -> list[float]:
    """Seconds in which a diffusers pipeline, idle, drops one LoRA and loads the other."""
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    taken = []
    for number in range(rounds + 1):
        began = time.monotonic()
        pipeline.unload_lora_weights()
        pipeline.load_lora_weights(packages[number % 2].path, weight_name=ADAPTER)
        taken.append(time.monotonic() - began)
    return taken[1:]  # the first one imports


def quantiles(values: list[float]) -> dict[str, float]:
    """Median and 95th percentile, in seconds."""
    if len(values) < 2:
        return {"count": len(values)}
    cuts = statistics.quantiles(values, n=20)
    return {"count": len(values), "p50": statistics.median(values), "p95": cuts[-1]}


def two_packages(folder: Path, base: Path, given: list[Path]) -> tuple[Package, Package]:
    """The given packages, or two of random weights on the base's attention."""
    if not given:
        given = [tiny_adapter(base, folder / str(s), name="bench", seed=s) for s in (1, 2)]
    first, second = (Package.open(one) for one in given)
    if first.manifest.name != second.manifest.name:
        raise SystemExit("--packages: two versions of one adapter are needed")
    return first, second


def commit() -> str:
    """What was measured."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def main() -> None:
    """Measure, print a table, write JSON."""
    options = argparse.ArgumentParser(prog="bench.swap", description=__doc__.splitlines()[0])
    options.add_argument("--base", type=Path, help="default: a random tiny base")
    options.add_argument("--packages", type=Path, nargs=2, default=[])
    options.add_argument("--clients", type=int, default=4)
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--swaps", type=int, default=7)
    options.add_argument("--output", type=Path, default=Path("build/bench/swap.json"))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        base = (chosen.base or tiny_base(folder / "base")).absolute()
        packages = two_packages(folder, base, chosen.packages)
        name = packages[0].manifest.name
        stack = ServedStack(folder / "stack", base)
        stack.start()
        try:
            first, second = (stack.register(one.path) for one in packages)
            served = measure(
                stack,
                (first, second),
                name,
                clients=chosen.clients,
                steps=chosen.steps,
                swaps=chosen.swaps,
            )
        finally:
            stack.stop()
        baseline = diffusers_baseline(base, packages, chosen.swaps - 1)
    found = {
        "served": served,
        "diffusers_seconds": baseline,
        "diffusers_median": statistics.median(baseline),
        "base": str(chosen.base or "tiny"),
        "rank": packages[0].manifest.rank,
        "clients": chosen.clients,
        "steps": chosen.steps,
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(found, indent=2) + "\n")
    json.dump(found, sys.stdout, indent=2)
    print(f"\nagain: python -m bench.swap {shlex.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()
