"""One compilation as a process: what a Job runs. Exit code 1 where the result differs from torch.

python -m pipelines.compile models/miniature --output compiled
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from atelier.boundary import answered
from atelier.errors import BadInput
from atelier.home import Home

_SIZE: Final = re.compile(r"(\d+)x(\d+)")


def main(arguments: list[str] | None = None) -> int:
    """Compiles; the exit code is the command line's contract (see atelier.errors)."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    parser.add_argument("base", help="a folder or a hub id")
    parser.add_argument("--revision", help="of a base from the hub")
    parser.add_argument("--backend", choices=("onnx", "tensorrt"), default="onnx")
    parser.add_argument("--output", type=Path, required=True, help="the folder to make")
    parser.add_argument("--precision", default="auto", help="fp32, fp16 or auto")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--batch", type=int, action="append", default=[], help="UNet rows")
    parser.add_argument("--sizes", action="append", default=[], metavar="WxH", help="pixels")
    parser.add_argument("--ranks", type=int, help="of the bank")
    parser.add_argument("--slots", type=int, help="of the bank")
    parser.add_argument("--registry", action="store_true", help="keep it in MLflow, by its key")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)

    def work() -> None:
        sizes = parse_sizes(options.sizes)  # before the seconds that torch takes to load
        from pipelines.compile import CompileRequest, compile_unet

        request = CompileRequest(
            options.base,
            revision=options.revision,
            backend=options.backend,
            precision=options.precision,
            device=options.device,
            batches=options.batch,
            sizes=sizes,
            rank=options.ranks,
            slots=options.slots,
        )
        registry = Home.find().tracking_uri if options.registry else None
        made = compile_unet(request, output=options.output, registry=registry, progress=told)
        print(f"mlflow://engines/{made.spec.key} {made.digest}")

    return answered(work, debug=options.debug)


def parse_sizes(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Widths and heights in pixels, from `1024x1024`; BadInput tells how one is spelt."""
    found = []
    for text in texts:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise BadInput(f"size {text}: is spelt WIDTHxHEIGHT in pixels, like 1024x1024")
        found.append((int(match[1]), int(match[2])))
    return tuple(found)


def told(doing: str, done: int, total: int) -> None:
    """A line where something begins or ends."""
    if done in (0, total):
        print(f"{doing}: {done}/{total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
