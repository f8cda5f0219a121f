"""The command line as a whole: every verb has the shared options and explains itself."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from commands.main import app


def verbs() -> list[tuple[str, ...]]:
    """Every verb as it is typed, groups included."""
    found = []
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found += [(name, sub) for sub in inner] if inner else [(name,)]
    return found


@pytest.mark.parametrize("verb", verbs(), ids=" ".join)
def test_every_verb_explains_itself_and_has_the_shared_options(verb: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*verb, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout and "--debug" in result.stdout
    explained = result.stdout.split("\n\n")[1].strip()
    assert explained.endswith("."), "a verb's first sentence says what it does"


def test_verbs_of_later_issues_are_not_promised() -> None:
    names = {" ".join(verb) for verb in verbs()}
    assert not names & {"dataset annotate"}


def test_without_arguments_the_verbs_are_listed() -> None:
    result = CliRunner().invoke(app, [])
    assert "promote" in result.output and "generate" in result.output


def test_a_misspelt_verb_is_bad_input() -> None:
    result = CliRunner().invoke(app, ["promot"])
    assert result.exit_code == 2
    assert "promot" in result.output
