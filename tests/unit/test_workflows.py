"""What the workflows of .github may do, read from their text.

GitHub enforces the rest; act, which runs them here, knows no approvals and no permissions.
"""

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from commands.main import app
from tests.cluster.local import tools

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))
UNTRUSTED = re.compile(r"\$\{\{")
SECRETS = re.compile(r"\bsecrets\b")
OURS = re.compile(r"\./\.github/(workflows/[a-z]+\.yml|actions/[a-z]+)")
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
OPTION = re.compile(r"--[a-z][a-z-]*")
BEFORE = re.compile(  # a command where it is not the first word of its line
    r"^(command -v atelier \|\| \{ |"
    r"\"\$\{ATELIER_HELM:-helm\}\" version --short \| grep \^v4 \|\| \{ |"
    r"sudo --preserve-env env \"PATH=\$PATH\" |exec )"
)
CHANGING = {"promote", "rollback", "retire"}

Node = dict[str, Any]
JobCase = tuple[Path, str, Node]


def workflow(path: Path) -> Node:
    """A workflow; YAML 1.1 reads its key `on` as true."""
    found: Node = yaml.safe_load(path.read_text())
    return found | {"on": found.pop(True)}


def jobs() -> Iterator[JobCase]:
    for path in FILES:
        for name, job in workflow(path)["jobs"].items():
            yield path, name, job


def job_id(case: JobCase) -> str:
    return f"{case[0].stem}:{case[1]}"


def steps() -> Iterator[tuple[str, Node]]:
    for path, name, job in jobs():
        yield from ((f"{path.stem}:{name}", step) for step in job.get("steps", ()))
    for path in ACTIONS:
        found = yaml.safe_load(path.read_text())["runs"]["steps"]
        yield from ((path.parent.name, step) for step in found)


def runs() -> list[tuple[str, str]]:
    return [(where, step["run"]) for where, step in steps() if "run" in step]


def called(step: Node) -> tuple[str, ...]:
    """A step's program and its first word."""
    return tuple(BEFORE.sub("", step.get("run", "")).split()[:2])


def verbs(job: Node) -> set[str]:
    """Of `atelier` that a job calls."""
    found = map(called, job.get("steps", ()))
    return {words[1] for words in found if words and words[0] == "atelier"}


EVERY_JOB = pytest.mark.parametrize("case", list(jobs()), ids=job_id)
EVERY_RUN = pytest.mark.parametrize(("where", "line"), runs())


def test_there_is_one_for_each_part_of_the_way() -> None:
    names = "adapter ci drift images live promote release retire rollback train validate"
    assert " ".join(path.stem for path in FILES) == names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_grants_nothing_by_itself_and_names_its_shell(path: Path) -> None:
    found = workflow(path)
    assert found["permissions"] == {}
    assert found["defaults"] == {"run": {"shell": "bash"}}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_code_of_a_pull_request_never_runs_as_the_main_branchs(path: Path) -> None:
    on = workflow(path)["on"]
    assert not set(on) & {"pull_request_target", "workflow_run", "issue_comment"}


@EVERY_JOB
def test_a_job_says_what_it_may_do_and_for_how_long(case: JobCase) -> None:
    _, _, job = case
    allowed = {"contents", "id-token", "packages", "pull-requests"}
    assert set(job["permissions"]) <= allowed
    if "uses" not in job:
        assert 0 < job["timeout-minutes"] <= 360


def secrets_lie_in_environments(found: Node) -> None:
    """Those say from which branch and with whose approval a job may have them; GitHub's own token
    is each job's."""
    outside = {key: value for key, value in found.items() if key != "jobs"}
    assert not SECRETS.search(yaml.safe_dump(outside))  # what is there is every job's
    for name, job in found["jobs"].items():
        own = {key: value for key, value in job.items() if key != "secrets"}
        named = SECRETS.search(yaml.safe_dump(own))
        if "uses" in job:  # what it calls reads them, and is looked at itself
            assert not named, name
            assert job.get("secrets") in (None, "inherit"), name
        elif named or "id-token" in job["permissions"]:
            assert job.get("environment"), name
            assert "pull_request" not in found["on"], name


def pull_requests_get_nothing_to_deploy_with(found: Node) -> None:
    if "pull_request" not in found["on"]:
        return
    for name, job in found["jobs"].items():
        if not on_push_alone(found["jobs"], name):
            assert not {"environment", "uses", "secrets"} & set(job), name
            assert set(job["permissions"]) <= {"contents", "pull-requests"}, name
            assert job["permissions"]["contents"] == "read", name
            checkout = next(one for one in job["steps"] if "checkout@" in one.get("uses", ""))
            assert checkout["with"]["persist-credentials"] is False, name


def on_push_alone(among: Node, name: str) -> bool:
    """Whether a job says so, or is skipped with one that it needs. One that asks how that went
    (`always()`) is not skipped."""
    job = among[name]
    condition = str(job.get("if", ""))
    if condition == "github.event_name == 'push'":
        return True
    needed = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", ())
    asks = re.search(r"\b(always|cancelled|failure|success)\(", condition)
    return not asks and any(on_push_alone(among, one) for one in needed)


