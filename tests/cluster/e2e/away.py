"""The platform's MLflow away, and what is made up for once it is back."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.e2e.platform import Platform


@contextmanager
def mlflow_away(platform: Platform) -> Iterator[None]:
    """Its Service leads nowhere; what it holds stays."""
    selector = platform.of("service", "atelier-mlflow")["spec"]["selector"]
    point_at(platform, {**selector, "app.kubernetes.io/component": "nobody"})
    try:
        yield
    finally:
        point_at(platform, selector)


def point_at(platform: Platform, selector: dict[str, str]) -> None:
    patch = json.dumps({"spec": {"selector": selector}})
    platform.kube("patch", "service", "atelier-mlflow", "--type=merge", "-p", patch)


def settle(platform: Platform) -> None:
    """Run the platform's CronJob now."""
    name = f"settle-{int(time.time())}"
    platform.kube("create", "job", name, "--from=cronjob/atelier-settle")
    platform.kube("wait", "--for=condition=Complete", f"job/{name}", "--timeout=180s")
