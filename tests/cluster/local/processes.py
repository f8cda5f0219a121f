"""Long-running programs on the node: started detached, known by a pid file, stopped by signal."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.local.namespaces import holder, inside, on_node
from tests.cluster.local.settings import Settings
from tests.cluster.local.shell import environment
from tests.cluster.local.trouble import ClusterTroubleError

# The shell writes its pid, as the node counts, and becomes the program.
LAUNCH = 'echo $$ > "/run/pids/$1"; exec >> "$2" 2>&1; shift 2; exec "$@"'


@dataclass(frozen=True)
class Program:
    """One of them: its command, and how one sees that it works (by default, that it lives)."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool] = lambda: True
    seconds: float = 60.0  # to become ready
    files: dict[Path, str] = field(default_factory=dict)  # that it reads
    environment: dict[str, str] = field(default_factory=dict)


def is_running(settings: Settings, program: Program) -> bool:
    """Whether it lives. A pid that another program has taken since does not count."""
    return _pid(settings, program) is not None


def start(settings: Settings, program: Program) -> None:
    """Start it if it is not running, and wait until it is ready.

    ClusterTroubleError with the end of its log when it ends instead, or takes too long.
    """
    log = settings.log / f"{program.name}.log"
    if not is_running(settings, program):
        for path, text in program.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        command = ["setsid", "--fork", "sh", "-c", LAUNCH, "sh", program.name, str(log)]
        subprocess.run(
            inside(settings, [*command, *program.command]),
            env=environment(**program.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=True,
        )
    until = time.monotonic() + program.seconds
    time.sleep(0.2)  # its shell has become the program by now
    while not program.ready():
        if not is_running(settings, program) or time.monotonic() > until:
            raise ClusterTroubleError(f"{program.name} did not start. {log} ends:\n{_end(log)}")
        time.sleep(0.3)
    if not is_running(settings, program):
        raise ClusterTroubleError(f"{program.name} ended. {log} ends:\n{_end(log)}")


def stop(settings: Settings, program: Program, how: signal.Signals = signal.SIGTERM) -> None:
    """Signal it, and wait until it has ended: an API server drains for up to a minute."""
    pid = _pid(settings, program)
    if pid is None:
        return
    on_node(settings, ["kill", f"-{how.value}", str(pid)], check=False)
    for _ in range(1200):
        if not is_running(settings, program):
            return
        time.sleep(0.1)
    raise ClusterTroubleError(f"{program.name} does not end.")


def _pid(settings: Settings, program: Program) -> int | None:
    """Its pid as the node counts, seen through the node's own /proc."""
    node = holder(settings)
    if node is None:
        return None
    root = Path(f"/proc/{node}/root")
    try:
        pid = int((root / "run/pids" / program.name).read_text())
        command = (root / "proc" / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
    except (OSError, ValueError):
        return None
    return pid if command == [os.fsencode(word) for word in program.command] else None


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else ""


def command(name: str | Path, *positional: str, **options: object) -> tuple[str, ...]:
    """A command line: `tls_cert_file=x` becomes `--tls-cert-file=x`, True `--…=true`."""
    flags = (
        f"--{key.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in options.items()
    )
    return (str(name), *positional, *flags)
