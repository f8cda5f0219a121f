"""A workflow's job on a real API server: believed by its OIDC token, and allowed what it needs."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.helm import program
from tests.cluster.apiserver import ApiServer, missing
from tests.cluster.issuer import Issuer

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "adapter"
JOB = "repo:OWNER/NAME:environment:"
Said = subprocess.CompletedProcess[str]
Run = Callable[..., Said]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    if why := missing():
        pytest.skip(why)
    made = Issuer(tmp_path_factory.mktemp("issuer"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def believing(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with k8s/authentication.yaml, whose issuer is ours, and k8s/deployer.yaml."""
    config = yaml.safe_load((ROOT / "k8s" / "authentication.yaml").read_text())
    config["jwt"][0]["issuer"] |= {"url": issuer.address, "certificateAuthority": issuer.authority}
    made = ApiServer(tmp_path_factory.mktemp("believing"), authentication=config)
    try:
        made.start()
        kubectl(made.kubeconfig("admin"), "apply", "-f", f"{ROOT}/k8s/namespaces.yaml")
        for file in ("training", "deployer"):
            kubectl(made.kubeconfig("admin"), "apply", "-f", f"{ROOT}/k8s/{file}.yaml")
        yield made
    finally:
        made.stop()


def kubectl(config: Path, *words: str) -> str:
    done = subprocess.run(
        [program("kubectl"), "--kubeconfig", str(config), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def job(believing: ApiServer, issuer: Issuer, tmp_path: Path) -> Callable[[str], Run]:
    """Runs commands as the steps of a job of an environment, after `atelier login`."""

    def begin(environment: str) -> Run:
        (tmp_path / "env").unlink(missing_ok=True)
        variables = {
            **{key: value for key, value in os.environ.items() if key != "KUBECONFIG"},
            **issuer.variables(JOB + environment),
            "ATELIER_CLUSTER": believing.address,
            "ATELIER_CLUSTER_CA": believing.certificate.read_text(),
            "GITHUB_ENV": str(tmp_path / "env"),
            "RUNNER_TEMP": str(tmp_path),
            "PYTHONPATH": str(ROOT),
        }
        login = run([sys.executable, "-m", "commands", "login"], variables)
        assert login.returncode == 0, login.stderr
        name, _, value = (tmp_path / "env").read_text().strip().partition("=")
        assert kept(Path(value)) == []
        return lambda *words: run([program(words[0]), *words[1:]], variables | {name: value})

    return begin


def run(words: list[str], variables: dict[str, str]) -> Said:
    return subprocess.run(
        words, env=variables, capture_output=True, text=True, check=False, timeout=120
    )


def kept(kubeconfig: Path) -> list[Any]:
    """Credentials in a kubeconfig: there are to be none."""
    users = yaml.safe_load(kubeconfig.read_text())["users"]
    return [key for one in users for key in one["user"] if key != "exec"]


def test_a_job_is_the_user_of_its_environment(job: Callable[[str], Run]) -> None:
    said = job("production")("kubectl", "auth", "whoami", "-o", "jsonpath={.status.userInfo}")
    assert said.returncode == 0, said.stderr
    assert "github:repo:OWNER/NAME:environment:production" in said.stdout
    assert "system:masters" not in said.stdout


def test_a_promotion_may_do_all_that_helm_does_in_its_own_namespace(
    job: Callable[[str], Run],
) -> None:
    """Hooks are Jobs, which nobody runs here: that they may be made and followed is asked."""
    helm = job("staging")
    place = ("--namespace", "atelier-staging")
    values = ("--values", str(CHART / "ci" / "first.yaml"))
    name = yaml.safe_load((CHART / "ci" / "first.yaml").read_text())["adapter"]
    upgrade = ("helm", "upgrade", "--install", name, str(CHART), *place, *values, "--no-hooks")
    for _ in range(2):
        done = helm(*upgrade)
        assert done.returncode == 0, done.stderr
    for words in (("rollback", name, "1", "--no-hooks"), ("uninstall", name, "--no-hooks")):
        done = helm("helm", *words, *place)
        assert done.returncode == 0, done.stderr
    for verb in ("get", "list", "watch", "create", "patch", "delete"):
        assert helm("kubectl", "auth", "can-i", verb, "jobs", *place).stdout == "yes\n"
    elsewhere = helm(*[word.replace("staging", "production") for word in upgrade])
    assert elsewhere.returncode != 0 and "forbidden" in elsewhere.stderr


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        (
            "staging",
            [
                ("create", "pods", "staging"),
                ("create", "roles", "staging"),
                ("create", "pods/exec", "staging"),
                ("create", "serviceaccounts/token", "staging"),
                ("get", "secrets", "production"),
            ],
        ),
        (
            "production-watch",
            [("create", "configmaps", "production"), ("delete", "secrets", "production")],
        ),
        ("training", [("get", "secrets", "training"), ("get", "configmaps", "production")]),
        ("production-live", [("create", "pods", "production"), ("get", "secrets", "staging")]),
        ("another", [("list", "configmaps", "production")]),
    ],
)
def test_a_job_may_do_no_more(
    job: Callable[[str], Run], environment: str, refused: list[tuple[str, str, str]]
) -> None:
    step = job(environment)
    for verb, what, namespace in refused:
        place = ("--namespace", f"atelier-{namespace}")
        said = step("kubectl", "auth", "can-i", verb, what, *place)
        assert said.stdout == "no\n", (verb, what, namespace)


