"""The shared parts of a verb: answers, --json, and the one error boundary."""

import errno
import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from atelier.errors import (
    AdapterRejected,
    AtelierError,
    Interrupted,
    RecipeError,
    Refused,
    Unavailable,
)
from atelier.failures import failure_of
from commands.command import Answer, add_command
from commands.terminal import short, table


def app_that(work) -> typer.Typer:
    app = typer.Typer()
    add_command(app, "work", work)
    add_command(app, "other", lambda: Answer(""))  # Typer folds an app of one command into its root
    return app


def run(work, *arguments: str):
    return CliRunner().invoke(app_that(work), ["work", *arguments])


def raises(error: BaseException):
    def work() -> Answer:
        """Fail."""
        raise error

    return work


def greet(name: str = "you", exit_code: int = 0) -> Answer:
    """Greet somebody."""
    print("a library talks")
    return Answer(f"hello {name}", {"greeted": name}, exit_code)


@dataclass(frozen=True)
class Colours:
    """A group of options."""

    ink: Annotated[str, typer.Option(help="Of the pen.")] = "blue"
    thick: Annotated[bool, typer.Option("--thick")] = False


def draw(what: str, colours: Colours = Colours(), size: int = 1) -> Answer:
    """Draw something."""
    return Answer(what, {"what": what, "size": size, **asdict(colours)})


def test_a_group_of_options_is_shared_by_verbs() -> None:
    drawn = run(draw, "a cat", "--thick", "--size", "3", "--json")
    assert json.loads(drawn.stdout) == {"what": "a cat", "size": 3, "ink": "blue", "thick": True}
    assert "--ink" in run(draw, "--help").stdout and "Of the pen." in run(draw, "--help").stdout
    assert draw("a cat").data["ink"] == "blue"  # still a plain function


def test_a_person_reads_text() -> None:
    result = run(greet, "--name", "ada")
    assert (result.exit_code, result.stdout) == (0, "hello ada\n")


def test_json_is_one_object_and_nothing_else_on_stdout() -> None:
    result = run(greet, "--json")
    assert json.loads(result.stdout) == {"greeted": "you"}
    assert "a library talks" in result.stderr


def test_an_answer_may_carry_an_exit_code() -> None:
    assert run(greet, "--exit-code", "1").exit_code == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("recipe.yaml: stages.0.lora.rnak: did you mean rank?"), 2),
        (AdapterRejected("adapter.safetensors: not finite"), 2),
        (Refused("gate subject: 0.2 < 0.6"), 1),
        (Unavailable("MLflow at http://x is away"), 3),
        (Interrupted("stopped, checkpoint at step 50"), 143),
        (AtelierError("plain"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/no/where"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), 3),
        (OSError(errno.ENOSPC, "No space left on device"), 3),
        (KeyboardInterrupt(), 130),
        (ValueError("surprise"), 70),
    ],
)
def test_errors_are_one_clear_line_with_an_exit_code(error: BaseException, code: int) -> None:
    result = run(raises(error))
    assert result.exit_code == code == failure_of(error).exit_code
    assert result.stderr.startswith("atelier: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_error_keeps_its_text_whole() -> None:
    text = "recipe.yaml: stages.0.lora.rnak: unknown key; did you mean rank?"
    assert run(raises(RecipeError(text))).stderr == f"atelier: {text}\n"


def test_the_unknown_names_debug_and_debug_shows_the_traceback() -> None:
    assert "--debug" in run(raises(ValueError("surprise"))).stderr
    shown = run(raises(ValueError("surprise")), "--debug").stderr
    assert "Traceback" in shown and "ValueError: surprise" in shown


def test_json_errors_are_one_object_too() -> None:
    result = run(raises(Unavailable("away")), "--json")
    assert json.loads(result.stdout) == {
        "error": {"kind": "Unavailable", "message": "away", "exit_code": 3}
    }


def test_stdout_is_given_back_after_an_error() -> None:
    before = sys.stdout
    run(raises(Refused("no")))
    assert sys.stdout is before


def test_table_aligns_and_marks_what_is_missing() -> None:
    text = table(("name", "version"), [("thor-cat", 2), ("hand", None)])
    assert text.splitlines() == ["name      version", "thor-cat  2", "hand      -"]
    assert table(("name",), []) == "name"


def test_short_digest() -> None:
    assert short("sha256:" + "ab" * 32) == "ab" * 6
    assert short(None) == "-"
