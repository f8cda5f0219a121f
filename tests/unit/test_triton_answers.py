"""Late answers, abandoned requests, draining and metrics of the Triton model, without a server."""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

from atelier.errors import AdapterRejected, Unavailable
from services.engine import (
    Cancelled,
    DeadlineExceeded,
    Diverged,
    QueueFull,
    RequestError,
    UnknownAdapter,
)
from services.engine.stats import EngineStats, MetricFamily, Sample, metrics
from services.triton.answers import Answers, error_code, error_text
from services.triton.control import ControlFolder
from services.triton.metrics import Mirror
from services.triton.process import alive, roll, tail


class FakeSender:
    """Triton's sender, which must not be touched after its answer."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.gone = False

    def is_cancelled(self) -> bool:
        assert not self.answers, "asked after its answer"
        return self.gone


def collected() -> Answers[str]:
    def send(sender: Any, outcome: Any) -> None:
        sender.answers.append(outcome)

    return Answers(send)


def test_answers_go_out_in_the_order_of_completion_and_once_each() -> None:
    answers = collected()
    senders = [FakeSender() for _ in range(3)]
    futures: list[Future[str]] = [Future() for _ in senders]
    for sender, future in zip(senders, futures, strict=True):
        answers.expect(sender, future)
    futures[2].set_result("third")
    futures[0].set_exception(RequestError("steps: 0"))
    assert not answers.wait_until_empty(0.1)
    futures[1].set_result("second")
    assert answers.wait_until_empty(5.0)
    assert [len(sender.answers) for sender in senders] == [1, 1, 1]
    assert senders[1].answers == ["second"]
    assert str(senders[0].answers[0]) == "steps: 0"
    answers.close()


def test_what_nobody_waits_for_is_cancelled_and_still_answered() -> None:
    answers = collected()
    stays, leaves = FakeSender(), FakeSender()
    kept: Future[str] = Future()
    left: Future[str] = Future()
    answers.expect(stays, kept)
    answers.expect(leaves, left)
    assert answers.cancel_abandoned() == 0
    leaves.gone = True
    assert answers.cancel_abandoned() == 1
    assert left.cancelled()
    kept.set_result("a picture")
    assert answers.wait_until_empty(5.0)
    assert isinstance(leaves.answers[0], CancelledError)
    assert answers.cancel_abandoned() == 0
    assert len(answers) == 0
    answers.close()


def test_one_answer_that_cannot_be_sent_does_not_hold_up_the_end() -> None:
    def send(sender: Any, outcome: Any) -> None:
        raise RuntimeError("Triton has gone")

    answers: Answers[str] = Answers(send)
    future: Future[str] = Future()
    answers.expect(FakeSender(), future)
    future.set_result("a picture")
    assert answers.wait_until_empty(5.0)
    answers.close()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RequestError("steps: 0 is too few"), "INVALID_ARG", "steps: 0 is too few"),
        (AdapterRejected("a: damaged"), "INVALID_ARG", "a: damaged"),
        (UnknownAdapter("adapter x: not held"), "NOT_FOUND", "adapter x: not held"),
        (QueueFull("full", retry_after=2.5), "UNAVAILABLE", "full (retry after 2.5 s)"),
        (Unavailable("stopping"), "UNAVAILABLE", "stopping (retry after 1.0 s)"),
        (Cancelled("closed"), "UNAVAILABLE", "closed (retry after 1.0 s)"),
        (DeadlineExceeded("deadline: 2 s"), "CANCELLED", "deadline: 2 s"),
        (CancelledError(), "CANCELLED", "the request was cancelled"),
        (Diverged("latents: not finite"), "INTERNAL", "latents: not finite"),
        (ZeroDivisionError("oh"), "INTERNAL", "internal error: ZeroDivisionError: oh"),
    ],
)
def test_a_client_can_tell_from_the_code_whether_to_try_again(
    error: BaseException, code: str, text: str
) -> None:
    assert (error_code(error), error_text(error)) == (code, text)


def test_draining_is_asked_for_and_answered_by_files(tmp_path: Path) -> None:
    control = ControlFolder(tmp_path)
    assert control.worker() is None
    control.announce(4711)
    assert (control.worker(), control.drain_requested()) == (4711, False)

    def model() -> None:
        while not control.drain_requested():
            time.sleep(0.01)
        control.report_drained()

    thread = threading.Thread(target=model)
    thread.start()
    assert control.drain(timeout=5.0)
    thread.join()
    control.clear()
    assert not control.drain(timeout=0.1)


class FakeFamily:
    """One family of Triton's custom metrics."""

    COUNTER, GAUGE = "counter", "gauge"

    def __init__(self, name: str, description: str, kind: str):
        self.name, self.kind = name, kind

    def Metric(self, labels: dict[str, str]) -> "FakeMetric":  # noqa: N802 (Triton's name)
        return FakeMetric()


