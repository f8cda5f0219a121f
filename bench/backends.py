"""Compare the speed of torch and ONNX Runtime, for single UNet calls and for whole requests.

The runs alternate, so that other work on the machine affects all runs equally; each figure is the
median over the rounds. On a CPU, processor seconds are measured, because other work affects them
less. Adapters are random, because the speed does not depend on the values of the weights.

    atelier compile models/miniature --output build/compiled
    OMP_NUM_THREADS=1 python bench/backends.py --compiled build/compiled --rank 16 --rounds 15

`mixed` has a different adapter in each row; `base` has no adapters.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.engine import in_turns, random_adapter, ratio  # noqa: E402
from pipelines.compile.samples import random_bank, random_call  # noqa: E402
from services.engine import AdapterUse, Base, Engine, EngineSettings, ImageRequest  # noqa: E402
from services.engine.backends import make_backend  # noqa: E402
from services.engine.layout import layout_of  # noqa: E402

ADAPTERS = 4


def print_calls(base: Base, settings: Mapping[str, EngineSettings], rounds: int) -> None:
    """Print the times of one UNet call with each backend."""
    first = next(iter(settings.values()))
    layout = layout_of(base)
    ranks = [first.max_rank] * ADAPTERS
    bank = random_bank(base, layout, slots=ADAPTERS, max_rank=first.max_rank, ranks=ranks)
    backends = {name: make_backend(spec, base, layout) for name, spec in settings.items()}
    side = base.unet.config.sample_size
    print(f"\n{'rows':>4} {'adapters':>9} {'torch ms':>9} {'onnx ms':>9} {'times faster':>13}")
    for rows in (1, 2, 4, 8):
        for kind, slots in (
            ("base", [0] * rows),
            ("mixed", [i % ADAPTERS + 1 for i in range(rows)]),
        ):
            call = random_call(base, (side, side), slots, torch.Generator().manual_seed(0))
            runs = {
                name: partial(backend.denoise, *call.tensors, call.slots, bank)
                for name, backend in backends.items()
            }
            seconds = in_turns(runs, rounds)
            torch_ms, onnx_ms = (statistics.median(seconds[name]) * 1e3 for name in settings)
            times = ratio(seconds, "torch", "onnx")
            print(f"{rows:>4} {kind:>9} {torch_ms:9.1f} {onnx_ms:9.1f} {times:13.2f}", flush=True)


def print_requests(folder: Path, settings: Mapping[str, EngineSettings], rounds: int) -> None:
    """Print the times of whole requests with different adapters, including prompts and VAE."""
    engines = {}
    for name, spec in settings.items():
        began = time.process_time()
        engines[name] = engine = Engine.load(folder, settings=spec)
        print(f"{name}: {time.process_time() - began:.1f} processor seconds to load", flush=True)
        layout = layout_of(engine.base)
        for i in range(ADAPTERS):
            lora = random_adapter(layout, spec.max_rank, ("attn",), i)
            engine.adapters.add_tensors(f"a{i}", lora)
    print(f"\n{'requests':>8} {'torch s':>9} {'onnx s':>9} {'times faster':>13}")
    for count in (1, 4):
        requests = [
            ImageRequest("a photo of a cat", seed=i, steps=8, adapters=(AdapterUse(f"a{i}"),))
            for i in range(count)
        ]
        runs = {name: partial(engine.generate_many, requests) for name, engine in engines.items()}
        seconds = in_turns(runs, rounds)
        medians = [statistics.median(seconds[name]) for name in settings]
        times = ratio(seconds, "torch", "onnx")
        print(f"{count:>8} {medians[0]:9.2f} {medians[1]:9.2f} {times:13.2f}", flush=True)


def main() -> None:
    """Print both tables."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=ROOT / "models/miniature")
    parser.add_argument("--compiled", type=Path, required=True, help="output of atelier compile")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    size = {"slots": ADAPTERS, "max_rank": options.rank, "max_batch": 8, "precision": "fp32"}
    settings = {
        "torch": EngineSettings(device="cpu", **size),
        "onnx": EngineSettings(
            device="cpu", backend="onnx", compiled=str(options.compiled), **size
        ),
    }
    base = Engine.load(options.base, settings=settings["torch"]).base
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, fp32, torch "
        f"{torch.__version__}, rank {options.rank}, load {os.getloadavg()[0]:.1f}"
    )
    with torch.inference_mode():
        print_calls(base, settings, options.rounds)
    print_requests(options.base, settings, max(3, options.rounds // 5))
    print(f"\nagain: python {shlex.join(sys.argv)}")


if __name__ == "__main__":
    main()
