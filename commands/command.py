"""The wrapper of every command: --json, --debug, output to stdout and error handling."""

import contextlib
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from atelier.printable import printable
from atelier.settings import refuse_unknown
from commands.errors import report

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Answer:
    """The output of a command: `text` by default, `data` with --json, and the exit code."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


Command = Callable[..., Answer]


@dataclass(frozen=True)
class CommandGroup:
    """Commands with a common first word: `atelier keys create`, `atelier keys list`."""

    help: str
    commands: Mapping[str, Command]


def command_line(
    help: str, sections: Mapping[str, Mapping[str, Command | CommandGroup]]
) -> typer.Typer:
    """Return the Typer application of all commands, given by section and name."""
    app = typer.Typer(
        cls=_Sections,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for section, entries in sections.items():
        for name, entry in entries.items():
            if isinstance(entry, CommandGroup):
                group = typer.Typer(help=entry.help, no_args_is_help=True, rich_markup_mode=None)
                for subcommand, work in entry.commands.items():
                    add_command(group, subcommand, work)
                app.add_typer(group, name=name, rich_help_panel=section)
            else:
                add_command(app, name, entry, section=section)
    return app


def add_command(app: typer.Typer, name: str, work: Command, *, section: str | None = None) -> None:
    """Register a function as a command of `app`. The function itself stays unchanged.

    A dataclass parameter is an option group: each field of the dataclass becomes an option. Several
    commands can share an option group.
    """
    signature = inspect.signature(work, eval_str=True)
    parameters = signature.parameters.values()

    @functools.wraps(work)
    def run(*, as_json: bool, debug: bool, **options: Any) -> None:
        arguments = {parameter.name: _argument(parameter, options) for parameter in parameters}
        raise typer.Exit(_perform(functools.partial(work, **arguments), as_json, debug))

    shared = [
        inspect.Parameter(
            option, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation
        )
        for option, annotation in (("as_json", AsJson), ("debug", Debug))
    ]
    options = [*(option for parameter in parameters for option in _options(parameter)), *shared]
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=options, return_annotation=None
    )
    run.__annotations__ = {option.name: option.annotation for option in options}
    app.command(name, rich_help_panel=section)(run)


class _Sections(TyperGroup):
    """List the commands by section in plain text, because Typer has sections only in Rich boxes."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one definition list for each section. All lists have the same column width."""
        width = max(map(len, self.commands))
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            section: str = getattr(command, "rich_help_panel", None) or "Commands"
            summary = command.get_short_help_str(formatter.width - 6 - width)
            sections.setdefault(section, []).append((name.ljust(width), summary))
        for section, lines in sections.items():
            with formatter.section(section):
                formatter.write_dl(lines)


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return the options of an option group, or the parameter itself."""
    if not is_dataclass(parameter.annotation):
        return [parameter]
    hints = get_type_hints(parameter.annotation, include_extras=True)
    return [
        parameter.replace(name=option.name, default=option.default, annotation=hints[option.name])
        for option in fields(parameter.annotation)
    ]


def _argument(parameter: inspect.Parameter, options: Mapping[str, Any]) -> Any:
    """Return the value of one parameter of a command."""
    if not is_dataclass(parameter.annotation):
        return options[parameter.name]
    group: Any = parameter.annotation
    return group(**{option.name: options[option.name] for option in fields(group)})


def _perform(work: Callable[[], Answer], as_json: bool, debug: bool) -> int:
    """Run a command, print its result on stdout, and return its exit code.

    Other output of the command goes to stderr.
    """
    stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):  # libraries may print to stdout
            refuse_unknown(os.environ)
            answer = work()
    except (typer.Exit, typer.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        return report(error, as_json=as_json, debug=debug)
    text = json.dumps(dict(answer.data), default=str) if as_json else printable(answer.text)
    if text:
        print(text, file=stdout, flush=True)
    return answer.exit_code
