"""Making a Job and its claim, once however often and by however many it is asked for."""

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

_GONE_SECONDS = 120.0  # that what is being deleted may take to be gone
_PAUSE = 1.0  # seconds between looks


def submit_job(api: Api, work: Work, options: JobOptions) -> tuple[Object, bool]:
    """The work's Job, and whether it was made now.

    One that runs, waits or has succeeded stays as it is; one that has failed makes way, and leaves
    its claim to the next.
    """
    job, made = _job(api, job_object(work, options))
    claim = claim_object(work, options, job)
    if claim is not None and _claimed(job) == work.name:
        _hold(api, claim)
    return job, made


def stop_job(api: Api, work: Work) -> bool:
    """End the work's Job if it waits or runs, and wait until it is gone; whether there was one.

    Its checkpoints stay: the next Job of this work goes on from them.
    """
    stopped = False

    def attempt() -> bool:
        nonlocal stopped
        try:
            there = api.get(JOBS, work.name)
        except NotFound:
            return stopped
        if not _going(there):
            if finished(there) is not None:
                return stopped
            with _raced():
                _let_go(api, there)
            # again where the Job has changed since it was looked at
            api.delete(JOBS, work.name, version=_version(there))
            stopped = True
        raise TryAgain

    return _until_gone(work.name, attempt)


def _job(api: Api, wanted: Object) -> tuple[Object, bool]:
    name = str(wanted["metadata"]["name"])

    def attempt() -> tuple[Object, bool]:
        with suppress(Conflict):
            return api.create(JOBS, wanted), True
        with _raced():
            there = api.get(JOBS, name)
            if _going(there):
                raise TryAgain
            if (finished(there) or {}).get("type") != "Failed":
                return there, False
            if _claimed(wanted) == name:
                _let_go(api, there)
            # only the one that was looked at: another may have put a new one in its place
            api.delete(JOBS, name, version=_version(there))
            return api.create(JOBS, wanted), True

    return _until_gone(name, attempt)


def _let_go(api: Api, job: Object) -> None:
    """Let a Job's claim outlive it: what it had reached is what the next one goes on from."""
    with suppress(NotFound):
        claim = api.get(CLAIMS, str(job["metadata"]["name"]))
        if job["metadata"]["uid"] in _owners(claim):
            api.replace(CLAIMS, _owned(claim, []))


def _hold(api: Api, wanted: Object) -> None:
    """Make a Job's claim, or take the one that an earlier Job has let go.

    One that still belongs to an earlier Job goes with it, and a new one takes its place.
    """
    name = str(wanted["metadata"]["name"])

    def attempt() -> None:
        with suppress(Conflict):
            api.create(CLAIMS, wanted)
            return
        with _raced():
            there = api.get(CLAIMS, name)
            if _owners(there) & _owners(wanted):
                return
            if _owners(there) or _going(there):
                raise TryAgain
            api.replace(CLAIMS, _owned(there, wanted["metadata"]["ownerReferences"]))

    _until_gone(name, attempt)


@contextmanager
def _raced() -> Iterator[None]:
    """Where another may change what was read, or take it away, before it is written."""
    try:
        yield
    except (NotFound, Conflict) as error:
        raise TryAgain from error


def _until_gone(name: str, attempt: Callable[[], Answer]) -> Answer:
    """The result of `attempt`, called again each second while it raises TryAgain.

    Unavailable where an earlier object is in its way for longer than two minutes.
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
            f"{name}: an earlier one is still being deleted; look at what holds it"
        ) from error


def _version(there: Object) -> str:
    return str(there["metadata"]["resourceVersion"])


def _going(there: Object) -> bool:
    return "deletionTimestamp" in there["metadata"]


def _owners(claim: Object) -> set[str]:
    return {one["uid"] for one in claim["metadata"].get("ownerReferences") or ()}


def _owned(claim: Object, owners: list[Object]) -> Object:
    return {**claim, "metadata": {**claim["metadata"], "ownerReferences": owners}}


def _claimed(job: Object) -> str | None:
    """The claim that a Job's pods keep their work in."""
    for volume in job["spec"]["template"]["spec"]["volumes"]:
        if volume["name"] == "home":
            found: str = volume["persistentVolumeClaim"]["claimName"]
            return found
    return None
