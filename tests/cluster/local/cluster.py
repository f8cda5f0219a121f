"""Start and stop the cluster. Both can be repeated, and continue after an interruption."""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tests.cluster.local import addons, images, namespaces, packages, pki, tools
from tests.cluster.local.processes import Program, is_running, start
from tests.cluster.local.programs import programs
from tests.cluster.local.settings import Settings
from tests.cluster.local.trouble import ClusterTroubleError, NotPossibleHereError

PAUSE = "cluster/pause"


def obstacle() -> str | None:
    """Return the reason why this machine or user cannot start the cluster, None if they can."""
    if os.geteuid() != 0:
        return "The local cluster needs root, because it creates namespaces, links and mounts."
    missing = packages.missing()
    if missing:
        return f"The local cluster needs packages: {packages.advice(missing)}"
    stale = [family.name for family in tools.stale(tools.CLUSTER)]
    if stale:
        return f"The local cluster needs tools ({', '.join(stale)}): run `make cluster-tools`"
    return None


def up(settings: Settings, wanted: Iterable[str] = tuple(addons.ADDONS)) -> None:
    """Start the cluster, or its ended programs, and install the add-ons in `wanted`.

    Raises NotPossibleHereError before any change if a requirement is missing. A ClusterTroubleError
    names the log to read.
    """
    reason = obstacle()
    if reason:
        raise NotPossibleHereError(reason)
    with _locked(settings):
        with _timed("node"):
            settings.home.mkdir(parents=True, exist_ok=True)
            namespaces.create(settings)
            pki.write(settings)
        for program in all_programs(settings):
            with _timed(program.name):
                start(settings, program)
            if program.name == "registry":
                images.push(_pause(), settings.registry, PAUSE)
        with _timed("node is ready"):
            addons.wait_for_node(settings)
        for name in wanted:
            with _timed(name):
                addons.ADDONS[name](settings)


def down(settings: Settings) -> None:
    """Stop the cluster and remove all its files. Raises NotPossibleHereError without root."""
    if os.geteuid() != 0:
        raise NotPossibleHereError("Stopping the local cluster needs root.")
    with _locked(settings):
        namespaces.destroy(settings)
        shutil.rmtree(settings.home, ignore_errors=True)
        if settings.home.exists():
            raise ClusterTroubleError(f"{settings.home} could not be removed; remove it by hand.")


def status(settings: Settings) -> dict[str, bool]:
    """Return which programs run, by name; all False if the cluster is down."""
    return {program.name: is_running(settings, program) for program in all_programs(settings)}


def all_programs(settings: Settings) -> tuple[Program, ...]:
    """Return all programs of the node; tests of faults stop and start them."""
    return programs(settings, _pause().at(settings.registry, PAUSE))


def _pause() -> images.Image:
    return images.scratch({"/pause": tools.program("pause")}, "/pause")


@contextmanager
def _timed(step: str) -> Iterator[None]:
    """Print the duration of a step."""
    started = time.monotonic()
    yield
    print(f"{time.monotonic() - started:6.1f} s  {step}", file=sys.stderr, flush=True)


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    """Let only one `up` or `down` run at a time.

    The lock is on the parent folder, so that no lock file remains.
    """
    settings.home.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(settings.home.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
