"""Run the demo with `python -m commands.demo`. On a terminal the gateway runs until Ctrl-C."""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from atelier.errors import BadInput
from atelier.files import locked
from commands.errors import report

OUTPUTS = ("home", "evaluation-1", "evaluation-2", "contact-sheet.png", "loss.png", "report.html")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")] = Path("demo"),
    example: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with the recipes and pictures.")
    ] = Path("examples/thor-cat"),
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy file. Default: the built-in policy.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the gateway; 0 selects a free port.")] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train, evaluate, promote, serve, swap and roll back an adapter."""
    signal.signal(signal.SIGTERM, _stop)
    busy = BadInput(f"{output}: another demo uses this folder; stop it first")
    try:
        with locked(output / ".lock", busy=busy):
            _fresh(output)
            _run(output, example, policy, port)
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(report(error, debug=debug)) from error


def _run(output: Path, example: Path, policy: Path | None, port: int) -> None:
    # imported after _fresh has changed the environment, because MLflow reads it on import
    from atelier.data.policy import Policy
    from commands.demo.clock import duration
    from commands.demo.steps import Demo

    demo = Demo(output, example, policy=Policy.load(policy), port=port)
    try:
        running, key = demo.run()
        print(f"\ndone in {duration(demo.clock.seconds)}: {output / 'report.html'}")
        if sys.stdin.isatty() and sys.stdout.isatty():
            _show(running.gateway, key, demo.adapter)
    finally:
        demo.close()


def _show(gateway: str, key: str, adapter: str) -> None:
    """Print a command that calls the gateway, and wait for Ctrl-C."""
    print(
        f"\nThe gateway runs at {gateway} (API docs: {gateway}/docs). API key:\n  {key}\n\n"
        f"  curl -s {gateway}/generate_image -H 'X-API-Key: {key}' -H 'Accept: image/png' \\\n"
        "    -H 'Content-Type: application/json' --output cat.png \\\n"
        f'    -d \'{{"prompt": "a {{trigger}} in the snow", "adapter": "{adapter}"}}\'\n\n'
        "Press Ctrl-C to stop it.",
        flush=True,
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("\nstopping")


def _fresh(output: Path) -> None:
    """Remove the files of an earlier demo, and set ATELIER_HOME to a folder in `output`."""
    for name in OUTPUTS:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for variable in ("MLFLOW_TRACKING_URI", "ATELIER_DATABASE_URL"):
        os.environ.pop(variable, None)
    os.environ["ATELIER_HOME"] = str((output / "home").absolute())


def _stop(number: int, frame: object) -> None:
    """Handle SIGTERM: raise an exception that stops the servers, as Ctrl-C does."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    app(prog_name="python -m commands.demo")
