"""Pages that repeat what the code says, held against it."""

import re
from pathlib import Path

from typer.testing import CliRunner

from atelier.contract.problems import CATALOGUE, error_of
from atelier.errors import BadInput, ExitCode, Refused, Unavailable
from commands.main import app
from services.gateway.app import create_app
from services.gateway.problems import V2_STATUS
from tests.gateway import Stage

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
OPTION = re.compile(r"--[a-z][a-z-]*")
ERRORS = (ROOT / "docs" / "errors.md").read_text()


def test_every_problem_of_the_gateway_is_explained() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+) \|$", ERRORS, re.M)
    assert {slug: (int(status), title) for slug, status, title in rows} == CATALOGUE


def test_every_exit_code_is_explained() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \| ", ERRORS, re.M)}
    assert codes == set(ExitCode)


def told_by_help(*verb: str) -> set[str]:
    """The options that a verb's --help names."""
    shown = CliRunner().invoke(app, [*verb, "--help"])
    assert shown.exit_code == 0, f"README: `atelier {' '.join(verb)}`: {shown.output}"
    return set(OPTION.findall(shown.stdout))


def test_the_options_that_the_readmes_prose_names_exist() -> None:
    """Its blocks of commands run in tests/integration/test_readme.py. What needs a base from the
    hub is not in them; `serve` runs with those options in tests/integration/test_serving_vae.py.
    """
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    spans = re.findall(r"`([^`]+)`", prose)
    calls = [span.split() for span in spans if re.match(r"atelier [a-z]", span)]
    assert {"--base", "--vae"} <= {word for call in calls for word in call if call[1] == "serve"}
    for _, verb, *rest in calls:
        assert set(filter(OPTION.fullmatch, rest)) <= told_by_help(verb)
    loose = {span for span in spans if OPTION.fullmatch(span)}
    assert {"--policy", "--revision"} <= loose
    known = {verb: told_by_help(verb) for verb in ("train", "run", "serve", "evaluate", "promote")}
    for option in loose:
        assert any(option in told for told in known.values()), option
    assert {"--policy"} <= known["evaluate"] & known["promote"]
    assert {"--revision"} <= known["serve"]


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_client_has_an_error_for_every_problem() -> None:
    kinds = {slug: error_of(problem.status) for slug, problem in CATALOGUE.items()}
    assert {slug for slug, kind in kinds.items() if kind is Refused} == {
        *("key-missing", "key-wrong", "key-expired", "key-revoked", "forbidden", "quota-exceeded")
    }
    assert all(issubclass(kinds[slug], Unavailable) for slug in ("gateway-busy", "timed-out"))
    assert kinds["unknown-adapter"] is BadInput


def test_every_route_documents_problems_of_the_catalogue(tmp_path: Path) -> None:
    """A title or a status that is written anywhere else would not be in the catalogue."""
    schema = create_app(Stage(tmp_path).settings()).openapi()
    known = {(problem.status, problem.title) for problem in CATALOGUE.values()}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status in ("200", "422") or path == "/readyz":
                    continue
                titles = response["description"].split("; ")
                if "application/problem+json" in response["content"]:
                    examples = response["content"]["application/problem+json"]["examples"]
                    titles = [one["value"]["title"] for one in examples.values()]
                known_here = known | {(V2_STATUS.get(s, s), title) for s, title in known}
                assert {(int(status), title) for title in titles} <= known_here, (path, status)


def test_the_modules_that_a_rooms_readme_lists_are_in_that_room() -> None:
    rooms = ("atelier", "bench", "commands", "models", "pipelines", "services")
    missing = [
        f"{readme.relative_to(ROOT)}: {module}"
        for room in rooms
        for readme in (ROOT / room).rglob("README.md")
        for module in re.findall(r"^\| `([\w/]+\.py)`", readme.read_text(), re.M)
        if not (readme.parent / module).is_file()
    ]
    assert not missing
