"""Exports the UNet of a base as an ONNX file with external weights."""

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
# The traced example is small, because tracing computes it. All of its dimensions differ.
_SIZE, _SLOTS, _RANK = (16, 24), (1, 2, 0), 5
# diffusers passes the sizes of skip connections on only if a side is not a multiple of 2 to the
# power of num_upsamplers. The graph would keep the decision made for the example. With this value
# no side is a multiple, so the sizes are always passed on.
_ALWAYS_BY_SIZE = 40
_BESIDE = 1024  # minimum size in bytes of a weight that is stored in WEIGHTS


def export(base: Base, layout: Layout, folder: Path) -> Path:
    """Write FILE and WEIGHTS into `folder`; return the path of FILE.

    The dimensions rows, height, width, rank and slots are dynamic. This uses torch's tracing
    exporter, because torch.export takes ten times as long for this graph and gives the same
    results (docs/compile.md). `check` compares the result with torch.
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
    dynamic = {name: {0: "rows"} for name in (*INPUTS, OUTPUT)}
    dynamic["latents"] = dynamic[OUTPUT] = {0: "rows", 2: "height", 3: "width"}
    dynamic |= {name: {0: "rank", 2: "slots"} for name in names}
    with tempfile.TemporaryDirectory(dir=folder) as aside, torch.inference_mode():
        # torch writes one file per weight if all weights together exceed 2 GB
        traced = Path(aside) / FILE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about shapes that are constant by design
            torch.onnx.export(
                network,
                example,
                str(traced),
                input_names=[*INPUTS, *names],
                output_names=[OUTPUT],
                dynamic_axes=dynamic,
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
    (folder / WEIGHTS).chmod(0o644)  # onnx creates the file readable by the owner only
    return folder / FILE
