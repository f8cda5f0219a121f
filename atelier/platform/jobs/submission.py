"""Creation and deletion of a Job and its claim; repeated and concurrent calls give one Job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from tenacity import (
    RetryError,
    Retrying,
    TryAgain,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
)

from atelier.errors import Unavailable
from atelier.platform.api import Api, Conflict, NotFound
from atelier.platform.jobs.follower import CLAIMS, JOBS, finished
from atelier.platform.jobs.job_manifest import JobOptions, Work, claim_object, job_object

Object = dict[str, Any]
Answer = TypeVar("Answer")

_GONE_SECONDS = 120.0  # limit for the deletion of an object
_PAUSE = 1.0  # seconds between two requests


def submit_job(api: Api, work: Work, options: JobOptions) -> tuple[Object, bool]:
    """Create the Job of the work if needed; return it, and whether it was created.

    A Job that runs, waits or has succeeded stays. A failed Job is replaced, and the new Job gets
    the claim of the failed one. Raises Unavailable if an earlier object is not deleted within two
    minutes.
    """
    job, created = _job(api, job_object(work, options))
    claim = claim_object(work, options, job)
    if claim is not None and _claimed(job) == work.name:
        _adopt(api, claim)
    return job, created


def stop_job(api: Api, work: Work) -> bool:
    """Delete the Job of the work, and wait for its end; return whether there was one.

    Only a Job that waits or runs is deleted. Its checkpoints stay, so the next Job of this work
    resumes from them. Raises Unavailable if the Job is not deleted within two minutes.
    """
    stopped = False

    def attempt() -> bool:
        nonlocal stopped
        try:
            job = api.get(JOBS, work.name)
        except NotFound:
            return stopped
        if not _deleting(job):
            if finished(job) is not None:
                return stopped
            with _raced():
                _detach(api, job)
            # fails if the Job has changed since it was read; then try again
            api.delete(JOBS, work.name, version=_version(job))
            stopped = True
        raise TryAgain

    return _until_gone(work.name, attempt)


def _job(api: Api, wanted: Object) -> tuple[Object, bool]:
    name = str(wanted["metadata"]["name"])

    def attempt() -> tuple[Object, bool]:
        with suppress(Conflict):
            return api.create(JOBS, wanted), True
        with _raced():
            job = api.get(JOBS, name)
            if _deleting(job):
                raise TryAgain
            if (finished(job) or {}).get("type") != "Failed":
                return job, False
            if _claimed(wanted) == name:
                _detach(api, job)
            # only the Job that was read: another process may have replaced it
            api.delete(JOBS, name, version=_version(job))
            return api.create(JOBS, wanted), True

    return _until_gone(name, attempt)


def _detach(api: Api, job: Object) -> None:
    """Detach a Job's claim, so that it outlives the Job and the next one can resume from it."""
    with suppress(NotFound):
        claim = api.get(CLAIMS, str(job["metadata"]["name"]))
        if job["metadata"]["uid"] in _owners(claim):
            api.replace(CLAIMS, _owned(claim, []))


def _adopt(api: Api, wanted: Object) -> None:
    """Create a Job's claim, or adopt the detached claim of an earlier Job.

    A claim that still belongs to an earlier Job is deleted with that Job, and then replaced.
    """
    name = str(wanted["metadata"]["name"])

    def attempt() -> None:
        with suppress(Conflict):
            api.create(CLAIMS, wanted)
            return
        with _raced():
            claim = api.get(CLAIMS, name)
            if _owners(claim) & _owners(wanted):
                return
            if _owners(claim) or _deleting(claim):
                raise TryAgain
            api.replace(CLAIMS, _owned(claim, wanted["metadata"]["ownerReferences"]))

    _until_gone(name, attempt)


@contextmanager
def _raced() -> Iterator[None]:
    """Raise TryAgain if another process has changed or deleted an object between read and write."""
    try:
        yield
    except (NotFound, Conflict) as error:
        raise TryAgain from error


def _until_gone(name: str, attempt: Callable[[], Answer]) -> Answer:
    """Call `attempt` each second until it does not raise TryAgain; return its result.

    Raises Unavailable if an earlier object is not deleted within two minutes.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(TryAgain),
        wait=wait_fixed(_PAUSE),
        stop=stop_after_delay(_GONE_SECONDS),
    )
    try:
        return retrying(attempt)
    except RetryError as error:
        raise Unavailable(
            f"{name}: an earlier object is still being deleted; check its finalizers"
        ) from error


def _version(item: Object) -> str:
    return str(item["metadata"]["resourceVersion"])


def _deleting(item: Object) -> bool:
    return "deletionTimestamp" in item["metadata"]


def _owners(claim: Object) -> set[str]:
    return {owner["uid"] for owner in claim["metadata"].get("ownerReferences") or ()}


def _owned(claim: Object, owners: list[Object]) -> Object:
    return {**claim, "metadata": {**claim["metadata"], "ownerReferences": owners}}


def _claimed(job: Object) -> str | None:
    """Return the name of the claim that contains the home of a Job's pods."""
    for volume in job["spec"]["template"]["spec"]["volumes"]:
        if volume["name"] == "home":
            name: str = volume["persistentVolumeClaim"]["claimName"]
            return name
    return None
