"""Settings: one class a process, one list of names in the core, one table in the docs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer.main
from pydantic import Field
from typer.testing import CliRunner

from atelier.errors import BadInput
from atelier.home import Home, HomeSettings
from atelier.settings import DEVELOPMENT, NAMES, Settings, refuse_unknown
from commands.main import app
from commands.settings import CommandSettings
from pipelines.delivery.cluster.hook_settings import HookSettings
from pipelines.settings import JobSettings
from services.agent.settings import AgentSettings
from services.engine.settings import EngineSettings
from services.gateway.settings import GatewaySettings
from services.triton.settings import ModelSettings, ServerSettings

ROOT = Path(__file__).parents[2]
PROCESSES: dict[str, type[Settings]] = {
    "services.gateway": GatewaySettings,
    "services.triton": ServerSettings,
    "the model in Triton": ModelSettings,
    "services.agent": AgentSettings,
    "services.storage": HomeSettings,
    "pipelines": JobSettings,
    "pipelines.delivery.cluster.hook": HookSettings,
    "atelier": CommandSettings,
}


class Example(Settings):
    """Some of every kind."""

    name: str = Field(description="Its name")
    count: Annotated[int, Field(ge=1, le=9)] = Field(default=3, description="How many")
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=0.5, description="How much"
    )
    on: bool = Field(default=False, description="Whether")
    secret: Annotated[str, Field(max_length=5)] | None = Field(
        default=None, repr=False, validation_alias="ATELIER_KEY", description="Nobody's business"
    )


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    names = NAMES | {f"ATELIER_{one}" for one in ("NAME", "COUNT", "SHARE", "ON")}
    monkeypatch.setattr("atelier.settings.NAMES", names)


def options(group: Any = None) -> Iterator[str]:
    """The variables that stand in for options of the command line."""
    for command in (group or typer.main.get_command(app)).commands.values():
        if hasattr(command, "commands"):
            yield from options(command)
        yield from (one.envvar for one in command.params if one.envvar)


def test_values_are_read_with_their_types_and_nothing_is_read_by_a_constructor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = {
        "ATELIER_NAME": "x",
        "ATELIER_COUNT": "4",
        "ATELIER_SHARE": "",
        "ATELIER_ON": "true",
        "ATELIER_KEY": "s3",
        "PATH": "/bin",
    }
    read = Example.read(said)
    assert read == Example(name="x", count=4, on=True, secret="s3")
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert Example.read() == read
    assert Example(name="y").count == 3


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ATELIER_COUNT", "many", "ATELIER_COUNT=many: must be a whole number (How many)"),
        ("ATELIER_COUNT", "0", "ATELIER_COUNT=0: must be at least 1 (How many)"),
        ("ATELIER_COUNT", "10", "ATELIER_COUNT=10: must be at most 9 (How many)"),
        ("ATELIER_SHARE", "nan", "ATELIER_SHARE=nan: must be a finite number (How much)"),
        ("ATELIER_SHARE", "0", "ATELIER_SHARE=0: must be more than 0.0 (How much)"),
        ("ATELIER_ON", "maybe", "ATELIER_ON=maybe: must be true or false (Whether)"),
        ("ATELIER_NAME", "", "ATELIER_NAME is not set (Its name)"),
        ("ATELIER_COUNTS", "1", "ATELIER_COUNTS is not a setting; did you mean ATELIER_COUNT?"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, value: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        Example.read({"ATELIER_NAME": "x", name: value})
    assert str(caught.value) == told


def test_a_secret_is_in_no_text() -> None:
    with pytest.raises(BadInput) as caught:
        Example.read({"ATELIER_NAME": "x", "ATELIER_KEY": "hunter2"})
    assert str(caught.value).startswith("ATELIER_KEY: ")
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__}"
    kept = Example.read({"ATELIER_NAME": "x", "ATELIER_KEY": "s3cr"})
    assert "s3cr" not in f"{kept!r}{kept}"
    with pytest.raises(ValueError, match="secret") as direct:
        Example(name="x", secret="hunter2")
    assert "hunter2" not in str(direct.value)


@pytest.mark.parametrize(
    ("process", "field"),
    [
        ("services.gateway", "database_url"),
        ("pipelines.delivery.cluster.hook", "key"),
        ("atelier", "database"),
        ("atelier", "signing_key"),
        ("atelier", "signing_password"),
    ],
)
def test_what_is_secret_is_declared_so(process: str, field: str) -> None:
    assert PROCESSES[process].model_fields[field].repr is False


def test_the_list_of_names_is_that_of_the_processes() -> None:
    declared = {name for one in PROCESSES.values() for name in one.variables().values()}
    assert declared | set(options()) == NAMES
    assert not NAMES & DEVELOPMENT


def test_every_bound_of_an_engine_is_a_variable() -> None:
    variables = EngineSettings.variables()
    assert set(variables) == set(EngineSettings.model_fields)
    for one in (ModelSettings, ServerSettings, JobSettings, CommandSettings):
        assert variables.items() <= one.variables().items(), one


def test_the_names_of_development_are_read_by_the_makefile_or_the_tests() -> None:
    files = [ROOT / "Makefile", *(ROOT / "tests").rglob("*.py")]
    text = "\n".join(file.read_text() for file in files if file != Path(__file__))
    assert {name for name in DEVELOPMENT if not re.search(rf"{name}\b", text)} == set()


def test_nothing_but_the_settings_reads_a_variable_of_ours() -> None:
    rooms = ("atelier", "services", "pipelines", "commands")
    readers = {
        str(file.relative_to(ROOT))
        for room in rooms
        for file in (ROOT / room).rglob("*.py")
        if re.search(r"(environ(\.get|\.setdefault)?[\[(]|getenv\()\s*\"ATELIER_", file.read_text())
    }
    assert readers <= {"commands/demo/__main__.py"}  # which sets its home for what it starts


def test_workflows_manifests_and_images_set_only_settings() -> None:
    files = [
        *(ROOT / "charts").glob("*/templates/**/*.*"),
        *(ROOT / "charts").glob("*/values.yaml"),
        *ROOT.glob("Dockerfile.*"),
        *(ROOT / "k8s").rglob("*.yaml"),
    ]
    text = "\n".join(file.read_text() for file in files)
    found = set(re.findall(r"\bATELIER_[A-Z_]*[A-Z]\b", text))
    assert {"ATELIER_HOME", "ATELIER_KEY", "ATELIER_TRITONSERVER"} <= found
    assert found <= NAMES
    workflows = "\n".join(file.read_text() for file in (ROOT / ".github").rglob("*.yml"))
    passed = set(re.findall(r"^\s*(ATELIER_[A-Z_]+):", workflows, re.M))
    assert {"ATELIER_CLUSTER", "ATELIER_TRAIN_IMAGE"} <= passed <= NAMES
    engine = re.search(r"\$names := dict (.*) -}}", text)
    assert engine
    assert {f"ATELIER_{one}" for one in re.findall(r'"([A-Z_]+)"', engine[1])} <= NAMES


MAINS: dict[str, list[str]] = {
    "pipelines.compile.compile_job": ["--spec", "{}"],
    "pipelines.delivery.cluster.hook": [
        "--all",
        "--environment",
        "staging",
        "--gateway",
        "http://x",
    ],
    "pipelines.delivery.local.reconcile_loop": [],
    "pipelines.live_scores": [],
    "pipelines.training_job": ["--spec", "{}", "--policy", "policy.yaml"],
    "pipelines.train.__main__": ["recipe.json", "--policy", "policy.json", "--output", "out"],
    "services.agent.__main__": [],
    "services.gateway.__main__": [],
    "services.storage.__main__": ["mlflow://bases/0", "here", "--registry", "sqlite:///x"],
    "services.triton.__main__": [],
}
_ALL_MAINS = """
import importlib, json, sys
for module, arguments in json.loads(sys.argv[1]).items():
    sys.argv = [module, *arguments]
    code = importlib.import_module(module).main()
    print(f"{module} ended with {code}", file=sys.stderr, flush=True)
