"""Memory for pictures: never more than the budget, in order, and nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.budget import GatewayBusy, PixelBudget


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))  # type: ignore[arg-type]


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Call:
    """A call that holds pixels until it is told to end."""

    def __init__(self, budget: PixelBudget, pixels: int, order: list[int]) -> None:
        self.pixels, self.end = pixels, asyncio.Event()
        self.holds = False

        async def hold() -> None:
            async with budget.reserved(pixels):
                self.holds = True
                order.append(pixels)
                try:
                    await self.end.wait()
                finally:
                    self.holds = False

        self.task = asyncio.ensure_future(hold())


def test_calls_beyond_the_budget_wait_in_order_and_nobody_overtakes() -> None:
    async def work() -> None:
        budget, order = PixelBudget(10, queue=9, wait=60), []
        calls = []
        for pixels in (6, 5, 3, 1):
            calls.append(Call(budget, pixels, order))
            await settle()
        assert order == [6] and budget.waiting == 3  # 3 and 1 would fit, but 5 came first
        calls[0].end.set()
        await settle()
        assert order == [6, 5, 3, 1] and (budget.free, budget.waiting) == (1, 0)
        for one in calls:
            one.end.set()
        await asyncio.gather(*(one.task for one in calls))
        assert budget.free == 10

    run(work)


def test_a_full_queue_and_a_long_wait_are_refused() -> None:
    async def work() -> None:
        budget = PixelBudget(10, queue=1, wait=0.01)
        async with budget.reserved(10):
            first = asyncio.ensure_future(_hold(budget, 1))
            await settle()
            with pytest.raises(GatewayBusy, match="1 requests are already waiting") as refused:
                await _hold(budget, 1)
            assert refused.value.retry_after == 5.0
            with pytest.raises(GatewayBusy, match=r"within 0\.01 s"):
                await first
            assert (budget.free, budget.waiting) == (0, 0)
        assert budget.free == 10

    run(work)


async def _hold(budget: PixelBudget, pixels: int) -> None:
    async with budget.reserved(pixels):
        pass


def test_a_call_larger_than_the_budget_is_a_mistake_of_ours() -> None:
    async def work() -> None:
        with pytest.raises(ValueError, match="11 pixels"):
            await _hold(PixelBudget(10, queue=1, wait=1), 11)

    run(work)


def test_one_that_gives_up_lets_smaller_ones_pass() -> None:
    async def work() -> None:
        budget, order = PixelBudget(10, queue=9, wait=60), []
        calls = []
        for pixels in (6, 5, 3):
            calls.append(Call(budget, pixels, order))
            await settle()
        calls[1].task.cancel()
        await settle()
        assert order == [6, 3]

    run(work)


@given(
    st.lists(st.tuples(st.sampled_from(["come", "end", "cancel"]), st.integers(1, 10)), max_size=60)
)
def test_whatever_calls_do_the_budget_is_kept_and_all_of_it_comes_back(
    deeds: list[tuple[str, int]],
) -> None:
    async def work() -> None:
        budget = PixelBudget(10, queue=5, wait=60)
        calls: list[Call] = []
        for deed, number in deeds:
            if deed == "come":
                calls.append(Call(budget, number, []))
            elif calls and deed == "end":
                calls[number % len(calls)].end.set()
            elif calls:
                calls[number % len(calls)].task.cancel()
            if number % 2:  # else several happen at the same moment
                await settle()
            held = sum(one.pixels for one in calls if one.holds)
            assert held <= 10 and budget.waiting <= 5
        for one in calls:
            one.end.set()
        await asyncio.gather(*(one.task for one in calls), return_exceptions=True)
        assert (budget.free, budget.waiting) == (10, 0)

    run(work)


def test_it_can_be_held_by_a_stack() -> None:
    """As a request does: until its answer is sent."""

    async def work() -> None:
        budget = PixelBudget(10, queue=1, wait=1)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(budget.reserved(4))
            assert budget.free == 6
        assert budget.free == 10

    run(work)
