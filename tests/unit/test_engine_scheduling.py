"""Scheduling: one size a call, oldest first, and nobody waits for ever."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.engine.scheduling import choose, padded

MAX_ROWS, PATIENCE = 4, 3


@dataclass
class Job:
    """An image as the scheduler sees it, and how many calls it still needs."""

    order: int
    shape: tuple[int, int]
    rows: int
    calls: int = 1
    left_out: int = 0
    longest_wait: int = 0


jobs = st.builds(
    Job,
    order=st.just(0),
    shape=st.sampled_from([(8, 8), (16, 8), (16, 16)]),
    rows=st.integers(1, 2),
    calls=st.integers(1, 9),
)


@given(st.lists(jobs, max_size=12), st.integers(2, 8))
def test_a_batch_has_one_shape_fits_and_is_as_full_as_it_can_be(
    candidates: list[Job], max_rows: int
) -> None:
    for order, job in enumerate(candidates):
        job.order = order
    batch = choose(candidates, max_rows=max_rows, patience=PATIENCE)
    assert bool(batch.images) == bool(candidates)
    assert batch.rows <= max_rows
    if not candidates:
        return
    (shape,) = {job.shape for job in batch.images}
    assert candidates[0] in batch.images  # nobody has aged: the oldest runs
    left = [j for j in candidates if j.shape == shape and j not in batch.images]
    assert all(job.rows > max_rows - batch.rows for job in left)


class Loop(RuleBasedStateMachine):
    """Images of several sizes arrive while calls are made."""

    @initialize()
    def make(self) -> None:
        self.running: list[Job] = []
        self.arrived = 0

    @rule(job=jobs)
    def arrive(self, job: Job) -> None:
        if len(self.running) < 8:
            self.running.append(Job(self.arrived, job.shape, job.rows, job.calls))
            self.arrived += 1

    @rule()
    def call(self) -> None:
        batch = choose(self.running, max_rows=MAX_ROWS, patience=PATIENCE)
        for job in self.running:
            job.left_out += 1
            job.longest_wait = max(job.longest_wait, job.left_out)
        for job in batch.images:
            job.left_out = 0
            job.calls -= 1
        self.running = [job for job in self.running if job.calls]

    @invariant()
    def nobody_starves(self) -> None:
        # Past its patience an image waits at most for the others that have waited as long.
        assert all(job.longest_wait <= PATIENCE + 8 for job in self.running)


TestLoop = Loop.TestCase
TestLoop.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)


def test_a_stream_of_one_size_does_not_hold_up_another() -> None:
    stream = [Job(order, (16, 16), 2, calls=100) for order in range(4)]
    other = Job(4, (8, 8), 2)
    waits = 0
    while True:
        batch = choose([*stream, other], max_rows=MAX_ROWS, patience=PATIENCE)
        if other in batch.images:
            break
        waits += 1
        for job in [*stream, other]:
            job.left_out = 0 if job in batch.images else job.left_out + 1
        assert waits < 10
    assert waits >= PATIENCE  # and the oldest were not robbed of their turns


def test_the_ladder_rounds_up_and_leaves_alone_what_is_beyond() -> None:
    assert [padded(rows, (1, 2, 4, 8)) for rows in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    assert padded(3, ()) == 3
    assert padded(9, (1, 2, 4, 8)) == 9
