"""Helm in one namespace: `history`, `upgrade`, `rollback`, `uninstall`, and what was cut off.

Helm's own program does the work, with the same KUBECONFIG as ours. A Helm that was killed leaves
its revision pending for ever, and refuses every later one; `recover` takes such a revision away.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from atelier.addresses import redact
from atelier.data import yaml_text
from atelier.errors import BadInput, Refused
from atelier.platform.api import SECRETS, Api, ClusterAway

DESCRIPTION = 256  # characters that Helm takes
STOPPING = 5.0  # seconds that a Helm which is told to stop may take; runners wait for ten
_BACK = re.compile(r"Rollback to \d+(?:: |$)")  # without more it is Helm's own default
_AWAY = re.compile(
    r"cluster unreachable|connection refused|connection reset|i/o timeout|no such host|"
    r"TLS handshake timeout|etcdserver|unexpected EOF",
    re.IGNORECASE,
)


class HelmRefused(Refused):
    """Helm, or one of the release's hooks, says no."""


@dataclass(frozen=True)
class Revision:
    """One entry of a release's history."""

    number: int
    status: str  # deployed, superseded, failed, uninstalling, pending-upgrade …
    description: str
    updated: datetime

    @property
    def went_back(self) -> bool:
        """Whether somebody's rollback made it, with a reason or without."""
        return _BACK.match(self.description) is not None

    @property
    def reason(self) -> str:
        """Why it was made, as far as anybody said."""
        return _BACK.sub("", self.description, count=1) or self.description

    @property
    def pending(self) -> bool:
        """Whether Helm is at it, or was killed."""
        return self.status.startswith("pending-") or self.status == "uninstalling"

    @property
    def served(self) -> bool:
        """Whether it came through, its hook included."""
        return self.status in ("deployed", "superseded")


def back_to(revision: int, reason: str) -> str:
    """What describes a rollback, so that its history tells it from all else."""
    return f"Rollback to {revision}: {reason}"


class Helm:
    """The releases of one namespace. `timeout` is in seconds, for each thing that Helm waits for.

    Methods raise ClusterAway where the API server is away, HelmRefused where Helm says no.
    """

    def __init__(self, api: Api, *, program: str = "helm", timeout: int = 900):
        self._api = api
        self._program = program
        self._timeout = timeout

    def history(self, name: str) -> tuple[Revision, ...]:
        """The revisions that are known, oldest first; none where there is no such release."""
        try:
            found = json.loads(self._run("history", name, "--output", "json"))
        except HelmRefused as error:
            if "release: not found" in str(error):
                return ()
            raise
        return tuple(sorted(map(_revision, found), key=lambda one: one.number))

    def values(self, name: str, revision: int | None = None, *, all_: bool = False) -> Any:
        """The values that a revision was made with, by default the newest; with `all_` the chart's
        own among them."""
        words = ["get", "values", name, "--output", "json"]
        words += ["--revision", str(revision)] if revision else []
        return json.loads(self._run(*words, *(["--all"] if all_ else []))) or {}

    def upgrade(self, name: str, chart: str, values: Mapping[str, Any], description: str) -> None:
        """Install or upgrade, and wait for the hooks."""
        self._run(
            *("upgrade", "--install", name, chart, "--values", "-"),
            *("--reset-values", "--description", description[:DESCRIPTION], *self._waiting()),
            stdin=yaml_text.write(values),
        )

    def rollback(self, name: str, revision: int, description: str) -> None:
        """Make a past revision's objects anew, and wait for the hooks."""
        words = ("--description", description[:DESCRIPTION], *self._waiting())
        self._run("rollback", name, str(revision), *words)

    def uninstall(self, name: str) -> None:
        """Take a release away with its history; one that is gone is as good."""
        self._run("uninstall", name, "--ignore-not-found", *self._waiting())

    def recover(self, name: str) -> Revision | None:
        """Make a release usable that a killed Helm left pending; the revision that is gone now.

        The objects stay as they are: the next upgrade changes what differs, whoever wrote it. Only
        for who holds the adapter's lock: a Helm that is still at work would be cut off.
        """
        last = next(iter(self.history(name)[-1:]), None)
        if last is None or not last.pending:
            return None
        if last.status == "uninstalling":
            self.uninstall(name)
        else:
            self._api.delete(SECRETS, f"sh.helm.release.v1.{name}.v{last.number}")
        return last

    def _waiting(self) -> tuple[str, ...]:
        return ("--timeout", f"{self._timeout}s")

    def _run(self, *words: str, stdin: str | None = None) -> str:
        command = [self._program, "--namespace", self._api.namespace, *words]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError as error:
            raise BadInput(
                f"{self._program}: there is no such program; install Helm 4, or name it in "
                "ATELIER_HELM"
            ) from error
        try:
            told, complaint = process.communicate(stdin)
        except BaseException:  # stopped: let Helm write down that it was
            try:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOPPING)
            finally:
                process.kill()
            raise
        if process.returncode != 0:
            text = _complaint(complaint)
            raise (ClusterAway if _AWAY.search(text) else HelmRefused)(
                f"helm {words[0]} {words[1]}: {text}"
            )
        return told


def _revision(found: Mapping[str, Any]) -> Revision:
    return Revision(
        number=int(found["revision"]),
        status=str(found["status"]),
        description=str(found.get("description") or ""),
        updated=datetime.fromisoformat(str(found["updated"])),
    )


def _complaint(text: str) -> str:
    """Helm's error, without its log lines."""
    lines = [one for one in text.strip().splitlines() if not one.startswith(("level=", "time="))]
    found = next((one for one in lines if one.startswith("Error:")), lines[-1] if lines else "")
    return redact(found.removeprefix("Error:").strip())[:600] or "no reason given"
