"""Run several processes on one port, and sum their metrics.

The workers share keys and usage through the database, and the queue through the engine. Each worker
reports its own routes. The workers write their metrics to files in one folder.
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

METRICS = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported


def run_workers(config: uvicorn.Config, listening: socket.socket) -> int:
    """Run `config.workers` processes until a signal arrives, and return the exit code.

    A process that ends earlier is restarted.
    """
    with tempfile.TemporaryDirectory(prefix="atelier-gateway-") as folder:
        os.environ[METRICS] = folder
        supervisor = Multiprocess(config, [listening])
        supervisor.run()
    failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
    return STARTUP_FAILURE if failed else 0


def end_with_parent() -> None:
    """Start a thread that sends SIGTERM to this worker when its supervisor ends.

    Does nothing in a process without a supervisor.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def shared_metrics() -> CollectorRegistry | None:
    """Return the summed metrics of all workers, or None if there is only this process."""
    folder = os.environ.get(METRICS)
    if not folder:
        return None
    for file in Path(folder).glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():  # a dead worker has no in-flight requests
            mark_process_dead(pid, folder)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)
    return registry
