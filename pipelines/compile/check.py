"""Whether a compiled UNet computes what torch computes, before anybody may use it."""

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

Progress = Callable[[str, int, int], None]  # what is being done, so many of so many

# Of the prediction's largest value. Orders of summing differ by a hundredth of this; a projection
# that is left out, or reads another's rows, by a hundred times it.
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}
_RANKS, _SLOTS = (3, 8, 5), 4
_BATCHES = (1, 2, 5)


def check(backend: Backend, base: Base, layout: Layout, spec: CompileSpec, tell: Progress) -> float:
    """The largest difference to torch, of the prediction's largest value; Refused beyond tolerance.

    Mixed adapters, one adapter, and none; every batch size and latent size of the spec, or some.
    """
    torch_backend = TorchBackend(base, layout)
    slots, rank = (spec.bank.slots, spec.bank.rank) if spec.bank else (_SLOTS, max(_RANKS))
    ranks = [min(one, rank) for one in _RANKS[:slots]]
    bank = random_bank(base, layout, slots=slots, max_rank=rank, ranks=ranks)
    calls = list(_calls(base, spec, len(ranks)))
    worst, effect = 0.0, float("inf")
    limit = TOLERANCE[spec.precision]
    with torch.inference_mode():
        for done, call in enumerate(calls, start=1):
            wanted = torch_backend.denoise(*call.tensors, call.slots, bank).float()
            found = backend.denoise(*call.tensors, call.slots, bank).float()
            scale = wanted.abs().max()
            error = float((found - wanted).abs().max() / scale)
            rows, _, height, width = call.latents.shape
            if not error <= limit:  # not-a-number is no agreement
                raise Refused(
                    f"compiled UNet: {rows} rows of {height}×{width} with slots {call.slots} "
                    f"differ from torch by {error:.1e} of the largest value; {limit:.0e} is allowed"
                )
            worst = max(worst, error)
            if any(call.slots):
                base_alone = torch_backend.denoise(*call.tensors, [0] * rows, bank).float()
                effect = min(effect, float((wanted - base_alone).abs().max() / scale))
            tell("checking against torch", done, len(calls))
    if effect < 10 * limit:
        raise Refused("compiled UNet: the check's adapters change nothing, so it shows nothing")
    return worst


def _calls(base: Base, spec: CompileSpec, adapters: int) -> Iterator[Call]:
    """Every batch size with mixed slots; the first one also without, and with one adapter alone."""
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
