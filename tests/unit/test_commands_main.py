"""The command line as a whole: every verb has the shared options, and help costs nothing."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from commands.command import CommandGroup
from commands.main import SECTIONS, app

VERBS = [
    verb
    for entries in SECTIONS.values()
    for name, entry in entries.items()
    for verb in (
        [(name, inner) for inner in entry.commands]
        if isinstance(entry, CommandGroup)
        else [(name,)]
    )
]
LIBRARIES = {  # not pydantic, by which Typer itself reads options
    *("PIL", "accelerate", "cryptography", "diffusers", "fastapi", "httpx2", "huggingface_hub"),
    *("kubernetes", "mlflow", "numpy", "onnxruntime", "rich", "ruamel", "safetensors"),
    *("sigstore", "sqlalchemy", "torch", "transformers", "tritonclient", "uvicorn", "wandb"),
}
ROOMS = {"pipelines", "services"}


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself_and_has_the_shared_options(verb: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*verb, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout and "--debug" in result.stdout
    explained = result.stdout.split("\n\n")[1].strip()
    assert explained.endswith("."), "a verb's first sentence says what it does"


def test_verbs_of_later_issues_are_not_promised() -> None:
    assert ("dataset", "annotate") not in VERBS


def test_without_arguments_the_verbs_are_listed() -> None:
    result = CliRunner().invoke(app, [])
    assert "promote" in result.output and "generate" in result.output


def test_a_misspelt_verb_is_bad_input() -> None:
    result = CliRunner().invoke(app, ["promot"])
    assert result.exit_code == 2
    assert "promot" in result.output


def test_help_lists_the_verbs_by_section_in_plain_text() -> None:
    """As it arrives in a pipe: headings, one line a verb, no boxes and no escape sequences."""
    shown = help_of_process().stdout
    assert shown.isascii()
    listing = shown.partition("Train:\n")
    assert "--version" in listing[0]
    sections: dict[str, list[str]] = {}
    for line in (listing[1] + listing[2]).splitlines():
        if heading := re.fullmatch(r"(\w+):", line):
            names = sections.setdefault(heading[1], [])
        elif line:
            names.append(line.split()[0])
    assert sections == {section: list(entries) for section, entries in SECTIONS.items()}
    assert list(sections) == ["Train", "Release", "Serve", "CI", "Admin"]
    assert "..." not in listing[2], "a summary is too long for its line"


def test_the_help_of_the_command_loads_nothing_heavy() -> None:
    assert not heavy(help_of_process("-X", "importtime").stderr)


def test_the_help_of_every_verb_loads_nothing_heavy() -> None:
    """One process asks for the help of all, so nothing that it holds at the end is anybody's."""
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from commands.main import app\n"
        f"for verb in {VERBS!r}:\n"
        "    assert CliRunner().invoke(app, [*verb, '--help']).exit_code == 0, verb\n"
        "print(*sys.modules, sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert {"commands.serve.serve", "commands.admin.keys"} <= set(loaded)
    assert not heavy("\n".join(f"import time: | {name}" for name in loaded))


def help_of_process(*options: str) -> subprocess.CompletedProcess[str]:
    """`atelier --help` as a process of its own."""
    command = [sys.executable, *options, "-m", "commands", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def heavy(imports: str) -> set[str]:
    """The libraries, and the rooms beside core and commands, in a log of `-X importtime`."""
    names = {line.rpartition("|")[2].strip() for line in imports.splitlines() if "|" in line}
    assert any(name.startswith("commands") for name in names)
    return {name.partition(".")[0] for name in names} & (LIBRARIES | ROOMS)
