"""Measure the bank: the UNet with and without the bank, and the engine against diffusers.

The runs alternate, so that other work on the machine affects all runs equally; each figure is the
median over the rounds. On a CPU, processor seconds are measured, because other work affects them
less. Adapters are random, because the speed does not depend on the values of the weights.

    OMP_NUM_THREADS=1 python bench/engine.py --base models/miniature --rank 16 --rounds 15

The first table shows one UNet call. The second shows whole requests with different adapters:
diffusers runs them in sequence on one pipeline (`set_adapters` before each), the engine in a batch.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from atelier.adapter.low_rank import LoraWeights  # noqa: E402
from atelier.adapter.package import write_package  # noqa: E402
from atelier.data.manifest import BaseRef  # noqa: E402
from services.engine import AdapterUse, Base, Engine, EngineSettings, ImageRequest  # noqa: E402
from services.engine.backends.protocol import bank_inputs  # noqa: E402
from services.engine.bank import Bank  # noqa: E402
from services.engine.banked import BankedUNet  # noqa: E402
from services.engine.layout import UNET_TARGETS, Layout, layout_of  # noqa: E402
from services.engine.weights import pack  # noqa: E402

TARGETS = {"attn": ("attn",), "attn+ff+proj": ("attn", "ff", "proj")}
Timed = Mapping[str, Callable[[], object]]


def random_adapter(
    layout: Layout, rank: int, targets: Sequence[str], seed: int
) -> dict[str, LoraWeights]:
    """Return small random pairs for the targeted projections of the UNet, by module path."""
    random = np.random.default_rng(seed)
    endings = tuple(end for target in targets for end in UNET_TARGETS[target])
    lora = {}
    for projection in layout.of("unet"):
        if projection.path.endswith(endings):
            group = layout.groups[projection.group]
            down = random.standard_normal((rank, group.in_features), np.float32)
            up = random.standard_normal((group.out_features, rank), np.float32)
            lora[projection.path] = LoraWeights(down * 0.05, up * 0.05, float(rank))
    return lora


def clock() -> float:
    """Return processor seconds; with a GPU, wall seconds after the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def in_turns(runs: Timed, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each run in each round; an additional first round is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            began = clock()
            run()
            if round_:
                seconds[name].append(clock() - began)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], name: str, to: str) -> float:
    """Return the median over the rounds of the ratio of the times of two runs."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[to], strict=True))


def unet_calls(base: Base, layout: Layout, rank: int, rounds: int) -> None:
    """Print the time of one UNet call with the bank, relative to a call without the bank."""
    banked = BankedUNet(base.unet, layout).eval()
    side = base.unet.config.sample_size
    print(f"\n{'rows':>4} {'targets':>14} {'base ms':>8} {'empty':>7} {'one':>7} {'four':>7}")
    for targets in TARGETS:
        bank = Bank(layout, slots=4, max_rank=rank, dtype=base.dtype, device=base.device)
        for slot in range(1, 5):
            lora = random_adapter(layout, rank, TARGETS[targets], slot)
            host = pack(layout, lora, max_rank=rank, dtype=base.dtype)
            bank.write(slot, [(host, 1.0)])
        for rows in (1, 2, 4, 8):
            inputs = unet_inputs(base, rows, side)

            def with_slots(slots: list[int], inputs: Any = inputs, bank: Bank = bank) -> object:
                indices = torch.tensor(slots, device=base.device)
                view = bank.view(slots)
                return banked(*inputs, indices, *bank_inputs(view, layout), mask=view.mask)

            def plain(inputs: Any = inputs) -> object:
                latents, timesteps, text, pooled, ids = inputs
                return base.unet(
                    latents,
                    timesteps,
                    encoder_hidden_states=text,
                    added_cond_kwargs={"text_embeds": pooled, "time_ids": ids},
                    return_dict=False,
                )

            seconds = in_turns(
                {
                    "base": plain,
                    "empty": partial(with_slots, [0] * rows),
                    "one": partial(with_slots, [1] * rows),
                    "four": partial(with_slots, [i % 4 + 1 for i in range(rows)]),
                },
                rounds,
            )
            ratios = " ".join(f"{ratio(seconds, n, 'base'):7.3f}" for n in ("empty", "one", "four"))
            milliseconds = statistics.median(seconds["base"]) * 1e3
            print(f"{rows:>4} {targets:>14} {milliseconds:8.1f} {ratios}", flush=True)


def unet_inputs(base: Base, rows: int, side: int) -> tuple[torch.Tensor, ...]:
    """Return random inputs: latents, timesteps, text, pooled text and sizes; each row differs."""
    config = base.unet.config
    pooled = base.text_encoder_2.config.projection_dim
    shapes = ((config.in_channels, side, side), (77, config.cross_attention_dim), (pooled,))
    latents, text, embeds = (
        torch.randn(rows, *shape, dtype=base.dtype, device=base.device) for shape in shapes
    )
    timesteps = torch.linspace(999, 1, rows, device=base.device)
    ids = torch.full((rows, 6), float(base.size), dtype=base.dtype, device=base.device)
    return latents, timesteps, text, embeds, ids


def requests(base_folder: Path, base: Base, layout: Layout, rank: int, rounds: int) -> None:
    """Print the times of the engine and of diffusers for several requests."""
    from diffusers import StableDiffusionXLPipeline

    settings = EngineSettings(slots=8, max_rank=rank, max_batch=16, device=str(base.device))
    engine = Engine(base, settings)
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        base_folder, torch_dtype=base.dtype, use_safetensors=True
    )
    pipeline.to(base.device).set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(8):
            lora = random_adapter(layout, rank, ("attn",), i)
            engine.adapters.add_tensors(f"a{i}", lora)
            tensors = {f"{path}.lora_A.weight": pair.A for path, pair in lora.items()}
            tensors |= {f"{path}.lora_B.weight": pair.B for path, pair in lora.items()}
            ref = BaseRef(id="bench", digest=base.digest)
            package = write_package(Path(folder) / f"a{i}", tensors, name=f"a{i}", base=ref)
            pipeline.load_lora_weights(
                package.path, weight_name="adapter.safetensors", adapter_name=f"a{i}"
            )
    prompt, steps = "a photo of a cat", 8

    def theirs(count: int) -> None:
        for i in range(count):
            pipeline.set_adapters([f"a{i}"])
            generator = torch.Generator().manual_seed(i)
            pipeline(prompt, num_inference_steps=steps, guidance_scale=5.0, generator=generator)

    def ours(count: int) -> None:
        engine.generate_many(
            [
                ImageRequest(prompt, seed=i, steps=steps, adapters=(AdapterUse(f"a{i}"),))
                for i in range(count)
            ]
        )

    print(f"\n{'requests':>8} {'diffusers s':>12} {'engine s':>9} {'times faster':>13}")
    for count in (1, 2, 4, 8):
        seconds = in_turns({"theirs": partial(theirs, count), "ours": partial(ours, count)}, rounds)
        medians = [statistics.median(seconds[name]) for name in ("theirs", "ours")]
        times = ratio(seconds, "theirs", "ours")
        print(f"{count:>8} {medians[0]:12.2f} {medians[1]:9.2f} {times:13.2f}", flush=True)
    stats = engine.stats()
    print(f"\nswap: {stats.seconds['swap'] / stats.swaps * 1e3:.2f} ms an adapter in host memory")


def main() -> None:
    """Print both tables."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # loaders warn about parts without tensors
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=ROOT / "models/miniature")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    settings = EngineSettings(device=options.device)
    base = Engine.load(options.base, settings=settings).base
    layout = layout_of(base)
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"{base.device}, {str(base.dtype).removeprefix('torch.')}, torch {torch.__version__}, "
        f"rank {options.rank}, {len(layout.of('unet'))} projections"
    )
    with torch.inference_mode():
        unet_calls(base, layout, options.rank, options.rounds)
    requests(options.base, base, layout, options.rank, max(3, options.rounds // 5))
    print(f"\nagain: python {shlex.join(sys.argv)}")


if __name__ == "__main__":
    main()
