"""Slots: whatever happens, one in use is never given to another, and the idle go oldest first."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.engine.slots import Slots

KEYS = st.sampled_from("abcdef")


class SlotsMachine(RuleBasedStateMachine):
    """Random users come and go; a plain model says what must be true."""

    @initialize(count=st.integers(1, 4))
    def make(self, count: int) -> None:
        self.slots: Slots[str] = Slots(count)
        self.users: dict[str, int] = {}
        self.content: dict[int, str] = {}  # what a bank would hold
        self.idle: list[str] = []  # the longest unused first

    @rule(key=KEYS)
    def acquire(self, key: str) -> None:
        held = {k for k, n in self.users.items() if n}
        resident = set(self.content.values())
        grant = self.slots.acquire(key)
        if grant is None:
            assert len(held) == self.slots.count
            assert key not in resident
            return
        assert 1 <= grant.slot <= self.slots.count
        assert grant.fresh == (key not in resident)
        if grant.fresh:
            evicted = self.content.get(grant.slot)
            if evicted is not None:
                assert not self.users.get(evicted), "a slot in use was overwritten"
                assert evicted == self.idle[0], "not the longest unused"
                assert len(self.content) == self.slots.count, "evicted although one was free"
                self.idle.remove(evicted)
            self.content[grant.slot] = key
        assert self.content[grant.slot] == key
        if key in self.idle:
            self.idle.remove(key)
        self.users[key] = self.users.get(key, 0) + 1

    @rule(key=KEYS)
    def release(self, key: str) -> None:
        if self.users.get(key):
            self.slots.release(key)
            self.users[key] -= 1
            if not self.users[key]:
                self.idle.append(key)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.slots.forget(key)
        if key in self.idle:
            self.idle.remove(key)
            self.content = {slot: k for slot, k in self.content.items() if k != key}

    @invariant()
    def agrees(self) -> None:
        assert dict(self.slots.resident) == {key: slot for slot, key in self.content.items()}
        assert self.slots.in_use == sum(bool(n) for n in self.users.values())
        assert all(self.slots.users(key) == n for key, n in self.users.items())


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_an_idle_adapter_keeps_its_slot_until_it_is_needed() -> None:
    slots: Slots[str] = Slots(1)
    first = slots.acquire("a")
    slots.release("a")
    again = slots.acquire("a")
    assert first is not None and again is not None
    assert (first.fresh, again.fresh) == (True, False)
    assert slots.acquire("b") is None
    slots.release("a")
    taken = slots.acquire("b")
    assert taken is not None and taken.fresh and taken.slot == first.slot


def test_no_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="slots: 0"):
        Slots(0)
