"""The cluster the tests run on: the one of KUBECONFIG, or this machine's own, or none.

A cluster of one's own needs KServe in Standard mode, Kueue, and a registry that this machine may
push to and its nodes pull from: KUBECONFIG and ATELIER_REGISTRY name them.
"""

import os
import secrets
import sys
import uuid
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from atelier.files import locked, write_atomic
from tests.cluster import results
from tests.cluster.local import images, kubectl
from tests.cluster.local.namespaces import holder
from tests.cluster.local.settings import Settings
from tests.cluster.local.tools import program
from tests.cluster.local.trouble import ClusterTroubleError

# Set aside before any test is given a home of its own.
NAMED = os.environ.get("KUBECONFIG")
REGISTRY = os.environ.get("ATELIER_REGISTRY")
LOCAL = Settings.of_environment()
KEPT = "ATELIER_E2E"  # namespace of a platform that is there already, and stays
RUN = "ATELIER_E2E_RUN"  # of the one that all workers of this run share


def pytest_configure(config: pytest.Config) -> None:
    """Before workers are made, which inherit it."""
    os.environ.setdefault(RUN, os.environ.get(KEPT) or f"e2e-{secrets.token_hex(3)}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The whole run has ended, not one of its workers: what was made of the cluster goes."""
    of_run = Path(NAMED) if NAMED else LOCAL.kubeconfig
    if not hasattr(config, "workerinput") and not os.environ.get(KEPT) and of_run.exists():
        from tests.cluster.e2e.platform import remove  # slow to import

        try:
            remove(of_run, os.environ[RUN])
        except ClusterTroubleError as error:
            print(f"left on the cluster: namespace {os.environ[RUN]}: {error}", file=sys.stderr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of what was shown, where ATELIER_RESULTS names a file for it; one that is there
    stays where nothing was shown."""
    if file := os.environ.get("ATELIER_RESULTS"):
        found = [
            (outcome, one)
            for outcome in ("passed", "failed", "error", "skipped")
            for one in terminalreporter.getreports(outcome)
        ]
        if any(outcome != "skipped" for outcome, _ in found):
            write_atomic(Path(file), results.document(found))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the cluster was like when a test failed: it may be gone when a person looks."""
    report = yield
    of_run = Path(NAMED) if NAMED else LOCAL.kubeconfig
    if report.failed and "kubeconfig" in getattr(item, "fixturenames", ()) and of_run.exists():
        for what in ("pods", "events"):
            report.sections.append((f"the cluster's {what}", _shown(of_run, what)))
    return report


def _shown(kubeconfig: Path, what: str) -> str:
    try:
        shown = kubectl.kubectl(
            kubeconfig, "get", what, "-A", "--sort-by=.metadata.creationTimestamp", seconds=30
        )
    except ClusterTroubleError as error:
        return str(error)
    return "\n".join(shown.splitlines()[-60:])


class Kubectl(Protocol):
    """kubectl on the tests' cluster."""

    def __call__(self, *words: str, stdin: str | None = None, seconds: float = 300) -> str: ...


class Apply(Protocol):
    """`kubectl apply` of objects."""

    def __call__(self, *objects: dict[str, Any]) -> None: ...


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """An administrator's, of the cluster under test."""
    if NAMED:
        return Path(NAMED)
    if LOCAL.kubeconfig.exists() and holder(LOCAL):
        return LOCAL.kubeconfig
    pytest.skip("no cluster: `make cluster`, or KUBECONFIG names one")


@pytest.fixture(scope="session")
def registry(kubeconfig: Path) -> str:
    """HOST:PORT of the registry that machine and nodes share."""
    if REGISTRY:
        return REGISTRY
    if NAMED:
        pytest.skip("no registry: ATELIER_REGISTRY names the one of KUBECONFIG's cluster")
    return LOCAL.registry


@pytest.fixture(scope="session")
def local(kubeconfig: Path) -> Settings:
    """The local cluster, for tests that stop its programs."""
    if NAMED:
        pytest.skip("only a cluster of this machine's own can be broken")
    return LOCAL


@pytest.fixture(scope="session")
def kube(kubeconfig: Path) -> Kubectl:
    """kubectl, as the administrator."""
    return partial(kubectl.kubectl, kubeconfig)


@pytest.fixture(scope="session")
def apply(kubeconfig: Path) -> Apply:
    """Make or change objects."""
    return lambda *objects: kubectl.apply(kubeconfig, objects)


@pytest.fixture(autouse=True)
def _room(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Tests of two workers share the cluster; one that is marked `alone` has it to itself."""
    if "kubeconfig" not in request.fixturenames:
        yield
        return
    alone = request.node.get_closest_marker("alone") is not None
    with locked(tmp_path_factory.getbasetemp().parent / "cluster", shared=not alone):
        yield


@pytest.fixture
def namespace(kube: Kubectl, apply: Apply) -> Iterator[str]:
    """A namespace for one test, which Pod Security holds to "restricted"."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    apply(kubectl.restricted_namespace(name))
    yield name
    kube("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def probe(registry: str) -> str:
    """The image of a small program that serves, asks and stores (tools/probe)."""
    return images.push(
        images.scratch({"/probe": program("probe")}, "/probe"), registry, "cluster/probe"
    )
