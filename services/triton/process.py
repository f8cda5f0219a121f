"""Child processes that never outlive their parent, and what their logs said last."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from atelier.addresses import listen, redact

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded here: after fork is no time for it


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    when_orphaned: signal.Signals = signal.SIGTERM,
) -> "subprocess.Popen[bytes]":
    """Start a child in a process group of its own, printing into `log`; OSError where it cannot.

    The kernel sends it `when_orphaned` when the calling *thread* ends, so call this from the main
    thread. Its own group keeps a Ctrl-C at the terminal from reaching it before its parent decides.
    """
    parent = os.getpid()

    def bind_to_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(when_orphaned), 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
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
    """SIGTERM, and SIGKILL after `grace` seconds; returns the exit code (negative: a signal)."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def alive(pid: int) -> bool:
    """Whether a process runs under `pid`; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on at this moment."""
    with listen(host, 0) as probe:
        port: int = probe.getsockname()[1]
        return port


def roll(log: Path) -> None:
    """Begin a new log file and keep the last one beside it, as `<name>.1`."""
    if log.exists() and log.stat().st_size:
        log.replace(log.with_name(f"{log.name}.1"))


def tail(log: Path, lines: int = 20, *, limit: int = 64 * 1024) -> str:
    """The last `lines` lines of a log, indented; what there is, if it cannot be read.

    Triton's tables of settings are left out: they would push the reason of a failed start away.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - limit))
            text = redact(file.read().decode(errors="replace"))
    except OSError as error:
        return f"    ({log}: {error.strerror})"
    told = [line for line in text.splitlines() if line.strip() and line[0] not in "+|"]
    last = [line.rstrip()[:400] for line in told][-lines:]
    return "\n".join(f"    {line}" for line in last) or f"    ({log} is empty)"
