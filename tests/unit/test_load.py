"""The load generator: every call is made once, recorded in its order, and failures end a wait."""

import threading

import pytest

from atelier.errors import Unavailable
from commands.load import LoadGenerator


def test_calls_are_numbered_made_once_and_recorded() -> None:
    load = LoadGenerator(lambda number: number * 2)
    with load.running(clients=4):
        load.wait_for(50)
    numbers = [one.number for one in load.answers]
    assert sorted(numbers) == list(range(len(numbers))) and len(numbers) >= 50
    assert all(one.answer == one.number * 2 and one.came >= one.asked for one in load.answers)
    assert load.failures == []
    assert not any(one.name.startswith("client-") for one in threading.enumerate())


def test_answers_of_a_kind_are_waited_for() -> None:
    changed = threading.Event()
    load = LoadGenerator(lambda number: "new" if changed.is_set() else "old")
    with load.running(clients=2):
        load.wait_for(5, where=lambda answer: answer == "old")
        assert {one.answer for one in load.answers} == {"old"}
        changed.set()
        load.wait_for(5, where=lambda answer: answer == "new")
    assert [one.answer for one in load.answers][-1] == "new"


def test_a_failure_is_kept_and_ends_the_wait_at_once() -> None:
    def ask(number: int) -> int:
        if number == 3:
            raise ValueError("no")
        return number

    load = LoadGenerator(ask)
    with load.running(clients=1):
        load.wait_for(10**9)
    (failed,) = load.failures
    assert failed.number == 3 and str(failed).endswith(" s: ValueError: no")


def test_answers_that_never_come_are_unavailable() -> None:
    freed = threading.Event()
    load = LoadGenerator(lambda number: freed.wait(20))
    with pytest.raises(Unavailable, match="1 more results"), load.running(clients=1):
        try:
            load.wait_for(1, seconds=0.05)
        finally:
            freed.set()
