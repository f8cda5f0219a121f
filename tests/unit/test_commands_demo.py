"""What the demo shows its results with, on made-up results."""

import io
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.contract.replica import Replica, ReplicaFolder
from atelier.errors import Refused
from atelier.home import Home
from commands.demo.__main__ import OUTPUTS, _fresh
from commands.demo.clock import Clock, TimedStep, duration
from commands.demo.images import require_different, require_same
from commands.demo.report import DemoReport, SheetRow, VersionRow
from commands.demo.server import Served
from commands.demo.swap import Swap
from commands.demo.traffic import TrafficAnswer, mismatches, pixel_difference, pixels_of
from pipelines.evaluate import GateResult
from pipelines.train.curves import Curve, plot

DIGESTS = ("sha256:" + "1" * 64, "sha256:" + "2" * 64)
REQUEST = ("a photo of a sks cat in the snow", 32)


def png(grey: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(data, format="PNG")
    return data.getvalue()


def seen(version: int, grey: int, at: float) -> TrafficAnswer:
    return TrafficAnswer(at, at + 0.5, REQUEST, version, DIGESTS[version - 1], pixels_of(png(grey)))


def test_a_process_that_ended_or_was_replaced_is_found_out(tmp_path: Path) -> None:
    """The note of `serve` is written once; a restarted process shows by its old one being gone."""
    home = Home(tmp_path)
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    gateway, model = (one.pid for one in sleepers)
    held = Replica(
        replica="local",
        base=DIGESTS[0],
        backend="torch",
        engine_digest="e",
        heartbeat=0,
        pid=model,
    )
    try:
        ReplicaFolder(home.replicas).put(held)
        running = Served("http://g", "http://t", home, {"gateway": gateway, "model": model})
        said = f"no process restarted: gateway {gateway}, model {model}"
        assert running.require_unrestarted() == said
        ReplicaFolder(home.replicas).put(held.model_copy(update={"pid": model + 1}))
        with pytest.raises(Refused, match=r"^model restarted"):
            running.require_unrestarted()
        ReplicaFolder(home.replicas).put(held)
        sleepers[0].kill()
        sleepers[0].wait()
        with pytest.raises(Refused, match=r"^gateway restarted"):
            running.require_unrestarted()
    finally:
        for one in sleepers:
            one.kill()
            one.wait()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.418, "0.42 s"), (12.34, "12.3 s"), (99.4, "99.4 s"), (125.2, "2 min 05 s")],
)
def test_durations_read_like_a_person_says_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_clock_tells_a_step_its_notes_and_its_time() -> None:
    out = io.StringIO()
    clock = Clock(2, out)
    with clock.step("train") as step:
        step.notes.append("package 123")
    head, note, time = out.getvalue().splitlines()
    assert head == "[ 1/2] train" and note.strip() == "package 123"
    assert re.fullmatch(r" {8}0\.\d\d s", time)
    assert clock.steps == [step] and step.seconds >= 0


def test_a_picture_of_another_version_is_found_out() -> None:
    known = {(REQUEST, DIGESTS[0]): pixels_of(png(10)), (REQUEST, DIGESTS[1]): pixels_of(png(200))}
    honest = [seen(1, 11, 0), seen(2, 200, 1)]
    assert mismatches(honest, known) == []
    liar = seen(2, 10, 2)
    assert mismatches([*honest, liar], known) == [liar]
    nobody = TrafficAnswer(0, 1, REQUEST, 3, "sha256:" + "3" * 64, pixels_of(png(10)))
    assert mismatches([nobody], known) == [nobody], "a digest that nobody promoted"


def test_apart_is_the_largest_difference_of_any_pixel() -> None:
    one, other = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    other[1, 0, 2] = 255
    assert (pixel_difference(one, other), pixel_difference(one, one)) == (255, 0)


def test_same_and_different_are_required_of_every_pair() -> None:
    ones, others = [png(1), png(2)], [png(1), png(3)]
    assert "2 of 2" in require_same(ones, ones, "the same seeds")
    assert "by 9 to 9" in require_different([png(1)], [png(10)], "v2")
    with pytest.raises(Refused, match="up to 1 of 255"):
        require_same(ones, others, "the same seeds")
    with pytest.raises(Refused, match="should differ"):
        require_different(ones, others, "v2")


def test_the_loss_is_read_from_the_run_and_drawn(tmp_path: Path) -> None:
    events = [{"kind": "params", "data": {"lr": 1}}]
    events += [
        {"kind": "metrics", "data": {"step": step, "values": {"loss": 1 / step, "lr": 0.1}}}
        for step in range(1, 60)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, events)))
    curve = Curve.read("version 1", log)
    assert curve.steps == tuple(range(1, 60)) and curve.losses[1] == 0.5
    plot([curve, curve], tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.width > image.height > 100


def test_a_short_run_has_a_curve_too(tmp_path: Path) -> None:
    plot([Curve("version 1", (1, 2), (0.5, 0.4))], tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 0


def report(plot_file: Path, picture: Path) -> DemoReport:
    gates = (
        GateResult(
            name="subject",
            kind="min",
            value=0.71,
            threshold=0.6,
            ci=(0.65, 0.77),
            state="passed",
            pictures=(),
        ),
        GateResult(
            name="drift",
            kind="max",
            value=None,
            threshold=0.25,
            ci=None,
            state="failed",
            pictures=(),
        ),
    )
    return DemoReport(
        adapter="thor-cat",
        trigger="sks <cat>",
        columns=("base", "version 1", "version 2", "after rollback"),
        rows=[SheetRow("in the <b>snow", 7, (png(1), png(2), png(3), png(2)))] * 3,
        training_pictures=[picture],
        fresh=[SheetRow("in a room", 8, (png(2), png(3), png(2)))],
        versions=[
            VersionRow(version, DIGESTS[version - 1], "4 steps", gates, version == 1)
            for version in (1, 2)
        ],
        swap=Swap((seen(1, 1, 0), seen(2, 2, 1)), 0.5, 0.9, 0.7, 1, 1, 0),
        rollback_seconds=0.4,
        steps=[TimedStep("train", 12.0), TimedStep("judge", 3.0)],
        seconds=75.0,
        loss_plot=plot_file,
        facts=[("base", DIGESTS[0])],
    )


def test_the_report_is_one_file_with_everything_in_it(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(9))
    report(picture, picture).write(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "sks &lt;cat&gt;" in page and "in the &lt;b&gt;snow" in page, "words stay words"
    assert "0.710" in page and "0.650 to 0.770" in page
    assert page.count("accepted</span>") == 1 and page.count("refused</span>") == 1
    assert 'name="viewport"' in page and "75.0\N{NO-BREAK SPACE}s" in page


def test_a_new_demo_removes_what_the_last_one_left_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("ATELIER_DATABASE_URL", "sqlite:///elsewhere")
    for name in OUTPUTS:
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    (tmp_path / "mine.txt").touch()
    _fresh(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    assert os.environ["ATELIER_HOME"] == str(tmp_path / "home")
    assert "MLFLOW_TRACKING_URI" not in os.environ
