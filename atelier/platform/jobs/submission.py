"""Making a Job and its claim, once however often and by however many it is asked for."""

import time
from contextlib import suppress
from typing import Any

from atelier.errors import Unavailable
from atelier.platform.api import Api, Conflict, NotFound
from atelier.platform.jobs.follower import CLAIMS, JOBS, finished
from atelier.platform.jobs.job_manifest import JobOptions, Work, claim_object, job_object

Object = dict[str, Any]

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
    stopped, deadline = False, time.monotonic() + _GONE_SECONDS
    while time.monotonic() < deadline:
        try:
            there = api.get(JOBS, work.name)
        except NotFound:
            return stopped
        if not _going(there):
            if finished(there) is not None:
                return stopped
            _let_go(api, there)
            # again where the Job has changed since it was looked at
            api.delete(JOBS, work.name, version=str(there["metadata"]["resourceVersion"]))
            stopped = True
        time.sleep(_PAUSE)
    raise _stuck(work.name)


def _job(api: Api, wanted: Object) -> tuple[Object, bool]:
    name, deadline = str(wanted["metadata"]["name"]), time.monotonic() + _GONE_SECONDS
    while time.monotonic() < deadline:
        with suppress(Conflict):
            return api.create(JOBS, wanted), True
        with suppress(NotFound, Conflict):  # gone, or changed by another, in between
            there = api.get(JOBS, name)
            if not _going(there):
                if (finished(there) or {}).get("type") != "Failed":
                    return there, False
                if _claimed(wanted) == name:
                    _let_go(api, there)
                # only the one that was looked at: another may have put a new one in its place
                api.delete(JOBS, name, version=str(there["metadata"]["resourceVersion"]))
                continue
        time.sleep(_PAUSE)
    raise _stuck(name)


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
    name, deadline = str(wanted["metadata"]["name"]), time.monotonic() + _GONE_SECONDS
    while time.monotonic() < deadline:
        with suppress(Conflict):
            api.create(CLAIMS, wanted)
            return
        with suppress(NotFound, Conflict):
            there = api.get(CLAIMS, name)
            if _owners(there) & _owners(wanted):
                return
            if not _owners(there) and not _going(there):
                api.replace(CLAIMS, _owned(there, wanted["metadata"]["ownerReferences"]))
                return
        time.sleep(_PAUSE)
    raise _stuck(name)


def _stuck(name: str) -> Unavailable:
    return Unavailable(f"{name}: an earlier one is still being deleted; look at what holds it")


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
