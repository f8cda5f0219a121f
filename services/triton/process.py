"""Child processes that end with their parent, and the ends of their logs."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from atelier.addresses import listen, redact

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(
    None, use_errno=True
)  # loaded on import, because loading is unsafe between fork and exec


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    when_orphaned: signal.Signals = signal.SIGTERM,
) -> "subprocess.Popen[bytes]":
    """Start a child in its own process group, with its output appended to `log`.

    When the calling *thread* ends, the kernel sends the signal `when_orphaned` to the child
    (PR_SET_PDEATHSIG), so the main thread must call this function. Because of the process group,
    Ctrl-C at the terminal does not reach the child: its parent decides when to stop it. Raises
    OSError if the child cannot be started.
    """
    parent = os.getpid()

    def bind_to_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(when_orphaned), 0, 0, 0)
        if os.getppid() != parent:  # the parent ended between fork and prctl
            os._exit(1)

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(os.environ if env is None else env),
            cwd=cwd,
            preexec_fn=bind_to_parent,  # noqa: PLW1509 (it makes one system call, takes no lock)
            process_group=0,
        )


def stop(child: "subprocess.Popen[bytes]", *, grace: float) -> int:
    """Send SIGTERM, and SIGKILL after `grace` seconds. Return the exit code, -N for signal N."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def alive(pid: int) -> bool:
    """Return whether the process `pid` runs. A zombie does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that is unused at this moment."""
    with listen(host, 0) as probe:
        port: int = probe.getsockname()[1]
        return port


def roll(log: Path) -> None:
    """Rename a log file to `<name>.1`, so that the next output starts a new file."""
    if log.exists() and log.stat().st_size:
        log.replace(log.with_name(f"{log.name}.1"))


def tail(log: Path, lines: int = 20, *, limit: int = 64 * 1024) -> str:
    """Return the last `lines` lines of a log, indented, or the reason why it cannot be read.

    At most `limit` bytes are read. The result does not include Triton's tables of settings, which
    would displace the reason of a failed start.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - limit))
            text = redact(file.read().decode(errors="replace"))
    except OSError as error:
        return f"    ({log}: {error.strerror})"
    messages = [line for line in text.splitlines() if line.strip() and line[0] not in "+|"]
    last = [line.rstrip()[:400] for line in messages][-lines:]
    return "\n".join(f"    {line}" for line in last) or f"    ({log} is empty)"
