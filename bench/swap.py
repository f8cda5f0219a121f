"""Measure the duration of a swap under load, and the time that diffusers takes to change a LoRA.

    python -m bench.swap --base models/miniature
    python -m bench.swap --base models/miniature --packages runs/thor/1/package runs/thor/2/package

Starts `atelier serve` in a temporary home, sends requests over gRPC, and switches the release of
one adapter between two versions. The first swap fetches the package from the registry; for later
swaps, the package is on the volume. A swap ends with the first picture whose response has the new
digest.
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
import time
from pathlib import Path

from atelier.adapter.package import ADAPTER, Package
from atelier.data.release import Pin
from commands.load import PATIENCE, LoadGenerator
from tests.integration.stack import ServedStack
from tests.tiny import tiny_adapter, tiny_base


def load_of(stack: ServedStack, name: str, *, steps: int) -> LoadGenerator[str]:
    """Return a load of requests with one adapter and different seeds; the responses are digests."""

    def ask(number: int) -> str:
        picture = stack.grpc(
            prompt="a cat on the beach", seed=number, steps=steps, adapters=[{"name": name}]
        )
        return picture.digest

    return LoadGenerator(ask)


def first_of(load: LoadGenerator[str], digest: str, since: float) -> float:
    """Wait for a response with `digest` to a request sent after `since`.

    Return the arrival time, in seconds, of the first such response.
    """

    def moved() -> bool:
        recent = tuple(load.answers[-200:])
        return any(call.answer == digest and call.asked >= since for call in recent)

    while not moved():
        if load.now - since > PATIENCE:
            failures = [str(failure) for failure in load.failures[:3]]
            raise SystemExit(f"no response with {digest} in {PATIENCE:.0f} s; failures: {failures}")
        time.sleep(0.005)
    return min(call.came for call in load.answers if call.answer == digest and call.came > since)


def measure(
    stack: ServedStack, pins: tuple[Pin, Pin], name: str, *, clients: int, steps: int, swaps: int
) -> dict[str, object]:
    """Measure the seconds of each swap, and the latencies near swaps and at other times.

    The first swap includes fetching the package.
    """
    stack.release(name, pins[0])
    load = load_of(stack, name, steps=steps)
    times: list[tuple[float, float]] = []  # start and duration of each swap
    with load.running(clients):
        first_of(load, pins[0].digest, load.now)
        time.sleep(3.0)
        for number in range(swaps):
            pin = pins[(number + 1) % 2]
            began = load.now
            stack.release(name, pin, wait=False)
            times.append((began, first_of(load, pin.digest, began) - began))
            time.sleep(3.0)
    near = [a.seconds for a in load.answers if any(b <= a.came <= b + d + 0.5 for b, d in times)]
    away = [a.seconds for a in load.answers if a.seconds not in set(near)]
    seconds = [duration for _, duration in times]
    return {
        "first_swap_seconds": seconds[0],
        "later_swap_seconds": seconds[1:],
        "later_swap_median": statistics.median(seconds[1:]) if swaps > 1 else None,
        "requests": len(load.answers),
        "failures": [str(failure) for failure in load.failures],
        "latency_near_swaps": quantiles(near),
        "latency_away": quantiles(away),
    }


def diffusers_baseline(base: Path, packages: tuple[Package, Package], rounds: int) -> list[float]:
    """Return the seconds in which an idle diffusers pipeline replaces one LoRA by the other."""
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(base, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    taken = []
    for number in range(rounds + 1):
        began = time.monotonic()
        pipeline.unload_lora_weights()
        pipeline.load_lora_weights(packages[number % 2].path, weight_name=ADAPTER)
        taken.append(time.monotonic() - began)
    return taken[1:]  # the first round includes imports


def quantiles(values: list[float]) -> dict[str, float]:
    """Return the count, and the median and 95th percentile in seconds."""
    if len(values) < 2:
        return {"count": len(values)}
    cuts = statistics.quantiles(values, n=20)
    return {"count": len(values), "p50": statistics.median(values), "p95": cuts[-1]}


def two_packages(folder: Path, base: Path, paths: list[Path]) -> tuple[Package, Package]:
    """Open the two packages in `paths`, or write two with random weights if it is empty."""
    if not paths:
        paths = [tiny_adapter(base, folder / str(s), name="bench", seed=s) for s in (1, 2)]
    first, second = (Package.open(path) for path in paths)
    if first.manifest.name != second.manifest.name:
        raise SystemExit("--packages: different adapters; pass two versions of one adapter")
    return first, second


def commit() -> str:
    """Return the description of the checked-out commit, or `unknown`."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


def main() -> None:
    """Measure, and write the results as JSON to a file and to stdout."""
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
            first, second = (stack.register(package.path) for package in packages)
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
    results = {
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
    chosen.output.write_text(json.dumps(results, indent=2) + "\n")
    json.dump(results, sys.stdout, indent=2)
    print(f"\nagain: python -m bench.swap {shlex.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()
