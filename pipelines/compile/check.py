"""Checks that a compiled UNet gives the same results as torch, before it is published."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from atelier.errors import Refused
from pipelines.compile.samples import Call, random_bank, random_call
from services.engine.backends.compiled import CompileSpec
from services.engine.backends.protocol import Backend
from services.engine.backends.torch import TorchBackend
from services.engine.base import Base
from services.engine.layout import Layout

Progress = Callable[[str, int, int], None]  # the activity, steps done, steps in total

# Maximum error relative to the prediction's largest value. Another order of summation causes a
# hundredth of this. A missing projection, or the rows of another projection, causes a hundred times
# this.
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}
_RANKS, _SLOTS = (3, 8, 5), 4
_BATCHES = (1, 2, 5)


def check(
    backend: Backend, base: Base, layout: Layout, spec: CompileSpec, progress: Progress
) -> float:
    """Return the largest difference from torch, relative to the prediction's largest value.

    The calls cover mixed adapters, one adapter and none, with every batch size and latent size of
    the spec (a few sizes if the spec fixes none). Raises Refused if a difference exceeds TOLERANCE.
    """
    torch_backend = TorchBackend(base, layout)
    slots, rank = (spec.bank.slots, spec.bank.rank) if spec.bank else (_SLOTS, max(_RANKS))
    ranks = [min(default, rank) for default in _RANKS[:slots]]
    bank = random_bank(base, layout, slots=slots, max_rank=rank, ranks=ranks)
    calls = list(_calls(base, spec, len(ranks)))
    worst, effect = 0.0, float("inf")
    limit = TOLERANCE[spec.precision]
    with torch.inference_mode():
        for done, call in enumerate(calls, start=1):
            expected = torch_backend.denoise(*call.tensors, call.slots, bank).float()
            actual = backend.denoise(*call.tensors, call.slots, bank).float()
            scale = expected.abs().max()
            error = float((actual - expected).abs().max() / scale)
            rows, _, height, width = call.latents.shape
            if not error <= limit:  # written so that NaN counts as too large
                raise Refused(
                    f"compiled UNet: {rows} rows of {height}×{width} with slots {call.slots} "
                    f"differ from torch by {error:.1e} of the largest value, but {limit:.0e} is "
                    "allowed; report this bug with the versions in use"
                )
            worst = max(worst, error)
            if any(call.slots):
                base_alone = torch_backend.denoise(*call.tensors, [0] * rows, bank).float()
                effect = min(effect, float((expected - base_alone).abs().max() / scale))
            progress("checking against torch", done, len(calls))
    if effect < 10 * limit:
        raise Refused(
            "compiled UNet: the adapters of the check have no effect, so the check is not valid; "
            "report this bug"
        )
    return worst


def _calls(base: Base, spec: CompileSpec, adapters: int) -> Iterator[Call]:
    """Yield calls of every size with mixed slots, then one with slot 0 and one with slot 1 only."""
    side = base.unet.config.sample_size
    sizes = spec.sizes or ((side, side), (side // 2 + 1, side + 2))
    random = torch.Generator().manual_seed(1)
    for size in sizes:
        for rows in spec.batches or _BATCHES:
            mixed = [(row + 1) % (adapters + 1) for row in range(rows)]
            yield random_call(base, size, mixed, random)
    rows = (spec.batches or _BATCHES)[0]
    for slot in (0, 1):
        yield random_call(base, sizes[0], [slot] * rows, random)