class FakeMetric:
    """One of its metrics."""

    def __init__(self) -> None:
        self.number = 0.0

    def value(self) -> float:
        return self.number

    def set(self, value: float) -> None:
        self.number = value

    def increment(self, by: float) -> None:
        assert by >= 0, "a counter never falls"
        self.number += by


class FakeTriton:
    """The part of its Python backend's module that metrics need."""

    MetricFamily = FakeFamily


def test_the_engines_metrics_are_mirrored_and_old_labels_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.triton.metrics.PERIOD", 0.0)
    kept: list[tuple[MetricFamily, ...]] = [
        (
            MetricFamily("lora_requests_info", "gauge", "Adapters.", (Sample(labels, moment),)),
            MetricFamily("images_total", "counter", "Images made.", (Sample((), images),)),
        )
        for labels, moment, images in (
            ((("max_lora", "8"), ("running_lora_adapters", 'thor-cat,"odd"')), 1.0, 3.0),
            ((("max_lora", "8"), ("running_lora_adapters", "")), 2.0, 5.0),
        )
    ]
    mirror = Mirror(FakeTriton, lambda: kept[0])
    mirror.update()
    mirror.update()
    odd = (("max_lora", "8"), ("running_lora_adapters", 'thor-cat,"odd"'))
    seen = {key: metric.value() for key, metric in mirror._metrics.items()}
    assert seen == {("lora_requests_info", odd): 1.0, ("images_total", ()): 3.0}
    kept.pop(0)
    mirror.update()
    none = (("max_lora", "8"), ("running_lora_adapters", ""))
    seen = {key: metric.value() for key, metric in mirror._metrics.items()}
    assert seen == {("lora_requests_info", none): 2.0, ("images_total", ()): 5.0}


def test_the_engines_own_report_is_mirrored() -> None:
    stats = EngineStats(slots=8, running_adapters=("a", "b"))
    stats.called(rows=4, seconds=0.5)
    mirror = Mirror(FakeTriton, lambda: metrics(stats))
    mirror.update()
    seen = {key: metric.value() for key, metric in mirror._metrics.items()}
    assert seen["atelier_engine_unet_rows_total", ()] == 4.0
    assert seen["atelier_engine_seconds_total", (("phase", "denoise"),)] == 0.5
    assert any(name == "lora_requests_info" for name, _ in seen)


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed outright, so nothing of its own could have cleaned up."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom services.triton.process import spawn\n"
        "child = spawn([sys.executable, '-c', 'import time; time.sleep(60)'],"
        f" log=Path({str(tmp_path / 'log')!r}))\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.stdout.close()


def test_the_end_of_a_log_and_the_one_before(tmp_path: Path) -> None:
    log = tmp_path / "some.log"
    assert "No such file" in tail(log)
    log.write_text("".join(f"line {i}\n" for i in range(100)))
    assert tail(log, 2) == "    line 98\n    line 99"
    roll(log)
    assert not log.exists()
    assert (tmp_path / "some.log.1").read_text().endswith("line 99\n")


def test_a_model_whose_server_is_gone_ends(tmp_path: Path) -> None:
    """It is not its server's child any more; whatever else it does, it ends."""
    script = (
        "import time\nfrom services.triton.watchdog import Watchdog\n"
        "Watchdog([lambda: 1 / 0], server=1 << 22, period=0.01).start()\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert ended.returncode == 70
