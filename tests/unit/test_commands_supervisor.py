"""The supervisor of `atelier serve` with real child processes that do nothing but live and die."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atelier.errors import BadInput, Unavailable
from atelier.home import Home
from commands.replica import supervisor
from commands.replica.plan import Addresses, ServedModel, plan_services, unused_port
from commands.replica.supervisor import Service, Supervisor
from services.triton.process import alive

SLEEP = "exec sleep 60"


def service(name: str, script: str, folder: Path, **options: object) -> Service:
    """A shell script as a service; ready as soon as it says so in its log."""
    log = folder / f"{name}.log"
    fields: dict[str, object] = {
        "name": name,
        "argv": ["/bin/sh", "-c", f"echo {name} began; {script}"],
        "env": dict(os.environ),
        "log": log,
        "ready": lambda: log.exists() and "began" in log.read_text(),
        "start_seconds": 20.0,
        **options,
    }
    return Service(**fields)  # type: ignore[arg-type]


class Running:
    """A supervisor at work; its children are started by the thread that also ends them."""

    def __init__(self, *services: Service):
        self.said: list[str] = []
        self.up = threading.Event()
        self.supervisor = Supervisor(services, report=self.said.append)
        self.thread = threading.Thread(target=self.supervisor.run, args=(self.up.set,))

    def __enter__(self) -> "Running":
        self.thread.start()
        assert self.up.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.supervisor.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)


def pids(running: Running) -> list[int]:
    found = [running.supervisor.pid(one.name) for one in running.supervisor.services]
    assert None not in found
    return [pid for pid in found if pid is not None]


def test_services_start_in_order_and_end_in_reverse(tmp_path: Path) -> None:
    order = tmp_path / "order"
    ending = f"trap 'echo $0 >> {order}; exit 0' TERM; while :; do sleep 0.05; done"
    first = service("one", ending.replace("$0", "one"), tmp_path)
    second = service("two", ending.replace("$0", "two"), tmp_path)
    with Running(first, second) as running:
        children = pids(running)
        assert running.said == ["one is ready", "two is ready"]
    assert order.read_text().split() == ["two", "one"]
    assert not any(alive(pid) for pid in children)


def test_one_that_ends_is_named_with_its_last_words_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.05)
    with Running(service("one", SLEEP, tmp_path), service("two", SLEEP, tmp_path)) as running:
        one, two = pids(running)
        os.kill(two, signal.SIGKILL)
        running.until(lambda: running.supervisor.pid("two") not in (None, two))
        assert pids(running)[0] == one  # the other one goes on
        told = running.said[-1]
        assert told.startswith("two ended (killed by SIGKILL)")
        assert "    two began" in told
        assert "restart in 0.05 s" in told


def test_one_that_ends_again_and_again_waits_longer_and_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(supervisor, "LONGEST_WAIT", 0.1)
    with Running(service("one", "sleep 0.3; exit 7", tmp_path)) as running:
        running.until(lambda: len(running.said) >= 6)
    waits = [text.rpartition("restart in ")[2] for text in running.said[1:6]]
    assert waits == ["0.02 s", "0.04 s", "0.08 s", "0.1 s", "0.1 s"]
    assert running.said[1].startswith("one ended (exit code 7)")


def test_one_that_cannot_start_ends_all_with_its_log(tmp_path: Path) -> None:
    good = service("good", SLEEP, tmp_path)
    bad = service("bad", "echo no such base >&2; exit 2", tmp_path, ready=lambda: False)
    supervisor = Supervisor([good, bad], report=lambda _: None)
    with pytest.raises(Unavailable, match="bad ended") as failed:
        supervisor.run()
    assert "    no such base" in str(failed.value)
    assert supervisor.pid("good") is None


def test_one_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    slow = service("slow", SLEEP, tmp_path, ready=lambda: False, start_seconds=0.3)
    with pytest.raises(Unavailable, match=r"slow is not ready after 0 s"):
        Supervisor([slow], report=lambda _: None).run()


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = service("one", "trap '' TERM; while :; do sleep 0.05; done", tmp_path, grace=0.2)
    with Running(stubborn) as running:
        (child,) = pids(running)
    assert running.said[-1] == "one did not end within 0.2 s and is killed"
    assert not alive(child)


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from commands.replica.supervisor import Service, Supervisor\n"
        "folder = Path(sys.argv[1])\n"
        "one = Service('one', ['/bin/sleep', '60'], {}, folder / 'log', ready=lambda: True)\n"
        "keeper = Supervisor([one], report=lambda _: None)\n"
        "keeper.run(lambda: print(keeper.pid('one'), flush=True))\n"
    )
    keeper = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert keeper.stdout is not None
    child = int(keeper.stdout.readline())
    keeper.kill()
    keeper.wait()
    deadline = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    keeper.stdout.close()


def test_a_replica_is_triton_then_agent_then_gateway(tmp_path: Path) -> None:
    addresses = Addresses(gateway=1, http=2, grpc=3, metrics=4)
    model = ServedModel(tmp_path / "base", tmp_path / "vae")
    planned = plan_services(Home(tmp_path), model, addresses, replica="r1")
    assert [one.name for one in planned] == ["triton", "agent", "gateway", "reconciler"]
    triton, agent, gateway, reconciler = (one.env for one in planned)
    assert triton["ATELIER_BASE"] == str(tmp_path / "base")
    assert triton["ATELIER_VAE"] == str(tmp_path / "vae")
    assert triton["ATELIER_TRITON_GRPC_PORT"] == "3"
    assert (agent["ATELIER_TRITON_HTTP_PORT"], agent["ATELIER_TRITON_GRPC_PORT"]) == ("2", "3")
    assert gateway["ATELIER_GATEWAY_WORKERS"] == "1"
    assert gateway["ATELIER_TRITON_URL"] == "grpc://127.0.0.1:3"
    assert {env["ATELIER_REPLICA"] for env in (triton, agent, gateway)} == {"r1"}
    assert len({env["MLFLOW_TRACKING_URI"] for env in (triton, agent, gateway, reconciler)}) == 1
    alone = plan_services(Home(tmp_path), ServedModel(tmp_path), addresses, replica="r1", workers=0)
    assert [one.name for one in alone] == ["triton", "agent", "reconciler"]


def test_a_port_in_use_is_told_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"--port {port}"):
            unused_port("127.0.0.1", port, "--port")
    assert unused_port("127.0.0.1", 0, "--port") != 0
