"""Up and down. Each can be repeated, and goes on where another was interrupted."""

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
    """Why there cannot be a cluster here, in a sentence; None when there can."""
    if os.geteuid() != 0:
        return "The local cluster needs root: it makes namespaces, links and mounts of its own."
    lacking = packages.missing()
    if lacking:
        return f"The local cluster needs packages: {packages.advice(lacking)}"
    stale = [family.name for family in tools.stale(tools.CLUSTER)]
    if stale:
        return f"The local cluster needs tools ({', '.join(stale)}): make cluster-tools"
    return None


def up(settings: Settings, wanted: Iterable[str] = tuple(addons.ADDONS)) -> None:
    """Bring the cluster up, or what died of it, with the addons in `wanted`.

    NotPossibleHereError before anything is touched; ClusterTroubleError names the log to read.
    """
    reason = obstacle()
    if reason:
        raise NotPossibleHereError(reason)
    with _alone(settings):
        with _told("node"):
            settings.home.mkdir(parents=True, exist_ok=True)
            namespaces.create(settings)
            pki.write(settings)
        for program in everything(settings):
            with _told(program.name):
                start(settings, program)
            if program.name == "registry":
                images.push(_pause(), settings.registry, PAUSE)
        with _told("node is ready"):
            addons.wait_for_node(settings)
        for name in wanted:
            with _told(name):
                addons.ADDONS[name](settings)


def down(settings: Settings) -> None:
    """End the cluster and remove everything it made. NotPossibleHereError without root."""
    if os.geteuid() != 0:
        raise NotPossibleHereError("Taking the local cluster down needs root.")
    with _alone(settings):
        namespaces.destroy(settings)
        shutil.rmtree(settings.home, ignore_errors=True)
        if settings.home.exists():
            raise ClusterTroubleError(f"{settings.home} could not be removed.")


def status(settings: Settings) -> dict[str, bool]:
    """Which programs run. All False when the cluster is down."""
    return {one.name: is_running(settings, one) for one in everything(settings)}


def everything(settings: Settings) -> tuple[Program, ...]:
    """All programs of the node, to stop and start (a fault's way in)."""
    return programs(settings, _pause().at(settings.registry, PAUSE))


def _pause() -> images.Image:
    return images.scratch({"/pause": tools.program("pause")}, "/pause")


@contextmanager
def _told(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{time.monotonic() - started:6.1f} s  {what}", file=sys.stderr, flush=True)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One of up and down at a time. The lock is on the folder above, so it leaves no file."""
    settings.home.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(settings.home.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