def test_who_looks_may_look_and_who_trains_may_submit(job: Callable[[str], Run]) -> None:
    watch = job("production-watch")
    for what in ("secrets", "configmaps", "leases"):
        listed = watch("kubectl", "get", what, "--namespace", "atelier-production")
        assert listed.returncode == 0, listed.stderr
    asked = ("kubectl", "auth", "can-i", "create", "jobs", "--namespace", "atelier-training")
    assert job("training")(*asked).stdout == "yes\n"


LONG = """
import time
from atelier.platform import Api
api, end = Api.connect("atelier-staging"), time.monotonic() + 8
while time.monotonic() < end:
    api.list("/api/v1/namespaces/{namespace}/configmaps")
    time.sleep(1)
"""


def test_a_long_promotion_gets_a_fresh_token_when_one_ends(
    job: Callable[[str], Run], issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own client, in one process, across the end of its first token."""
    monkeypatch.setattr(issuer, "seconds", 4.0)
    step, before = job("staging"), issuer.given
    done = step(sys.executable, "-c", LONG)
    assert done.returncode == 0, done.stderr
    assert issuer.given - before > 1


@pytest.mark.parametrize(
    ("audience", "claims", "believed"),
    [
        ("atelier", {}, True),
        ("others", {}, False),
        ("atelier", {"repository_id": "7"}, False),  # another, that has taken the name
        ("atelier", {"ref": "refs/heads/mine"}, False),
        ("atelier", {"ref": "refs/pull/7/merge"}, False),
    ],
    ids=["main", "audience", "repository", "branch", "pull-request"],
)
def test_a_token_is_believed_of_this_repositorys_main_alone(
    believing: ApiServer,
    issuer: Issuer,
    tmp_path: Path,
    audience: str,
    claims: dict[str, str],
    believed: bool,
) -> None:
    variables = {**os.environ, **issuer.variables(f"{JOB}staging", **claims)}
    variables |= {"PYTHONPATH": str(ROOT)}
    variables |= {"ATELIER_CLUSTER": believing.address, "KUBECONFIG": ""}
    variables |= {"ATELIER_CLUSTER_CA": believing.certificate.read_text()}
    file = tmp_path / "kubeconfig"
    login = ("-m", "commands", "login", "--audience", audience, "--out", str(file))
    assert run([sys.executable, *login], variables).returncode == 0
    listed = run(
        [program("kubectl"), "get", "configmaps", "-n", "atelier-staging"],
        variables | {"KUBECONFIG": str(file)},
    )
    assert (listed.returncode == 0) is believed
    assert believed or "Unauthorized" in listed.stderr + listed.stdout
