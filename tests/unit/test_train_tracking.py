"""The journal, its delivery to places that are away, and what whoever waits is shown."""

import io
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from atelier.errors import Unavailable
from pipelines.train.loop import StepReport
from pipelines.train.progress import Lines
from pipelines.train.stopping import Stopping
from pipelines.train.tracking import delivery
from pipelines.train.tracking.delivery import Delivery
from pipelines.train.tracking.journal import Event, Journal
from pipelines.train.tracking.sinks import MlflowSink, WandbSink


class Place:
    """A sink that is away for its first calls."""

    def __init__(self, name: str = "mlflow", away: int = 0, local: bool = False) -> None:
        self.name, self.away, self.local = name, away, local
        self.told: list[Event] = []
        self.linked: dict[str, str] = {}
        self.begun = 0

    def send(self, events: Sequence[Event]) -> None:
        self.told += events

    def identity(self) -> dict[str, str]:
        if self.away:
            self.away -= 1
            raise Unavailable(f"{self.name} is away")
        self.begun += 1
        return {f"{self.name}.run_id": f"run-{self.begun}"}

    def link(self, tags: dict[str, str]) -> None:
        self.linked |= tags

    def close(self) -> None:
        pass


def journal(folder: Path) -> Journal:
    made = Journal(folder / "log.jsonl")
    made.append("params", lr=0.1)
    for step in (1, 2, 3):
        made.metrics(step, {"loss": 1.0 / step})
    return made


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    journal(tmp_path).close()
    again = Journal(tmp_path / "log.jsonl")
    again.metrics(2, {"loss": 9.0})  # told in the life before
    again.metrics(4, {"loss": 0.25})
    steps = [event.data["step"] for event in again.since(1)]
    assert steps == [1, 2, 3, 4]
    assert again.has("params", lr=0.1)
    assert not again.has("params", lr=0.2)


def test_each_metric_goes_on_where_it_was(tmp_path: Path) -> None:
    made = journal(tmp_path)
    made.metrics(3, {"judge/margin": 0.5})  # after the loss of the same step
    made.close()
    again = Journal(tmp_path / "log.jsonl")
    again.metrics(3, {"loss": 9.0, "judge/margin": 0.5, "judge/text": 0.25})
    again.metrics(2, {"judge/margin": 0.5})
    values = [event.data["values"] for event in again.since(4)]
    assert values == [{"judge/margin": 0.5}, {"judge/text": 0.25}]


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    journal(tmp_path).close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"number": 4, "ti')
    again = Journal(tmp_path / "log.jsonl")
    again.metrics(4, {"loss": 0.25})
    again.close()
    assert [event.number for event in Journal(tmp_path / "log.jsonl").since(0)] == [0, 1, 2, 3, 4]


def test_everything_is_delivered_once_and_in_order(tmp_path: Path) -> None:
    place = Place()
    made = journal(tmp_path)
    Delivery(made, [place], tmp_path / "state.json").finish(patience=1)
    assert [event.number for event in place.told] == [0, 1, 2, 3]
    made.metrics(4, {"loss": 0.2})
    later = Place()
    Delivery(made, [later], tmp_path / "state.json").finish(patience=1)
    assert [event.number for event in later.told] == [4]
    assert later.begun == 0  # the run goes on; no second one is begun


def test_a_place_that_comes_back_is_told_all(tmp_path: Path) -> None:
    place = Place(away=1)
    Delivery(journal(tmp_path), [place], tmp_path / "state.json").finish(patience=30)
    assert len(place.told) == 4


def test_a_place_that_stays_away_is_named_with_the_way_to_deliver(tmp_path: Path) -> None:
    here, away = Place("wandb"), Place("mlflow", away=1000)
    made = journal(tmp_path)
    with pytest.raises(Unavailable, match=r"mlflow is away.*--deliver") as told:
        Delivery(made, [here, away], tmp_path / "state.json").finish(patience=0.1)
    assert told.value.exit_code == 3
    assert len(here.told) == 4
    away.away = 0
    Delivery(made, [here, away], tmp_path / "state.json").finish(patience=1)
    assert len(away.told) == 4
    assert len(here.told) == 4


class Slow(Place):
    """A sink that answers when it is let, and says when it is asked."""

    def __init__(self, *, local: bool) -> None:
        super().__init__(local=local)
        self.asked, self.let = threading.Event(), threading.Event()

    def identity(self) -> dict[str, str]:
        self.asked.set()
        self.let.wait()
        return super().identity()


@pytest.mark.parametrize("local", [True, False])
def test_a_local_place_is_waited_for_however_slow_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    monkeypatch.setattr(delivery, "PAUSE", 0.01)
    monkeypatch.setattr(delivery, "SLOWNESS", 0.01)
    place = Slow(local=local)
    one = Delivery(journal(tmp_path), [place], tmp_path / "state.json")
    one.start()
    assert place.asked.wait(30)
    if local:
        threading.Timer(0.3, place.let.set).start()
        one.finish()
        assert len(place.told) == 4
    else:
        with pytest.raises(Unavailable, match=r"no answer in 0\.01 s.*--deliver"):
            one.finish()
        place.let.set()


def test_what_lies_on_this_machine_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for uri, local in (("sqlite:////home/mlflow.db", True), ("http://127.0.0.1:5000", False)):
        assert MlflowSink(uri, "experiment", "run", None).local == local
    for mode, local in (("offline", True), ("online", False)):
        assert WandbSink("atelier", mode, "run", "id", tmp_path).local == local


def test_places_learn_of_one_another(tmp_path: Path) -> None:
    one, other = Place("mlflow"), Place("wandb")
    Delivery(journal(tmp_path), [one, other], tmp_path / "state.json").finish(patience=1)
    assert one.linked == {"wandb.run_id": "run-1"}
    assert other.linked == {"mlflow.run_id": "run-1"}


def test_lines_tell_loss_speed_and_time_left() -> None:
    page = io.StringIO()
    lines = Lines(Console(file=page, width=200))
    lines.note("class pictures: 0 of [8]")
    lines.begin(10, 20)
    for step in range(11, 21):
        lines.update(StepReport(step, 0.5, 1e-4, 0.1, 0.25))
    lines.end()
    told = page.getvalue().splitlines()
    assert told[0] == "class pictures: 0 of [8]"
    assert "resumed after step 10" in told[1]
    assert told[-1] == "step 20/20  loss 0.5000  4.00 it/s  0:00 left"
    assert len(told) == 3


def test_sigterm_asks_to_stop_and_then_means_what_it_meant() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping:
        assert not stopping.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.requested
    assert signal.getsignal(signal.SIGTERM) is before
