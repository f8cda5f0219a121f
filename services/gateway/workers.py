"""Several processes on one port: what they must share is in the database, in Triton and here.

Keys and usage are rows, the queue is the engine's, and each worker reports where it sends calls.
Only metrics are in a process's memory: workers keep theirs in files of one folder instead.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

METRICS = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client looks for it when it is imported


def run_workers(config: uvicorn.Config, listening: socket.socket) -> int:
    """Run `config.workers` of them until told to stop, restarting any that dies; the exit code."""
    with tempfile.TemporaryDirectory(prefix="atelier-gateway-") as folder:
        os.environ[METRICS] = folder
        supervisor = Multiprocess(config, [listening])
        supervisor.run()
    failed = any(one.exitcode == STARTUP_FAILURE for one in supervisor.processes)
    return STARTUP_FAILURE if failed else 0


def end_with_parent() -> None:
    """Let this process end calmly when the one that keeps it was killed; nothing in a lone one."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def shared_metrics() -> CollectorRegistry | None:
    """The metrics of all workers added up; None where this process is the only one."""
    folder = os.environ.get(METRICS)
    if not folder:
        return None
    for file in Path(folder).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():  # what it was doing when it died is not being done
            mark_process_dead(pid, folder)
    together = CollectorRegistry()
    MultiProcessCollector(together, folder)
    return together
