"""One compilation as a process. Exit code 1 where the result differs from torch.

python -m pipelines.compile models/miniature --output compiled
"""

import argparse
import sys
from pathlib import Path

from atelier.boundary import answered
from atelier.home import Home
from pipelines.compile.request import CompileRequest, parse_sizes
from pipelines.settings import JobSettings


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
        settings = JobSettings.read()
        request = CompileRequest(
            options.base,
            revision=options.revision,
            backend=options.backend,
            precision=options.precision,
            device=options.device,
            batches=options.batch,
            sizes=parse_sizes(options.sizes),
            rank=options.ranks,
            slots=options.slots,
            tensorrt=settings.tensorrt,
        )
        from pipelines.compile.unet import compile_unet  # seconds of torch, for input known good

        registry = Home(settings.home).tracking_uri if options.registry else None
        made = compile_unet(request, output=options.output, registry=registry, progress=told)
        print(f"mlflow://engines/{made.spec.key} {made.digest}")

    return answered(work, debug=options.debug)


def told(doing: str, done: int, total: int) -> None:
    """A line where something begins or ends."""
    if done in (0, total):
        print(f"{doing}: {done}/{total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
