"""What probes and Prometheus ask an agent: `/healthz`, `/readyz`, `/metrics`.

One thread answers one call at a time, each within seconds: nobody but the node and the monitoring
comes here, and the loop must not depend on them.
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
from services.agent.agent import Agent

logger = logging.getLogger(__name__)

STUCK_SECONDS = 30.0  # without a round the agent is as good as dead
CALL_SECONDS = 1.0  # a call takes at most that long: less than a probe waits


class Pulse:
    """When the loop last came round."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def beat(self) -> None:
        self._last = time.monotonic()

    @property
    def alive(self) -> bool:
        return time.monotonic() - self._last < STUCK_SECONDS


class AgentMetrics:
    """An agent's last round as Prometheus metrics (a collector, read when asked)."""

    def __init__(self, agent: Agent):
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("atelier_agent_ready", "Whether every release is served.")
        ready.add_metric([], float(self._agent.ready))
        yield ready
        seen = self._agent.seen
        if seen is None:
            return
        adapters = seen.told.adapters if seen.told else ()
        states = Counter(one.state for one in adapters)
        held = GaugeMetricFamily(
            "atelier_agent_adapters", "Adapter versions by state.", labels=["state"]
        )
        for state in ("ready", "loading", "failed"):
            held.add_metric([state], states[state])  # type: ignore[index]
        yield held
        names = ["adapter", "version", "digest"]
        default = InfoMetricFamily(
            "atelier_agent_default", "The version that answers by default.", labels=names
        )
        for one in adapters:
            if one.default:
                default.add_metric([one.name, str(one.version), one.digest], {})
        yield default
        failures = CounterMetricFamily(
            "atelier_agent_fetch_failures", "Attempts to fetch a package that brought nothing."
        )
        failures.add_metric([], seen.failures)
        yield failures
        fresh = GaugeMetricFamily(
            "atelier_agent_releases_read_timestamp_seconds",
            "When what is released was last read without trouble.",
        )
        fresh.add_metric([], seen.fresh)
        yield fresh


Answer = tuple[int, str, bytes]  # status, media type, body


class HealthServer:
    """Answers on a port until closed."""

    def __init__(self, agent: Agent, pulse: Pulse, host: str, port: int):
        registry = CollectorRegistry()
        registry.register(AgentMetrics(agent))  # type: ignore[arg-type]
        answers: dict[str, Callable[[], Answer]] = {
            "/healthz": lambda: _plain(pulse.alive, "ok", "the loop is stuck"),
            "/readyz": lambda: _plain(agent.ready, "ok", _why(agent)),
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
        }
        self._server = _Server((host, port), _handler(answers))
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(HTTPServer):
    """Also on IPv6, where a pod's only address may be."""

    def server_bind(self) -> None:
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


def _why(agent: Agent) -> str:
    """What a pod that is not ready waits for, in the words of its report."""
    seen = agent.seen
    if seen is None or seen.told is None:
        return "the engine has not said what it holds yet"
    if not seen.known:
        return "; ".join(seen.troubles) or "what is released is not known yet"
    if not seen.told.live():
        return "the engine has not been heard of for some seconds"
    held = [one for one in seen.told.adapters if one.state != "ready"]
    told = [f"{one.name}@{one.version}: {one.error or one.state}" for one in held]
    return "; ".join(told) or "the engine has not switched to what it was asked for yet"
