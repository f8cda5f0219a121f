"""The UNet of a base as an ONNX file with its weights beside it."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch

from pipelines.compile.samples import random_bank, random_call
from services.engine.backends.compiled import INPUTS, OUTPUT, bank_names
from services.engine.backends.protocol import bank_inputs
from services.engine.banked import BankedUNet
from services.engine.base import Base
from services.engine.layout import Layout

FILE, WEIGHTS = "unet.onnx", "unet.onnx.data"
OPSET = 18
# The example: small, for it is computed, and no two dimensions alike.
_SIZE, _SLOTS, _RANK = (16, 24), (1, 2, 0), 5
# diffusers hands on the sizes of skip connections only where a side is no multiple of 2 to the
# power of this, and a graph would keep what its example had. No side is a multiple of this one.
_ALWAYS_BY_SIZE = 40
_BESIDE = 1024  # bytes from which on a weight lies in WEIGHTS


def export(base: Base, layout: Layout, folder: Path) -> Path:
    """Writes FILE and WEIGHTS; rows, height, width, rank and slots are free in the graph.

    By torch's tracing exporter: with this graph torch.export takes ten times as long and comes to
    the same numbers (docs/compile.md). Whichever it is, `check` compares the result with torch.
    """
    import onnx

    network = BankedUNet(base.unet, layout).eval()
    network.unet.num_upsamplers = _ALWAYS_BY_SIZE
    random = torch.Generator().manual_seed(0)
    call = random_call(base, _SIZE, _SLOTS, random)
    bank = random_bank(base, layout, slots=2, max_rank=_RANK, ranks=(_RANK, _RANK))
    slots = torch.tensor(_SLOTS, device=base.device)
    example = (*call.tensors, slots, *bank_inputs(bank.view(_SLOTS), layout))
    names = bank_names(layout)
    free = {name: {0: "rows"} for name in (*INPUTS, OUTPUT)}
    free["latents"] = free[OUTPUT] = {0: "rows", 2: "height", 3: "width"}
    free |= {name: {0: "rank", 2: "slots"} for name in names}
    with tempfile.TemporaryDirectory(dir=folder) as aside, torch.inference_mode():
        traced = Path(aside) / FILE  # over 2 GB with each weight in a file of its own
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about shapes that are constants, as they should be
            torch.onnx.export(
                network,
                example,
                str(traced),
                input_names=[*INPUTS, *names],
                output_names=[OUTPUT],
                dynamic_axes=free,
                opset_version=OPSET,
                dynamo=False,
            )
        onnx.save_model(
            onnx.load(traced),
            folder / FILE,
            save_as_external_data=True,
            location=WEIGHTS,
            size_threshold=_BESIDE,
        )
    (folder / WEIGHTS).chmod(0o644)  # onnx leaves it to its maker alone
    return folder / FILE
