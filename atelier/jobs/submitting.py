"""Making a Job and its claim, once however often it is asked for."""

import time
from contextlib import suppress
from typing import Any

from atelier.cluster.api import Api, Conflict, NotFound
from atelier.errors import Unavailable
from atelier.jobs.following import CLAIMS, JOBS, finished
from atelier.jobs.job import JobOptions, Work, claim_object, job_object

Object = dict[str, Any]

_GONE_SECONDS = 120.0  # that a failed Job's pod may take to let go of its claim


def submit_job(api: Api, work: Work, options: JobOptions) -> tuple[Object, bool]:
    """The work's Job, and whether it was made now.

    One that runs, waits or has succeeded stays as it is; one that has failed makes way.
    """
    wanted = job_object(work, options)
    name = str(wanted["metadata"]["name"])
    made = True
    try:
        job = api.create(JOBS, wanted)
    except Conflict:
        job = api.get(JOBS, name)
        if made := (finished(job) or {}).get("type") == "Failed":
            api.delete(JOBS, name)
            job = _create(api, JOBS, wanted, owner=None)
    claim = claim_object(work, options, job)
    if claim is not None and _claimed(job) == name:
        _create(api, CLAIMS, claim, owner=str(job["metadata"]["uid"]))
    return job, made


def _create(api: Api, path: str, wanted: Object, owner: str | None) -> Object:
    """Make an object as soon as the earlier one of its name is gone, unless it is `owner`'s."""
    name, deadline = str(wanted["metadata"]["name"]), time.monotonic() + _GONE_SECONDS
    while time.monotonic() < deadline:
        with suppress(Conflict):
            return api.create(path, wanted)
        with suppress(NotFound):  # gone in between
            there = api.get(path, name)
            owners = {one["uid"] for one in there["metadata"].get("ownerReferences") or ()}
            if owner in owners:
                return there
        time.sleep(1.0)
    raise Unavailable(f"{name}: an earlier one is still being deleted; look at what holds it")


def _claimed(job: Object) -> str | None:
    """The claim that a Job's pods keep their work in."""
    for volume in job["spec"]["template"]["spec"]["volumes"]:
        if volume["name"] == "home":
            found: str = volume["persistentVolumeClaim"]["claimName"]
            return found
    return None
