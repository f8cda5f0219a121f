"""Trainings as Jobs: evicted, preempted and resumed bit for bit, found again, and sent to pools."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.e2e.platform import Platform
from tests.cluster.e2e.trainings import Trainings, named
from tests.cluster.local.settings import NODE, Settings

EVICTED_AT = 40  # steps, of the recipe's 300: between checkpoints
GPU = "nvidia.com/gpu"


@pytest.mark.timeout(1800)
def test_an_evicted_and_preempted_training_goes_on_bit_for_bit(
    trainings: Trainings, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Of two Jobs, and a queue with quota for one: the first is evicted, then makes way for a more
    urgent one that nobody disturbs, and goes on after it. Both train the same."""
    began = time.monotonic()
    first = trainings.submit(named(tmp_path, "patient"), "--queue", "cpu", "--follow")
    trainings.until(first, lambda: trainings.step("patient") >= EVICTED_AT, "the first steps")
    (evicted,) = (one["metadata"]["name"] for one in trainings.pods("patient"))
    trainings.evict(evicted)

    def goes_on() -> bool:  # the evicted one takes some steps yet before it ends
        names = [one["metadata"]["name"] for one in trainings.pods("patient")]
        return evicted not in names and trainings.step("patient") > EVICTED_AT

    trainings.until(first, goes_on, "more steps")
    before = {one["metadata"]["name"] for one in trainings.pods("patient")}

    urgent = ("--queue", "cpu", "--priority", "atelier-urgent", "--follow")
    second = trainings.submit(named(tmp_path, "urgent"), *urgent)
    trainings.until(second, lambda: trainings.step("urgent") > 0, "the urgent one")
    assert trainings.suspended("patient") and not trainings.suspended("urgent")
    second.answer(900)
    first.answer(900)  # it follows the Job, whichever pod it runs in
    record_property("both trainings and verdicts, s", round(time.monotonic() - began))
    after = {one["metadata"]["name"] for one in trainings.pods("patient")}
    names = {evicted} | before | after
    record_property("pods of the evicted and preempted one", len(names))
    assert len(names) == 3
    assert trainings.weights("patient", tmp_path) == trainings.weights("urgent", tmp_path)

    again = trainings.submit(tmp_path / "patient" / "recipe.yaml", "--follow")
    assert again.answer()["job"] is None  # found, not repeated


@pytest.mark.alone
def test_a_training_on_gpus_lands_in_their_pool_and_no_other_does(
    local: Settings, trainings: Trainings, tmp_path: Path
) -> None:
    """The pool is this node: a label, a taint, and a capacity that is written into its status."""
    recipe = named(tmp_path, "on-gpu")
    trainings.submit(recipe, "--gpus", "1", "--queue", "gpu").answer()
    platform = trainings.platform
    platform.wait_for(lambda: "affinity" in trainings.waits("on-gpu"), "a pod that waits", 60)
    with gpu_pool(platform):
        trainings.submit(named(tmp_path, "on-cpu")).answer()
        platform.wait_for(lambda: trainings.node("on-gpu"), "its place", 60)
        assert trainings.node("on-gpu") == NODE
        platform.wait_for(lambda: "taint" in trainings.waits("on-cpu"), "the other waits", 60)
        assert trainings.node("on-cpu") is None
        trainings.kube("delete", "jobs", "--all", "--wait=true", "--timeout=180s")


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
