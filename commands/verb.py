"""Shared by every verb: --json, --debug, the answer on stdout and the handling of errors."""

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

from atelier.boundary import report
from atelier.settings import refuse_unknown

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Answer:
    """A verb's result: `text` for people, `data` for --json. Progress goes to stderr."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def verb(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., Answer]], Any]:
    """Register a function as a verb of `app`. It can still be called as a plain function.

    A parameter that is a dataclass is a group of options that verbs can share, one for each field.
    """

    def register(work: Callable[..., Answer]) -> Callable[..., Answer]:
        signature = inspect.signature(work, eval_str=True)
        given = signature.parameters.values()

        @functools.wraps(work)
        def run(*, as_json: bool, debug: bool, **options: Any) -> None:
            whole = {one.name: _gathered(one, options) for one in given}
            raise typer.Exit(_perform(functools.partial(work, **whole), as_json, debug))

        parameters = [option for one in given for option in _spread(one)]
        shared = [
            inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False),
            inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False),
        ]
        hints = {"as_json": AsJson, "debug": Debug}
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[
                *parameters,
                *(option.replace(annotation=hints[option.name]) for option in shared),
            ],
            return_annotation=None,
        )
        run.__annotations__ = {
            **{one.name: one.annotation for one in parameters},
            **hints,
        }
        app.command(name)(run)
        return work

    return register


def _spread(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The options of a group, or the parameter itself."""
    if not is_dataclass(parameter.annotation):
        return [parameter]
    hints = get_type_hints(parameter.annotation, include_extras=True)
    return [
        parameter.replace(name=one.name, default=one.default, annotation=hints[one.name])
        for one in fields(parameter.annotation)
    ]


def _gathered(parameter: inspect.Parameter, options: Mapping[str, Any]) -> Any:
    """The argument for one parameter: an option's value, or a group with its options."""
    if not is_dataclass(parameter.annotation):
        return options[parameter.name]
    group: Any = parameter.annotation
    return group(**{one.name: options[one.name] for one in fields(parameter.annotation)})


def _perform(work: Callable[[], Answer], as_json: bool, debug: bool) -> int:
    """Run the work, print its answer on stdout and return the exit code."""
    stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):  # libraries print where they like
            refuse_unknown(os.environ)
            answer = work()
    except (typer.Exit, typer.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        return report(error, as_json=as_json, debug=debug)
    text = json.dumps(dict(answer.data), default=str) if as_json else answer.text
    if text:
        print(text, file=stdout, flush=True)
    return answer.exit_code