RULES = (secrets_lie_in_environments, pull_requests_get_nothing_to_deploy_with)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_secret_is_only_where_somebody_may_have_it(
    path: Path, rule: Callable[[Node], None]
) -> None:
    rule(workflow(path))


STOLEN = {"env": {"KEY": "${{ secrets.ATELIER_SIGNING_KEY }}"}}


@pytest.mark.parametrize(
    ("where", "changed"),
    [
        pytest.param("train", STOLEN, id="a workflow's variable"),
        pytest.param("train", {"env": {"ALL": "${{ toJSON(secrets) }}"}}, id="all at once"),
        pytest.param("train:lint", STOLEN, id="a job's variable"),
        pytest.param("train:changed", STOLEN, id="that of a job on a push"),
        pytest.param("train:lint", {"steps": [STOLEN]}, id="a step's variable"),
        pytest.param("train:lint", {"environment": "training"}, id="an environment"),
        pytest.param("train:lint", {"permissions": {"id-token": "write"}}, id="a token"),
        pytest.param("train:changed", {"if": "true"}, id="what is needed is no push's"),
        pytest.param("train:adapter", {"needs": "lint"}, id="another is needed"),
        pytest.param("train:adapter", {"if": "always()"}, id="though what is needed was skipped"),
        pytest.param("train:adapter", {"secrets": {"KEY": "${{ secrets.X }}"}}, id="handed on"),
        pytest.param("ci:tests", {"needs": "checks", "environment": "x"}, id="a job after another"),
        pytest.param("ci:tests", {"secrets": "inherit"}, id="all of them"),
        pytest.param("validate:validate", {"environment": None}, id="no environment"),
    ],
)
def test_a_secret_somewhere_else_is_found(where: str, changed: Node) -> None:
    file, _, job = where.partition(":")
    found = workflow(ROOT / f".github/workflows/{file}.yml")
    (found["jobs"][job] if job else found).update(changed)
    with pytest.raises(AssertionError):
        for rule in RULES:
            rule(found)


@EVERY_JOB
def test_a_checkout_keeps_its_token_only_where_the_job_pushes(case: JobCase) -> None:
    _, _, job = case
    for step in job.get("steps", ()):
        if "checkout@" in step.get("uses", ""):
            kept = step.get("with", {}).get("persist-credentials", True)
            assert kept == (job["permissions"]["contents"] == "write")


@EVERY_JOB
def test_what_changes_an_environment_waits_its_turn(case: JobCase) -> None:
    path, _, job = case
    if verbs(job) & CHANGING:
        source = "matrix" if "strategy" in job else "inputs"
        group = f"${{{{ {source}.environment }}}}-${{{{ {source}.adapter }}}}"
        if path.stem != "promote":  # a promotion that waits for its approval holds no form up
            group = f"{path.stem}-{group}"
        assert job["concurrency"] == {"group": group, "cancel-in-progress": False}
        assert job["environment"] == f"${{{{ {source}.environment }}}}"


@EVERY_JOB
def test_what_changes_an_environment_does_what_main_declares_now(case: JobCase) -> None:
    """Approved of days later, or run again, the commit of its event is an old one."""
    path, _, job = case
    if not verbs(job) & CHANGING:
        return
    checkout, setup, *rest = job["steps"]
    assert checkout["with"]["ref"] == "main" and "setup" in setup["uses"]
    if path.stem == "promote":
        asked, *others = rest
        assert (asked["id"], called(asked)) == ("git", ("atelier", "declared"))
        wanted = "true" if "promote" in verbs(job) else "false"
        for step in others:
            assert step["if"].startswith(f"steps.git.outputs.declared == '{wanted}'")


@EVERY_JOB
def test_who_runs_helm_has_helm_4(case: JobCase) -> None:
    """Hosted runners have a Helm 3, which knows no `rollback --description`."""
    _, _, job = case
    if verbs(job) & {*CHANGING, "status"}:
        (setup,) = (one for one in job["steps"] if "actions/setup" in one.get("uses", ""))
        assert setup["with"] == {"helm": "true"}


@EVERY_JOB
def test_what_is_cancelled_hears_of_it(case: JobCase) -> None:
    """Actions signals the process that it started: the shell, where nothing took its place."""
    _, _, job = case
    for step in job.get("steps", ()):
        words = called(step)
        if words and words[1] in {*CHANGING, "submit"} and "--stop" not in step["run"]:
            assert step["run"].startswith("exec atelier ")


@pytest.mark.parametrize("name", ["rollback", "retire"])
def test_git_learns_of_what_was_done_though_it_failed_in_the_end(name: str) -> None:
    (job,) = workflow(ROOT / f".github/workflows/{name}.yml")["jobs"].values()
    *_, last = job["steps"]
    assert called(last) == ("atelier", "commit") and last["if"] == "always()"


