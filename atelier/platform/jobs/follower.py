"""Following a Job to its end: what its pods say, whichever of them runs, and how it ended."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from atelier.addresses import redact
from atelier.errors import BadInput, Unavailable
from atelier.platform.api import PODS, Api, ClusterAway, ClusterRefused, NotFound
from atelier.platform.jobs.job_manifest import CONTAINER

Object = dict[str, Any]

JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
CLAIMS = "/api/v1/namespaces/{namespace}/persistentvolumeclaims"
PAUSE = 1.0  # seconds between looks
_AWAY = 300.0  # seconds that the API server may be away while a Job is followed


@dataclass(frozen=True)
class JobOutcome:
    """How a Job ended: its container's exit code, or 3 where no container could say."""

    name: str
    succeeded: bool
    exit_code: int
    reason: str


class Follower:
    """Tells every line that the pods of one Job print, in order and once."""

    def __init__(self, api: Api, name: str, told: Callable[[str], None]) -> None:
        self._api, self._name, self._told = api, name, told
        self._seen: dict[str, str] = {}  # by pod: the time of its last line that was told
        self._states: dict[str, str] = {}  # by pod, and "" for the Job: what was last told

    def follow(self) -> JobOutcome:
        """Until the Job has ended; Unavailable where the API server stays away for minutes."""
        last_answer = time.monotonic()
        while True:
            try:
                outcome = self._look()
                last_answer = time.monotonic()
            except NotFound:
                raise BadInput(f"Job {self._name} was deleted while it was followed") from None
            except Unavailable:
                if time.monotonic() - last_answer > _AWAY:
                    raise
                outcome = None
            if outcome is not None:
                return outcome
            time.sleep(PAUSE)

    def _look(self) -> JobOutcome | None:
        """What the pods have said since; the outcome where there is one."""
        job = self._api.get(JOBS, self._name)
        pods = self._pods(job)
        for pod in pods:
            self._tell_state(str(pod["metadata"]["name"]), _state(pod))
            for line in self._lines(pod):
                self._told(line)
        if not pods:
            self._tell_state("", _waits(job))
        ended = finished(job)
        return None if ended is None else self._outcome(ended, self._pods(job))

    def _pods(self, job: Object) -> list[Object]:
        """The Job's pods, oldest first; not those of an earlier Job of its name."""
        selector = f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}"
        found, _ = self._api.list(PODS, [("labelSelector", selector)])
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def _lines(self, pod: Object) -> Iterator[str]:
        """Lines that were not told yet, as long as the container prints.

        Those of a node that is gone are lost, and say nothing about the Job.
        """
        name = str(pod["metadata"]["name"])
        if _waiting(pod):
            return
        with suppress(ClusterRefused, ClusterAway):
            for line in self._api.log(PODS, name, CONTAINER, since=self._seen.get(name)):
                when, _, text = line.partition(" ")
                if _instant(when) > _instant(self._seen.get(name, "")):
                    self._seen[name] = when
                    yield text

    def _tell_state(self, pod: str, state: str) -> None:
        if self._states.get(pod) != state:
            self._states[pod] = state
            self._told(f"{pod}: {state}" if pod else state)

    def _outcome(self, condition: Object, pods: list[Object]) -> JobOutcome:
        succeeded = condition["type"] == "Complete"
        codes = [code for code in map(_exit_code, pods) if code is not None]
        failed = codes[-1] if codes and codes[-1] else Unavailable.exit_code
        reason = f"{condition.get('reason') or condition['type']}: {condition.get('message') or ''}"
        return JobOutcome(self._name, succeeded, 0 if succeeded else failed, reason.strip(" :"))


def finished(job: Object) -> Object | None:
    """The condition that says that a Job has ended."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            found: Object = condition
            return found
    return None


def _instant(when: str) -> str:
    """A log's time such that later ones sort later: fractions come without trailing zeros."""
    seconds, _, fraction = when.partition(".")
    digits = "".join(itertools.takewhile(str.isdigit, fraction))
    return f"{seconds.rstrip('Z')}.{digits:0<9}"


def _waits(job: Object) -> str:
    if job["spec"].get("suspend"):
        queue = job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        return f"waits in queue {queue}" if queue else "is suspended"
    return "waits for its pod"


def _container(pod: Object) -> Object:
    for status in pod.get("status", {}).get("containerStatuses") or ():
        if status["name"] == CONTAINER:
            found: Object = status["state"]
            return found
    return {}


def _waiting(pod: Object) -> bool:
    """Whether the container has not begun to print."""
    state = _container(pod)
    return not state or "waiting" in state


def _exit_code(pod: Object) -> int | None:
    ended = _container(pod).get("terminated")
    return None if ended is None else int(ended["exitCode"])


def _state(pod: Object) -> str:
    """In a few words: what a person waits for."""
    state = _container(pod)
    if "terminated" in state:
        return f"ended with exit code {state['terminated']['exitCode']}"
    if "running" in state:
        return f"runs on {pod['spec'].get('nodeName')}"
    if "waiting" in state:
        waiting = state["waiting"]
        said = str(waiting.get("message") or waiting.get("reason") or "is being made")
        return redact(said)[:200]
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return redact(str(condition.get("message") or condition.get("reason")))[:200]
    return str(pod.get("status", {}).get("phase") or "Pending").lower()