"""


def test_every_process_refuses_a_misspelt_name() -> None:
    """In a process beside this one, for some set signal handlers; in one, for torch is slow."""
    env = {**os.environ, "ATELIER_SLOT": "4", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ended = subprocess.run(
        [sys.executable, "-c", _ALL_MAINS, json.dumps(MAINS)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    said, told = ended.stderr, "ATELIER_SLOT is not a setting; did you mean ATELIER_SLOTS?"
    for module in MAINS:
        own, found, said = said.partition(f"{module} ended with 2\n")
        assert found and told in own, (module, ended.stderr)


def test_every_main_is_among_those() -> None:
    mains = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for room in ("services", "pipelines")
        for file in (ROOT / room).rglob("*.py")
        if "if __name__ ==" in file.read_text()
    }
    assert mains == MAINS.keys()


def test_every_command_refuses_a_misspelt_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_HOMES", "x")
    for command in (["lint", "x"], ["keys", "list"], ["dataset", "lint", "x"], ["declared", "x"]):
        ended = CliRunner().invoke(app, [*command, "--json"])
        assert ended.exit_code == 2, command
        told = json.loads(ended.stdout)["error"]["message"]
        assert told == "ATELIER_HOMES is not a setting; did you mean ATELIER_HOME?"


def test_the_tests_own_names_reach_processes_and_are_let_through() -> None:
    refuse_unknown(dict.fromkeys(DEVELOPMENT, "x") | {"ATELIER": "x", "OTHER": "y"})


def test_the_database_is_the_homes_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_HOME", str(tmp_path))
    own = Home(tmp_path).database_url
    assert CommandSettings.read().database_url == GatewaySettings.read().database_url == own
    monkeypatch.setenv("ATELIER_DATABASE_URL", "postgresql+psycopg://db/atelier")
    other = "postgresql+psycopg://db/atelier"
    assert CommandSettings.read().database_url == GatewaySettings.read().database_url == other


def table(rows: dict[str, tuple[str, str]]) -> str:
    lines = [f"| `{name}` | {default} | {text} |" for name, (default, text) in rows.items()]
    return "\n".join(["| variable | default | |", "| --- | --- | --- |", *lines])


def described(settings: type[Settings], without: set[str]) -> dict[str, tuple[str, str]]:
    """Variable, default and description of the fields that have not been listed before."""
    rows = {}
    for field, variable in settings.variables().items():
        if variable not in without:
            about = settings.model_fields[field]
            empty = about.is_required() or about.default in (None, "")
            default = "" if empty else f"`{str(about.default).lower()}`"
            rows[variable] = (default, about.description or "")
    return rows


def test_the_documented_tables_are_the_classes() -> None:
    """Each heading of docs/settings.md has one table; to write them anew, print `wanted`."""
    home, engine = (set(one.variables().values()) for one in (HomeSettings, EngineSettings))
    wanted = {
        "Every process": table(described(HomeSettings, set())),
        "Engine": table(described(EngineSettings, set())),
        "Triton": table(described(ServerSettings, home | engine)),
        "Model": table(described(ModelSettings, engine)),
        "Agent": table(described(AgentSettings, home)),
        "Gateway": table(described(GatewaySettings, home)),
        "Jobs": table(described(JobSettings, home | engine)),
        "Hook": table(described(HookSettings, home)),
        "Command line": table(
            described(CommandSettings, home | engine | set(JobSettings.variables().values()))
        ),
    }
    page = (ROOT / "docs/settings.md").read_text()
    found = dict(re.findall(r"^## (.+?)\n.*?(^\| variable.*?)(?=\n\n|\Z)", page, re.M | re.S))
    found = {name: text.strip() for name, text in found.items()}
    for variable in sorted(set(options())):  # --help says the same in its own words
        row = re.search(rf"^\| `{variable}` \|  \| .+ \|\n?", found["Command line"], re.M)
        assert row, variable
        found["Command line"] = found["Command line"].replace(row[0], "").strip()
    for name, text in wanted.items():
        assert found[name] == text, f"{name}:\n{text}"
    assert found.keys() == wanted.keys()
