"""What every verb shares: --json, --debug, one answer on stdout and the one error boundary."""

import contextlib
import functools
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from atelier.boundary import report

AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Answer:
    """A verb's result: `text` for people, `data` for --json. Progress goes to stderr instead."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def verb(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., Answer]], Any]:
    """Register a function as a verb of `app`; it keeps working as a plain function."""

    def register(work: Callable[..., Answer]) -> Callable[..., Answer]:
        @functools.wraps(work)
        def run(*args: Any, as_json: bool, debug: bool, **options: Any) -> None:
            raise typer.Exit(_perform(functools.partial(work, *args, **options), as_json, debug))

        signature = inspect.signature(work, eval_str=True)
        shared = [
            inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False),
            inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False),
        ]
        hints = {"as_json": AsJson, "debug": Debug}
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[
                *signature.parameters.values(),
                *(option.replace(annotation=hints[option.name]) for option in shared),
            ],
            return_annotation=None,
        )
        run.__annotations__ = {
            **{key: value.annotation for key, value in signature.parameters.items()},
            **hints,
        }
        app.command(name)(run)
        return work

    return register


def _perform(work: Callable[[], Answer], as_json: bool, debug: bool) -> int:
    """Run the work with stdout kept free for the answer; the exit code."""
    stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):  # libraries print where they like
            answer = work()
    except (typer.Exit, typer.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        return report(error, as_json=as_json, debug=debug)
    text = json.dumps(dict(answer.data), default=str) if as_json else answer.text
    if text:
        print(text, file=stdout, flush=True)
    return answer.exit_code
