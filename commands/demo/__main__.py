"""`python -m commands.demo`: run the demo. On a terminal the gateway stays up until Ctrl-C."""

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from atelier.boundary import report
from atelier.errors import BadInput
from atelier.files import locked

OURS = ("home", "evaluation-1", "evaluation-2", "contact-sheet.png", "loss.png", "report.html")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stopped)
    busy = BadInput(f"{options.output}: a demo is running there; stop it first")
    try:
        with locked(options.output / ".lock", busy=busy):
            _fresh(options.output)
            _run(options)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, as_json=False, debug=options.debug)
    return 0


def _run(options: argparse.Namespace) -> None:
    from atelier.data.policy import (
        Policy,
    )  # after the environment is set, because MLflow reads it on import
    from commands.demo.clock import duration
    from commands.demo.story import Demo

    policy = Policy.load(options.policy)
    demo = Demo(options.output, options.example, policy=policy, port=options.port)
    try:
        running, key = demo.run()
        print(f"\ndone in {duration(demo.clock.seconds)}: {options.output / 'report.html'}")
        if sys.stdin.isatty() and sys.stdout.isatty():
            _show(running.gateway, key, demo.adapter)
    finally:
        demo.close()


def _show(gateway: str, key: str, adapter: str) -> None:
    """Keep the gateway up, and show how to call it."""
    print(
        f"\nThe gateway runs at {gateway} (API docs: {gateway}/docs). API key:\n  {key}\n\n"
        f"  curl -s {gateway}/generate_image -H 'X-API-Key: {key}' -H 'Accept: image/png' \\\n"
        "    -H 'Content-Type: application/json' --output cat.png \\\n"
        f'    -d \'{{"prompt": "a {{trigger}} in the snow", "adapter": "{adapter}"}}\'\n\n'
        "Ctrl-C stops it.",
        flush=True,
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("\nstopping")


def _fresh(output: Path) -> None:
    """Remove the files of an earlier demo, and make the process use this folder only."""
    for name in OURS:
        found = output / name
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)
    for variable in ("MLFLOW_TRACKING_URI", "ATELIER_DATABASE_URL"):
        os.environ.pop(variable, None)
    os.environ["ATELIER_HOME"] = str((output / "home").absolute())


def _stopped(number: int, frame: object) -> None:
    """SIGTERM unwinds like Ctrl-C, so that the servers are stopped too."""
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m commands.demo", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), help="output folder; default: demo"
    )
    parser.add_argument("--example", type=Path, default=Path("examples/thor-cat"))
    parser.add_argument("--policy", type=Path, help="default: the built-in policy")
    parser.add_argument(
        "--port", type=int, default=0, help="port of the gateway; default: a free one"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
