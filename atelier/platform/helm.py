"""Helm in one namespace: `history`, `upgrade`, `rollback`, `uninstall`, and recovery.

The methods run the program `helm` with the KUBECONFIG of this process. A killed Helm leaves its
revision pending, and Helm then refuses every later revision; `recover` deletes the pending one.
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

DESCRIPTION = 256  # characters, Helm's limit
STOPPING = 5.0  # seconds for Helm to end after SIGTERM; CI runners allow ten
_BACK = re.compile(r"Rollback to \d+(?:: |$)")  # without a reason: Helm's default text
_AWAY = re.compile(
    r"cluster unreachable|connection refused|connection reset|i/o timeout|no such host|"
    r"TLS handshake timeout|etcdserver|unexpected EOF",
    re.IGNORECASE,
)


class HelmRefused(Refused):
    """Helm, or a hook of the release, failed."""


@dataclass(frozen=True)
class Revision:
    """One entry of a release's history."""

    number: int
    status: str  # deployed, superseded, failed, uninstalling, pending-upgrade …
    description: str
    updated: datetime

    @property
    def went_back(self) -> bool:
        """Whether a rollback created the revision, with or without a reason."""
        return _BACK.match(self.description) is not None

    @property
    def reason(self) -> str:
        """The reason in the description of a rollback, or else the whole description."""
        return _BACK.sub("", self.description, count=1) or self.description

    @property
    def pending(self) -> bool:
        """Whether Helm is working on the revision, or was killed during the work."""
        return self.status.startswith("pending-") or self.status == "uninstalling"

    @property
    def served(self) -> bool:
        """Whether the revision and its hook succeeded."""
        return self.status in ("deployed", "superseded")


def back_to(revision: int, reason: str) -> str:
    """Return the description of a rollback, which `Revision.went_back` recognizes."""
    return f"Rollback to {revision}: {reason}"


class Helm:
    """The Helm releases of one namespace.

    `timeout` is Helm's: seconds for each operation that it waits for. Methods raise ClusterAway if
    the API server is unavailable, HelmRefused if Helm fails.
    """

    def __init__(self, api: Api, *, program: str = "helm", timeout: int = 900):
        self._api = api
        self._program = program
        self._timeout = timeout

    def history(self, name: str) -> tuple[Revision, ...]:
        """Return the revisions of a release, oldest first; none if there is no such release."""
        try:
            entries = json.loads(self._run("history", name, "--output", "json"))
        except HelmRefused as error:
            if "release: not found" in str(error):
                return ()
            raise
        return tuple(sorted(map(_revision, entries), key=lambda revision: revision.number))

    def values(self, name: str, revision: int | None = None, *, all_: bool = False) -> Any:
        """Return the values of a revision, by default the newest.

        `all_` includes the chart's default values.
        """
        arguments = ["get", "values", name, "--output", "json"]
        arguments += ["--revision", str(revision)] if revision else []
        return json.loads(self._run(*arguments, *(["--all"] if all_ else []))) or {}

    def upgrade(self, name: str, chart: str, values: Mapping[str, Any], description: str) -> None:
        """Install or upgrade a release, and wait for the hooks."""
        self._run(
            *("upgrade", "--install", name, chart, "--values", "-"),
            *("--reset-values", "--description", description[:DESCRIPTION], *self._waiting()),
            stdin=yaml_text.write(values),
        )

    def rollback(self, name: str, revision: int, description: str) -> None:
        """Restore the objects of a past revision, and wait for the hooks."""
        arguments = ("--description", description[:DESCRIPTION], *self._waiting())
        self._run("rollback", name, str(revision), *arguments)

    def uninstall(self, name: str) -> None:
        """Delete a release and its history, if it exists."""
        self._run("uninstall", name, "--ignore-not-found", *self._waiting())

    def recover(self, name: str) -> Revision | None:
        """Delete the pending revision that a killed Helm left; return it, or None.

        The objects stay: the next upgrade changes those that differ. The caller must hold the lock
        of the adapter, or `recover` would delete the revision of a Helm process that is still
        running.
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

    def _run(self, *arguments: str, stdin: str | None = None) -> str:
        command = [self._program, "--namespace", self._api.namespace, *arguments]
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
                f"{self._program}: no such program; install Helm 4, or set its path in ATELIER_HELM"
            ) from error
        try:
            output, errors = process.communicate(stdin)
        except BaseException:  # interrupted: let Helm record the failure
            try:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOPPING)
            finally:
                process.kill()
            raise
        if process.returncode != 0:
            text = _complaint(errors)
            raise (ClusterAway if _AWAY.search(text) else HelmRefused)(
                f"helm {arguments[0]} {arguments[1]}: {text}"
            )
        return output


def _revision(entry: Mapping[str, Any]) -> Revision:
    return Revision(
        number=int(entry["revision"]),
        status=str(entry["status"]),
        description=str(entry.get("description") or ""),
        updated=datetime.fromisoformat(str(entry["updated"])),
    )


def _complaint(text: str) -> str:
    """Return the error in Helm's output, without its log lines."""
    lines = [x for x in text.strip().splitlines() if not x.startswith(("level=", "time="))]
    error = next((x for x in lines if x.startswith("Error:")), lines[-1] if lines else "")
    return redact(error.removeprefix("Error:").strip())[:600] or "no reason given"