def test_what_was_trained_is_what_is_judged_and_one_that_was_refused_too() -> None:
    train, validate = workflow(ROOT / ".github/workflows/adapter.yml")["jobs"].values()
    (submit,) = (step for step in train["steps"] if "--follow" in step.get("run", ""))
    assert '--github-output "$GITHUB_OUTPUT"' in submit["run"]
    for name in ("adapter", "version"):
        assert train["outputs"][name] == f"${{{{ steps.{submit['id']}.outputs.{name} }}}}"
        assert validate["with"][name] == f"${{{{ needs.train.outputs.{name} }}}}"
    assert validate["if"] == "${{ !cancelled() && needs.train.outputs.version }}"


def test_what_is_stopped_is_what_was_submitted() -> None:
    """A Job is named by what it is made from: with another option it would be another one."""
    steps_ = workflow(ROOT / ".github/workflows/adapter.yml")["jobs"]["train"]["steps"]
    (submit,) = (step for step in steps_ if "--follow" in step.get("run", ""))
    (stop,) = (step for step in steps_ if "ATELIER_STOP_CANCELLED" in step.get("if", ""))
    assert stop["if"] == "cancelled() && vars.ATELIER_STOP_CANCELLED == 'true'"
    asked = submit["run"].removeprefix("exec ")
    asked = asked.replace('--follow --github-output "$GITHUB_OUTPUT"', "--stop")
    assert stop["run"] == asked
    assert not {"env", "working-directory"} & {*submit, *stop}  # each word means the same


def test_what_was_judged_is_what_is_proposed() -> None:
    """The newest candidate is asked for once: another may come between the two commands."""
    (job,) = workflow(ROOT / ".github/workflows/validate.yml")["jobs"].values()
    by_verb = {called(step)[1]: step for step in job["steps"] if "run" in step}
    judged, proposed = by_verb["validate"], by_verb["propose"]
    assert '--github-output "$GITHUB_OUTPUT"' in judged["run"]
    assert proposed["env"]["VERSION"] == f"${{{{ steps.{judged['id']}.outputs.version }}}}"
    assert shlex.split(proposed["run"])[2:4] == ["$ADAPTER", "$VERSION"]


def test_what_is_not_ours_is_pinned_by_commit_and_says_its_version() -> None:
    used = [one["uses"] for _, one in steps() if "uses" in one]
    used += [job["uses"] for _, _, job in jobs() if "uses" in job]
    for one in used:
        ours = OURS.fullmatch(one)
        assert (ours and (ROOT / one).exists()) or PINNED.fullmatch(one), one
    for path in (*FILES, *ACTIONS):
        for line in re.findall(r"uses: (\S+@.*)", path.read_text()):
            assert re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), f"{path.name}: {line}"
    assert {one.partition("@")[0] for one in used if "@" in one} == {
        "actions/cache",
        "actions/checkout",
        "actions/upload-artifact",
    }


@EVERY_RUN
def test_no_text_of_others_is_part_of_a_command(where: str, line: str) -> None:
    """Values reach commands as variables, where a quote or a `$(…)` in them is only text."""
    assert not UNTRUSTED.search(line)
    optional = re.compile(r'\$\{(\w+):\+"\$\1"\}')  # one word, or none where it is empty
    unquoted = re.findall(r"\$\{?(\w+)", re.sub(r'"[^"]*"', "", optional.sub("", line)))
    assert set(unquoted) <= {"OPTIONS"}  # the operator's own words


@EVERY_RUN
def test_a_step_is_a_command_that_a_person_can_run(where: str, line: str) -> None:
    program_, verb, *rest = shlex.split(BEFORE.sub("", line))
    if program_ == "make":
        assert verb in TARGETS
        return
    assert program_ == "atelier"
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    for option in filter(OPTION.fullmatch, rest):
        assert option in known, f"{verb} has no {option}"


def test_the_cluster_tests_run_for_each_change_without_a_node_and_nightly_with_one() -> None:
    found = workflow(ROOT / ".github/workflows/ci.yml")
    assert {"pull_request", "schedule"} <= set(found["on"])
    api, e2e = found["jobs"]["api"], found["jobs"]["e2e"]
    assert "if" not in api and ("make", "api") in map(called, api["steps"])
    assert "github.event_name == 'schedule'" in e2e["if"] and "pull_request" not in e2e["if"]
    *_, tested, kept = e2e["steps"]
    assert called(tested) == ("make", "e2e")
    assert f"RESULTS={kept['with']['path']}" in tested["run"]
    assert "upload-artifact@" in kept["uses"] and kept["if"] == "always()"


def test_the_cache_of_the_clusters_tools_holds_what_was_built_for_these_pins() -> None:
    cached = next(step for where, step in steps() if where == "cluster" and "uses" in step)
    written = tools.program("x"), tools.chart("x"), tools._stamp(tools.FAMILIES[0])
    parts = {f"~/.cache/atelier-cluster/{one.parent.name}" for one in written}
    assert set(cached["with"]["path"].split()) == parts
    for file in ("tests/cluster/tools/**", "tests/cluster/local/tools.py"):
        assert f"'{file}'" in cached["with"]["key"] and list(ROOT.glob(file))


def test_actionlint_has_nothing_to_say() -> None:
    actionlint = tools.program("actionlint")
    if not actionlint.exists():
        pytest.skip(f"no {actionlint}: `make workflows` builds it")
    done = subprocess.run([actionlint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
