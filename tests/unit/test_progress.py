"""What a terminal shows while a verb works."""

import io
import os
import pty
import select
import sys

import pytest
from rich.console import Console

from commands.terminal import progress
from pipelines.train.loop import StepReport
from pipelines.train.progress import Bar


def test_a_training_shows_steps_loss_and_speed() -> None:
    page = io.StringIO()
    bar = Bar(Console(file=page, force_terminal=True, width=120, color_system=None))
    bar.note("class pictures: 8 of 32")
    bar.begin(2, 10)
    bar.update(StepReport(step=3, loss=0.1234, rate=1e-3, norm=1.0, seconds=0.25))
    bar.end()
    shown = page.getvalue()
    assert "class pictures: 8 of 32" in shown
    assert "3/10" in shown and "loss 0.1234  4.00 it/s" in shown


def test_a_long_verb_shows_a_bar_at_a_terminal_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with progress() as shown:
            shown("pictures", 1, 4)
            shown("pictures", 4, 4)
        terminal.flush()
        said = ""
        while select.select([mine], [], [], 0.0)[
            0
        ]:  # a busy machine draws more than one read holds
            said += os.read(mine, 100_000).decode()
    os.close(mine)
    assert "pictures" in said and "4/4" in said
    assert said.endswith("\x1b[2K") or "\x1b[2K" in said.rpartition("4/4")[2]  # wiped at the end
