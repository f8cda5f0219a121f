"""The `atelier` command line: every command by section and name."""

from collections.abc import Mapping
from typing import Annotated, Final

import typer

from atelier import __version__
from atelier.logs import redact_tracebacks
from commands.admin import compile, import_models, keys
from commands.ci import changed, declared, lint, login, propose
from commands.command import Command, CommandGroup, command_line
from commands.release import adapters, live, release, sign, trace, validate
from commands.serve import compare, generate, serve
from commands.train import calibrate, dataset, evaluate, run, score, submit, train

HELP: Final = "Train, evaluate and serve SDXL LoRA adapters."

SECTIONS: Final[Mapping[str, Mapping[str, Command | CommandGroup]]] = {
    "Train": {
        "train": train.train,
        "evaluate": evaluate.evaluate,
        "score": score.score,
        "calibrate": calibrate.calibrate,
        "run": run.run,
        "submit": submit.submit,
        "dataset": CommandGroup("Check folders of pictures.", {"lint": dataset.lint}),
    },
    "Release": {
        "validate": validate.validate,
        "promote": release.promote,
        "rollback": release.rollback,
        "retire": release.retire,
        "status": release.status,
        "record": release.record,
        "live": live.live,
        "sign": sign.sign,
        "trace": trace.trace,
        "adapters": CommandGroup(
            "List, inspect, import and export adapters.",
            {
                "list": adapters.list_adapters,
                "inspect": adapters.inspect,
                "pictures": adapters.fetch_pictures,
                "import": adapters.import_adapter,
                "export": adapters.export,
            },
        ),
    },
    "Serve": {
        "serve": serve.serve,
        "generate": generate.generate,
        "compare": compare.compare,
    },
    "CI": {
        "lint": lint.lint,
        "changed": changed.changed,
        "declared": declared.declared,
        "propose": propose.propose,
        "commit": propose.commit,
        "comment": propose.comment,
        "login": login.login,
    },
    "Admin": {
        "compile": compile.compile_base,
        "keys": CommandGroup(
            "Create, list and revoke API keys of the gateway.",
            {"create": keys.create, "list": keys.list_keys, "revoke": keys.revoke},
        ),
        "base": CommandGroup("Register base models.", {"import": import_models.import_base}),
        "scorer": CommandGroup(
            "Convert and register scorer networks.",
            {"import": import_models.import_scorer, "convert": import_models.convert_scorer},
        ),
    },
}

app = command_line(HELP, SECTIONS)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"atelier {__version__}")
        raise typer.Exit


@app.callback(help=HELP)
def global_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Declare the options that precede the command."""


def main() -> None:
    """Run the `atelier` console script."""
    redact_tracebacks()
    app(prog_name="atelier")
