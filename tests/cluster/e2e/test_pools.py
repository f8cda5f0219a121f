"""Trainings as Jobs that are sent to pools."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.e2e.platform import Platform
from tests.cluster.e2e.trainings import Trainings, named
from tests.cluster.local.settings import NODE, Settings

GPU = "nvidia.com/gpu"


@pytest.mark.alone
def test_a_training_on_gpus_lands_in_their_pool_and_no_other_does(
    local: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    """The pool is this node: a label, a taint, and a capacity that is written into its status."""
    recipe = named(tmp_path, "on-gpu")
    trainings.submit(recipe, "--gpus", "1", "--queue", "gpu").answer()
    platform = trainings.platform
    wait_for = partial(platform.wait_for, seconds=60)
    wait_for(lambda: "affinity" in trainings.waits("on-gpu"), "a pod that waits")
    with gpu_pool(platform):
        trainings.submit(named(tmp_path, "on-cpu")).answer()
        wait_for(lambda: trainings.node("on-gpu"), "its place")
        assert trainings.node("on-gpu") == NODE
        wait_for(lambda: "taint" in trainings.waits("on-cpu"), "the other waits")
        assert trainings.node("on-cpu") is None
        trainings.kube("delete", "jobs", "--all", "--wait=true", "--timeout=180s")
        # Told to stop while it still imports, which takes longer than everything before this.
        wait_for(lambda: not trainings.pods("on-gpu"), "its end, well before its grace is over")


@contextmanager
def gpu_pool(platform: Platform) -> Iterator[None]:
    """The node as k8s/README.md has it, with a GPU that nothing stands behind."""

    def patch(op: str, value: str | None) -> None:
        path = f"/status/{{}}/{GPU.replace('/', '~1')}"
        change = [
            {"op": op, "path": path.format(what), **({"value": value} if value else {})}
            for what in ("capacity", "allocatable")
        ]
        words = ("node", NODE, "--subresource=status", "--type=json", "-p", json.dumps(change))
        platform.kube("patch", *words, namespaced=False)

    def node(*words: str) -> None:
        platform.kube(*words, namespaced=False)

    node("label", "node", NODE, "atelier.dev/pool=gpu", "--overwrite")
    node("taint", "node", NODE, f"{GPU}=present:NoSchedule", "--overwrite")
    patch("add", "1")
    try:
        yield
    finally:
        node("taint", "node", NODE, f"{GPU}-")
        node("label", "node", NODE, "atelier.dev/pool-")
        patch("remove", None)
