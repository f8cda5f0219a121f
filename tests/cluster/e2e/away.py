"""The platform's MLflow away, or what it keeps damaged, and what is made up for once it is back."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from atelier.adapter.package import ADAPTER, Package
from tests.cluster.e2e.platform import Platform

# Run in MLflow's pod: of the files with one of these digests, the last byte becomes another, or
# what it was again.
TURN = """
import hashlib, pathlib, sys
for file in pathlib.Path("/var/lib/atelier").rglob(sys.argv[1]):
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() in sys.argv[2:]:
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        print("turned")
"""


@contextmanager
def mlflow_away(platform: Platform) -> Iterator[None]:
    """Its Service leads nowhere; what it holds stays."""
    selector = platform.of("service", "atelier-mlflow")["spec"]["selector"]
    point_at(platform, {**selector, "app.kubernetes.io/component": "nobody"})
    try:
        yield
    finally:
        point_at(platform, selector)


@contextmanager
def damaged(platform: Platform, package: Package) -> Iterator[None]:
    """A byte of a registered version's weights is another one in MLflow's own store."""
    turn(platform, package)
    try:
        yield
    finally:
        turn(platform, package)


def turn(platform: Platform, package: Package) -> None:
    data = (package.path / ADAPTER).read_bytes()
    both = [hashlib.sha256(one).hexdigest() for one in (data, data[:-1] + bytes([data[-1] ^ 1]))]
    words = ("exec", "deployment/atelier-mlflow", "--", "python", "-c", TURN, ADAPTER, *both)
    assert platform.kube(*words).split() == ["turned"]


def point_at(platform: Platform, selector: dict[str, str]) -> None:
    patch = json.dumps({"spec": {"selector": selector}})
    platform.kube("patch", "service", "atelier-mlflow", "--type=merge", "-p", patch)


def reconcile(platform: Platform) -> None:
    """Run the platform's CronJob now."""
    name = f"reconcile-{int(time.time())}"
    platform.kube("create", "job", name, "--from=cronjob/atelier-reconcile")
    platform.kube("wait", "--for=condition=Complete", f"job/{name}", "--timeout=180s")
