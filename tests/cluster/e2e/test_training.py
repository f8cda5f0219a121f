"""Trainings as Jobs: evicted, preempted, resumed bit for bit, and found again."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.e2e.trainings import Trainings, named
from tests.cluster.local import kubectl
from tests.cluster.local.trouble import ClusterTroubleError

EVICTED_AT = 40  # steps, of the recipe's 300: between checkpoints


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


def test_our_namespaces_refuse_a_pod_that_asks_for_too_much(trainings: Trainings) -> None:
    """With the labels that k8s/namespaces.yaml has for an environment, and for training."""
    words = ("run", "careless", "--image=careless", "--privileged", "--dry-run=server")
    for namespace in (trainings.platform.namespace, trainings.namespace):
        with pytest.raises(ClusterTroubleError, match='violates PodSecurity "restricted'):
            kubectl.kubectl(trainings.platform.kubeconfig, *words, "--namespace", namespace)
