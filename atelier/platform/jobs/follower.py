"""Follows a Job to its end: reports the output of its pods, and returns its outcome."""

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
PAUSE = 1.0  # seconds between two requests
_AWAY = 300.0  # seconds that the API server may be unavailable while a Job is followed


@dataclass(frozen=True)
class JobOutcome:
    """The outcome of a Job: the exit code of its container, or 3 if there is none."""

    name: str
    succeeded: bool
    exit_code: int
    reason: str


class Follower:
    """Reports each line that the pods of one Job print, once and in order."""

    def __init__(self, api: Api, name: str, report: Callable[[str], None]) -> None:
        self._api, self._name, self._report = api, name, report
        self._times: dict[str, str] = {}  # by pod: the time of its last reported line
        self._states: dict[str, str] = {}  # by pod, and "" for the Job: the last reported state

    def follow(self) -> JobOutcome:
        """Follow the Job until it ends; return its outcome.

        Raises BadInput if the Job is deleted, Unavailable if the API server is unavailable for five
        minutes.
        """
        last_answer = time.monotonic()
        while True:
            try:
                outcome = self._look()
                last_answer = time.monotonic()
            except NotFound:
                raise BadInput(
                    f"Job {self._name}: was deleted before its end; submit it again"
                ) from None
            except Unavailable:
                if time.monotonic() - last_answer > _AWAY:
                    raise
                outcome = None
            if outcome is not None:
                return outcome
            time.sleep(PAUSE)

    def _look(self) -> JobOutcome | None:
        """Report new output of the pods; return the outcome if the Job has ended."""
        job = self._api.get(JOBS, self._name)
        pods = self._pods(job)
        for pod in pods:
            self._tell_state(str(pod["metadata"]["name"]), _state(pod))
            for line in self._lines(pod):
                self._report(line)
        if not pods:
            self._tell_state("", _waits(job))
        ended = finished(job)
        return None if ended is None else self._outcome(ended, self._pods(job))

    def _pods(self, job: Object) -> list[Object]:
        """Return the pods, oldest first, without those of an earlier Job with the same name."""
        selector = f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}"
        pods, _ = self._api.list(PODS, [("labelSelector", selector)])
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def _lines(self, pod: Object) -> Iterator[str]:
        """Yield the new lines of a pod, while its container runs.

        The output of a node that was removed is lost; this does not affect the Job.
        """
        name = str(pod["metadata"]["name"])
        if _waiting(pod):
            return
        with suppress(ClusterRefused, ClusterAway):
            for line in self._api.log(PODS, name, CONTAINER, since=self._times.get(name)):
                when, _, text = line.partition(" ")
                if _instant(when) > _instant(self._times.get(name, "")):
                    self._times[name] = when
                    yield text

    def _tell_state(self, pod: str, state: str) -> None:
        if self._states.get(pod) != state:
            self._states[pod] = state
            self._report(f"{pod}: {state}" if pod else state)

    def _outcome(self, condition: Object, pods: list[Object]) -> JobOutcome:
        succeeded = condition["type"] == "Complete"
        codes = [code for code in map(_exit_code, pods) if code is not None]
        failed = codes[-1] if codes and codes[-1] else Unavailable.exit_code
        reason = f"{condition.get('reason') or condition['type']}: {condition.get('message') or ''}"
        return JobOutcome(self._name, succeeded, 0 if succeeded else failed, reason.strip(" :"))


def finished(job: Object) -> Object | None:
    """Return the condition Complete or Failed of a Job that has ended, else None."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            ended: Object = condition
            return ended
    return None


def _instant(when: str) -> str:
    """Return a log's time in a sortable form: Kubernetes omits trailing zeros of fractions."""
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
            state: Object = status["state"]
            return state
    return {}


def _waiting(pod: Object) -> bool:
    """Return whether the container has not started."""
    state = _container(pod)
    return not state or "waiting" in state


def _exit_code(pod: Object) -> int | None:
    ended = _container(pod).get("terminated")
    return None if ended is None else int(ended["exitCode"])


def _state(pod: Object) -> str:
    """Return the state of a pod for the user: reason of a wait, node, or exit code."""
    state = _container(pod)
    if "terminated" in state:
        return f"ended with exit code {state['terminated']['exitCode']}"
    if "running" in state:
        return f"runs on {pod['spec'].get('nodeName')}"
    if "waiting" in state:
        waiting = state["waiting"]
        text = str(waiting.get("message") or waiting.get("reason") or "is being created")
        return redact(text)[:200]
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return redact(str(condition.get("message") or condition.get("reason")))[:200]
    return str(pod.get("status", {}).get("phase") or "Pending").lower()
