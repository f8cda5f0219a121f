"""The HTTP endpoints of an agent for probes and Prometheus: `/healthz`, `/readyz`, `/metrics`.

One thread serves one request at a time, with a timeout. Only the node and the monitoring send
requests, and the loop of the agent must not depend on them.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from atelier.addresses import listen
from atelier.contract.reports import LIVE_SECONDS
from services.agent.agent import Agent

logger = logging.getLogger(__name__)

STUCK_SECONDS = 30.0  # time without a round after which the agent counts as dead
CALL_SECONDS = 1.0  # timeout of a request, less than that of a probe


class Pulse:
    """The time of the loop's last round."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def beat(self) -> None:
        """Record a round."""
        self._last = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the last round is less than STUCK_SECONDS ago."""
        return time.monotonic() - self._last < STUCK_SECONDS


class AgentMetrics:
    """Collect Prometheus metrics from the last round of an agent."""

    def __init__(self, agent: Agent):
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        ready = GaugeMetricFamily("atelier_agent_ready", "Whether every release is served.")
        ready.add_metric([], float(self._agent.ready))
        yield ready
        snapshot = self._agent.snapshot
        if snapshot is None:
            return
        adapters = snapshot.report.adapters if snapshot.report else ()
        states = Counter(adapter.state for adapter in adapters)
        held = GaugeMetricFamily(
            "atelier_agent_adapters", "Adapter versions by state.", labels=["state"]
        )
        for state in ("ready", "loading", "failed"):
            held.add_metric([state], states[state])  # type: ignore[index]
        yield held
        names = ["adapter", "version", "digest"]
        default = InfoMetricFamily("atelier_agent_default", "The default version.", labels=names)
        for adapter in adapters:
            if adapter.default:
                default.add_metric([adapter.name, str(adapter.version), adapter.digest], {})
        yield default
        failures = CounterMetricFamily(
            "atelier_agent_fetch_failures", "Failed attempts to fetch a package."
        )
        failures.add_metric([], snapshot.failures)
        yield failures
        read_at = GaugeMetricFamily(
            "atelier_agent_releases_read_timestamp_seconds",
            "Time of the last reading of the releases without a problem.",
        )
        read_at.add_metric([], snapshot.read_at)
        yield read_at


Answer = tuple[int, str, bytes]  # status, media type, body


class HealthServer:
    """Serve the endpoints on a port until `close`."""

    def __init__(self, agent: Agent, pulse: Pulse, host: str, port: int):
        registry = CollectorRegistry()
        registry.register(AgentMetrics(agent))  # type: ignore[arg-type]
        answers: dict[str, Callable[[], Answer]] = {
            "/healthz": lambda: _plain(pulse.alive, "ok", "the loop is stuck"),
            "/readyz": lambda: _plain(agent.ready, "ok", _reason(agent)),
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
        }
        self._server = _Server((host, port), _handler(answers))
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Server(HTTPServer):
    """A server on IPv4 and IPv6, because a pod may have only an IPv6 address."""

    def server_bind(self) -> None:
        """Listen on the address, with IPv6 if it is available."""
        self.socket.close()
        self.socket = listen(*self.server_address[:2])  # type: ignore[arg-type]
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


def _handler(answers: dict[str, Callable[[], Answer]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CALL_SECONDS

        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            status, kind, body = answer() if answer else (404, "text/plain", b"not found\n")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            logger.debug(format, *args)

    return Handler


def _plain(good: bool, text: str, why: str) -> Answer:
    return (
        (200 if good else 503),
        "text/plain; charset=utf-8",
        f"{text if good else why}\n".encode(),
    )


def _reason(agent: Agent) -> str:
    """Return the reason why the replica is not ready."""
    snapshot = agent.snapshot
    if snapshot is None or snapshot.report is None:
        return "the engine has not reported its adapters yet"
    if not snapshot.report.live():
        return f"the engine has sent no heartbeat in the last {LIVE_SECONDS:g} s"
    waiting = [adapter for adapter in snapshot.report.adapters if adapter.state != "ready"]
    reasons = [f"{a.name}@{a.version}: {a.error or a.state}" for a in waiting]
    if not snapshot.known:
        reasons += snapshot.problems or ["the releases have not been read yet"]
    return "; ".join(reasons) or "the engine has not switched to the wanted versions yet"
