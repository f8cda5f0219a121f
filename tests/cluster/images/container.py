"""Runs an image as Kubernetes would under Pod Security "restricted": its own user, no capability,
read-only root, and a network namespace with nothing but a loopback.
"""

import json
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.images.store import Store

USER = 10001
_NOSUID = ["nosuid", "nodev"]


def run(
    store: Store,
    name: str,
    *command: str,
    environment: Mapping[str, str] | None = None,
    volumes: tuple[str, ...] = ("/tmp", "/var/lib/atelier"),
    readable: Mapping[Path, str] | None = None,
    timeout: float = 600.0,
) -> "subprocess.CompletedProcess[str]":
    """Run to its end; `volumes` are empty and writable, `readable` maps paths here to paths there.

    stderr is in the output. Raises TimeoutExpired after `timeout` seconds; nothing is left.
    """
    configuration = store.configuration(name)["config"]
    environment = dict(one.split("=", 1) for one in configuration["Env"]) | dict(environment or {})
    identity = f"atelier-test-{uuid.uuid4().hex[:12]}"
    with store.mounted(name) as root, tempfile.TemporaryDirectory() as bundle:
        specification = _specification(
            root,
            [*(configuration.get("Entrypoint") or ()), *command],
            environment,
            configuration.get("WorkingDir") or "/",
            [
                *({"destination": at, "source": "tmpfs", "type": "tmpfs"} for at in volumes),
                *(
                    {"destination": there, "source": str(here), "type": "bind", "options": _BIND}
                    for here, there in (readable or {}).items()
                ),
            ],
        )
        (Path(bundle) / "config.json").write_text(json.dumps(specification))
        words = ("runc", "run", "--bundle", bundle, identity)
        try:
            return subprocess.run(
                words,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
            )
        finally:
            subprocess.run(
                ("runc", "delete", "--force", identity), check=False, capture_output=True
            )


_BIND = ["rbind", "ro", *_NOSUID]


def _specification(
    root: Path,
    command: list[str],
    environment: Mapping[str, str],
    folder: str,
    mounts: list[dict[str, Any]],
) -> dict[str, Any]:
    """The runtime's config.json."""
    for mount in mounts:
        if mount["type"] == "tmpfs":
            mount["options"] = [*_NOSUID, f"uid={USER}", f"gid={USER}", "mode=0700"]
    shared = {"destination": "/dev/shm", "source": "shm", "type": "tmpfs", "options": _NOSUID}
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "user": {"uid": USER, "gid": USER},
            "args": command,
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": folder,
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": "/proc", "source": "proc", "type": "proc"},
            {"destination": "/dev", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid"]},
            shared,
            *mounts,
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        },
    }
