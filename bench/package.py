"""Measure the memory and time of opening an adapter package for SDXL.

    python -m bench.package --rank 64

Writes a package of random weights for every attention, feed-forward and projection layer of SDXL's
UNet, then opens it in a new process. Prints, in MiB: the size of the file, the largest tensor, the
peak of the memory allocated by Python and numpy, and the increase in the peak resident memory of
the process (which includes mapped files while they are read).
"""

import argparse
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from atelier.adapter.package import ADAPTER, Package, write_package
from atelier.adapter.safetensors_file import Array
from atelier.data.manifest import BaseRef

MIB = 2**20
TARGETS = (".attn", ".ff.", "proj_in", "proj_out")


def sdxl_factors(rank: int) -> dict[str, Array]:
    """Return random factors by canonical key for the projections of SDXL's UNet.

    The UNet is created on the meta device, because its weights are not needed.
    """
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10],  # type: ignore[arg-type]
            attention_head_dim=[5, 10, 20],  # type: ignore[arg-type]
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
        )
    random = np.random.default_rng(0)
    factors: dict[str, Array] = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and any(part in name for part in TARGETS):
            down, up = (rank, module.in_features), (module.out_features, rank)
            factors[f"unet.{name}.lora_A.weight"] = random.standard_normal(down, dtype=np.float32)
            factors[f"unet.{name}.lora_B.weight"] = random.standard_normal(up, dtype=np.float32)
    return factors


def write(folder: Path, rank: int) -> None:
    """Write the package."""
    base = BaseRef(id="sdxl", digest="sha256:" + "0" * 64)
    write_package(folder, sdxl_factors(rank), name=f"rank-{rank}", base=base)


def measure(folder: Path) -> None:
    """Open the package twice, for the resident and the allocated memory, and print both."""
    before, started = _peak(), time.perf_counter()
    package = Package.open(folder)
    seconds, resident = time.perf_counter() - started, _peak() - before
    factors = [factor for pair in package.lora().values() for factor in (pair.A, pair.B)]
    largest = max(factor.nbytes for factor in factors)
    del factors, package
    tracemalloc.start()
    Package.open(folder)
    allocated = tracemalloc.get_traced_memory()[1]
    size = (folder / ADAPTER).stat().st_size
    print(
        f"file {size / MIB:.0f}, largest factor {largest / MIB:.1f}, allocated at once "
        f"{allocated / MIB:.1f}, resident {resident / MIB:+.0f} MiB, {seconds:.1f} s"
    )


def _peak() -> int:
    """Return the peak resident memory of this process in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Run each step in a separate process, so that their memory is measured separately."""
    options = argparse.ArgumentParser(prog="python -m bench.package", description=__doc__)
    options.add_argument("--rank", type=int, default=64)
    options.add_argument("--step", choices=("write", "measure"), help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.step == "write":
        write(chosen.folder, chosen.rank)
    elif chosen.step == "measure":
        measure(chosen.folder)
    else:
        with TemporaryDirectory() as folder:
            for step in ("write", "measure"):
                command = [sys.executable, "-m", "bench.package", "--rank", str(chosen.rank)]
                command += ["--step", step, "--folder", f"{folder}/package"]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
