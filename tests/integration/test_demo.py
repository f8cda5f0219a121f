"""`make demo` from end to end on a tiny base: real training, Triton, gateway, swap and rollback."""

import re
import subprocess

import pytest
from PIL import Image

from pipelines.evaluate import Evaluation
from tests.integration.checkout import SECONDS, DemoRun

pytestmark = pytest.mark.timeout(SECONDS)


def test_it_ends_cleanly_where_nobody_watches(demo_run: DemoRun) -> None:
    assert demo_run.code == 0, demo_run.out + demo_run.err
    assert "Ctrl-C" not in demo_run.out


def test_each_step_is_told_with_its_time(demo_run: DemoRun) -> None:
    heads = re.findall(r"^\[ *(\d+)/(\d+)\] (.+)$", demo_run.out, re.M)
    assert [int(number) for number, _, _ in heads] == list(range(1, len(heads) + 1))
    assert {int(total) for _, total, _ in heads} == {len(heads)}
    times = re.findall(r"^ {8}(?:[\d.]+ s|\d+ min \d\d s)$", demo_run.out, re.M)
    assert len(times) == len(heads)


def test_the_swap_lost_no_request_and_the_rollback_is_exact(demo_run: DemoRun) -> None:
    found = re.search(
        r"(\d+) requests, none failed: (\d+) by the old version, (\d+) by", demo_run.out
    )
    assert found, demo_run.out
    total, old, new = map(int, found.groups())
    assert total == old + new >= 100 and min(old, new) >= 50
    assert "the same seeds as version 1: 6 of 6 images identical in every pixel" in demo_run.out
    assert "new prompts: 3 of 3 images identical in every pixel" in demo_run.out
    assert demo_run.out.count("every image differs") == 2


def test_no_process_restarted_for_the_swap_or_the_rollback(demo_run: DemoRun) -> None:
    told = re.findall(r"no process restarted: (.+)", demo_run.out)
    assert len(told) == 2 and told[0] == told[1]
    pids = {name: int(pid) for name, pid in (one.split() for one in told[0].split(", "))}
    assert {"triton", "model", "agent", "gateway"} <= set(pids)
    assert len(set(pids.values())) == len(pids)


def test_it_leaves_sheet_plot_verdicts_and_report(demo_run: DemoRun) -> None:
    with Image.open(demo_run.folder / "contact-sheet.png") as sheet:
        assert sheet.width > 4 * 128 and sheet.height > 5 * 128
    with Image.open(demo_run.folder / "loss.png") as plot:
        assert plot.width > plot.height
    first, second = (Evaluation.load(demo_run.folder / f"evaluation-{n}") for n in (1, 2))
    assert first.accepted and second.accepted and first.digest != second.digest
    page = (demo_run.folder / "report.html").read_text()
    assert first.digest in page and second.digest in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "nothing is needed beside the page"


def test_nothing_is_left_running(demo_run: DemoRun) -> None:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(demo_run.folder) not in listed.stdout
