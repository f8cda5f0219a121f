"""Registers every verb of the `atelier` command."""

from typing import Annotated

import typer

from atelier import __version__
from atelier.logs import redact_tracebacks
from commands.admin import compile, import_models, keys
from commands.ci import changed, declared, lint, login, propose
from commands.release import adapters, release, sign, trace, validate
from commands.serve import compare, generate, serve
from commands.train import dataset, evaluate, run, submit, train
from commands.verb import verb

app = typer.Typer(
    name="atelier",
    help="Train, evaluate and serve SDXL adapters from a handful of pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _group(name: str, what: str) -> typer.Typer:
    group = typer.Typer(help=what, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


verb(app)(train.train)
verb(app)(evaluate.evaluate)
verb(app)(run.run)
verb(app)(validate.validate)
verb(app, "compile")(compile.compile_base)
verb(app)(changed.changed)
verb(app)(declared.declared)
verb(app)(lint.lint)
verb(app)(submit.submit)
verb(app)(propose.propose)
verb(app)(sign.sign)
verb(app)(release.promote)
verb(app)(release.rollback)
verb(app)(release.retire)
verb(app)(release.record)
verb(app)(release.status)
verb(app)(propose.commit)
verb(app)(propose.comment)
verb(app)(login.login)
verb(app)(serve.serve)
verb(app)(generate.generate)
verb(app)(compare.compare)
verb(app)(trace.trace)

_adapters = _group("adapters", "List, inspect, import and export adapters.")
verb(_adapters, "list")(adapters.list_adapters)
verb(_adapters)(adapters.inspect)
verb(_adapters, "import")(adapters.import_adapter)
verb(_adapters)(adapters.export)

_base = _group("base", "Register base models.")
verb(_base, "import")(import_models.import_base)

_scorer = _group("scorer", "Register scorer networks.")
verb(_scorer, "import")(import_models.import_scorer)

_dataset = _group("dataset", "Check folders of pictures.")
verb(_dataset)(dataset.lint)


app.add_typer(keys.app, name="keys")


def _version(asked: bool) -> None:
    if asked:
        print(f"atelier {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Train, evaluate and serve SDXL adapters from a handful of pictures."""


def main() -> None:
    """The console script."""
    redact_tracebacks()
    app(prog_name="atelier")
