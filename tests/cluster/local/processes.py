"""Start, find and stop long-running programs on the node. Each has a pid file."""

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

# The shell writes its pid in the node's namespace, and then executes the program.
LAUNCH = 'echo $$ > "/run/pids/$1"; exec >> "$2" 2>&1; shift 2; exec "$@"'


@dataclass(frozen=True)
class Program:
    """A program: its command, and the check that it is ready (by default, that it runs)."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool] = lambda: True
    seconds: float = 60.0  # timeout of becoming ready
    files: dict[Path, str] = field(default_factory=dict)  # configuration files, by path
    environment: dict[str, str] = field(default_factory=dict)


def is_running(settings: Settings, program: Program) -> bool:
    """Return whether the program runs. A pid that another program has reused does not count."""
    return _pid(settings, program) is not None


def start(settings: Settings, program: Program) -> None:
    """Start the program if it does not run, and wait until it is ready.

    Raises ClusterTroubleError with the end of its log if it ends or is not ready in time.
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
    time.sleep(0.2)  # until the shell has executed the program
    while not program.ready():
        if not is_running(settings, program) or time.monotonic() > until:
            raise ClusterTroubleError(f"{program.name} did not start. {log} ends:\n{_end(log)}")
        time.sleep(0.3)
    if not is_running(settings, program):
        raise ClusterTroubleError(f"{program.name} ended. {log} ends:\n{_end(log)}")


def stop(settings: Settings, program: Program, how: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal and wait until the program has ended.

    An API server drains for up to a minute. Raises ClusterTroubleError after two minutes.
    """
    pid = _pid(settings, program)
    if pid is None:
        return
    on_node(settings, ["kill", f"-{how.value}", str(pid)], check=False)
    for _ in range(1200):
        if not is_running(settings, program):
            return
        time.sleep(0.1)
    raise ClusterTroubleError(f"{program.name} did not end within two minutes.")


def _pid(settings: Settings, program: Program) -> int | None:
    """Return the program's pid in the node's namespace, read from the node's /proc."""
    node = holder(settings)
    if node is None:
        return None
    root = Path(f"/proc/{node}/root")
    try:
        pid = int((root / "run/pids" / program.name).read_text())
        command = (root / "proc" / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
    except (OSError, ValueError):
        return None
    return pid if command == [os.fsencode(argument) for argument in program.command] else None


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else ""


def command(name: str | Path, *positional: str, **options: object) -> tuple[str, ...]:
    """Return a command line: `tls_cert_file=x` becomes `--tls-cert-file=x`, True `--…=true`."""
    flags = (
        f"--{key.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in options.items()
    )
    return (str(name), *positional, *flags)
