"""Adapters swapped, rolled back, damaged and recovered under a served replica, as a user runs it.

Every picture is compared with the engine's own for the digest that its answer names, so a mixture
of two versions, or an answer that names the wrong one, cannot pass.
"""

import itertools
import os
import signal
import urllib.error
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from atelier.data.names import hex_of
from commands.load import LoadGenerator
from services.engine import AdapterUse, Engine, ImageRequest
from services.gateway.keys import KeyStore
from tests.integration.conftest import TwoVersions
from tests.integration.stack import PATIENCE, Picture, Pixels, ServedStack
from tests.tiny import tiny_adapter

PROMPTS = ("a red cat", "a dog on the beach", "photo of a house", "a small blue robot")
SEEDS = (0, 1)
STEPS = 2
TOLERANCE = 2  # of 255: float sums in another order, at most
REQUESTS = 110  # at least, in each swap

Asked = tuple[str, int]  # prompt, seed
Draw = Callable[[int, Asked], Picture]


def difference(one: Pixels, other: Pixels) -> np.ndarray:
    return np.abs(one.astype(int) - other.astype(int))


def reference(oracle: Engine, asked: Asked, *uses: AdapterUse) -> Pixels:
    prompt, seed = asked
    request = ImageRequest(prompt, seed=seed, steps=STEPS, adapters=tuple(uses))
    return oracle.generate(request).images


@pytest.fixture(scope="module")
def versions(oracle: Engine, thor: TwoVersions) -> dict[int, str]:
    """The oracle holds both versions too; digest by version number."""
    for package, pin in zip(thor.packages, thor.pins, strict=True):
        oracle.adapters.add(package, pin.version)
    return {pin.version: pin.digest for pin in thor.pins}


@pytest.fixture(scope="module")
def references(oracle: Engine, versions: dict[int, str]) -> dict[tuple[Asked, str], Pixels]:
    """What each version draws for every prompt and seed of the traffic."""
    made = {}
    for asked in itertools.product(PROMPTS, SEEDS):
        for version, digest in versions.items():
            made[asked, digest] = reference(oracle, asked, AdapterUse("thor", version))
        one, other = (made[asked, digest] for digest in versions.values())
        assert difference(one, other).mean() > 10  # no tolerance can take one for the other
    return made


@pytest.fixture(scope="module")
def key(stack: ServedStack) -> str:
    """A key of the gateway."""
    return KeyStore(f"sqlite:///{stack.home.root / 'gateway.db'}").create("test")[0]


def asked_by(number: int) -> Asked:
    """The prompt and seed of a call of the traffic."""
    return (PROMPTS[number % len(PROMPTS)], SEEDS[number // len(PROMPTS) % len(SEEDS)])


def traffic(draw: Draw) -> LoadGenerator[Picture]:
    """Clients that ask without pause and never ask twice for the same answer."""
    return LoadGenerator(lambda number: draw(number, asked_by(number)))


def digests(load: LoadGenerator[Picture]) -> list[str]:
    """In the order of the answers."""
    return [one.answer.digest for one in tuple(load.answers)]


def swap_under(
    load: LoadGenerator[Picture],
    stack: ServedStack,
    change: Callable[[], None],
    new: str,
    references: dict[tuple[Asked, str], Pixels],
) -> float:
    """Change what serves in the middle of the traffic; seconds until the first new answer."""
    before = (stack.tritonserver(), stack.worker())
    with load.running(clients=4):
        stack.wait_for(lambda: load.failures or len(load.answers) >= 30, "traffic")
        changed = load.now
        change()
        stack.wait_for(lambda: load.failures or new in digests(load), "the new version")
        enough = len(load.answers) + 20
        stack.wait_for(
            lambda: load.failures or len(load.answers) >= max(enough, REQUESTS), "traffic"
        )
    assert load.failures == []
    assert (stack.tritonserver(), stack.worker()) == before  # nothing was started anew
    for one in load.answers:
        expected = references[asked_by(one.number), one.answer.digest]
        assert difference(one.answer.pixels, expected).max() <= TOLERANCE
    assert set(digests(load)[:30]) != {new}
    assert set(digests(load)[-10:]) == {new}
    return next(one.came for one in load.answers if one.answer.digest == new) - changed


def direct(stack: ServedStack) -> Draw:
    """Straight to Triton, HTTP and gRPC in turn, by name alone: the engine's default answers."""

    def draw(number: int, asked: Asked) -> Picture:
        ask = stack.http if number % 2 else stack.grpc
        return ask(prompt=asked[0], seed=asked[1], steps=STEPS, adapters=[{"name": "thor"}])

    return draw


def through_gateway(stack: ServedStack, key: str) -> Draw:
    def draw(number: int, asked: Asked) -> Picture:
        return stack.gateway(key, prompt=asked[0], seed=asked[1], steps=STEPS, adapter="thor")

    return draw


def test_swap_and_rollback_under_traffic_to_triton(
    stack: ServedStack,
    thor: TwoVersions,
    oracle: Engine,
    references: dict[tuple[Asked, str], Pixels],
    record_property: Callable[[str, object], None],
) -> None:
    first, second = thor.pins
    stack.release("thor", first)
    load = traffic(direct(stack))
    seconds = swap_under(
        load,
        stack,
        lambda: stack.release("thor", second, wait=False),
        second.digest,
        references,
    )
    back = traffic(direct(stack))
    again = swap_under(back, stack, lambda: stack.rollback("thor"), first.digest, references)
    record_property("swap", f"{seconds:.2f} s over {len(load.answers)} requests, none failed")
    record_property("rollback", f"{again:.2f} s over {len(back.answers)} requests, none failed")
    fresh = ("a fresh striped fish", 77)
    picture = direct(stack)(0, fresh)
    old, new = (reference(oracle, fresh, AdapterUse("thor", pin.version)) for pin in thor.pins)
    assert difference(picture.pixels, old).max() <= TOLERANCE
    assert difference(picture.pixels, new).mean() > 10


def test_swap_and_rollback_under_traffic_through_the_gateway(
    stack: ServedStack,
    thor: TwoVersions,
    key: str,
    oracle: Engine,
    references: dict[tuple[Asked, str], Pixels],
    record_property: Callable[[str, object], None],
) -> None:
    first, second = thor.pins
    stack.release("thor", first)
    draw = through_gateway(stack, key)
    stack.wait_for(lambda: _answers_by(draw, first.digest), "the gateway to follow")
    load = traffic(draw)
    seconds = swap_under(
        load,
        stack,
        lambda: stack.release("thor", second, wait=False),
        second.digest,
        references,
    )
    back = traffic(draw)
    again = swap_under(back, stack, lambda: stack.rollback("thor"), first.digest, references)
    record_property("swap", f"{seconds:.2f} s over {len(load.answers)} requests, none failed")
    record_property("rollback", f"{again:.2f} s over {len(back.answers)} requests, none failed")
    fresh = ("a fresh yellow flower", 78)
    picture = draw(0, fresh)
    old, new = (reference(oracle, fresh, AdapterUse("thor", pin.version)) for pin in thor.pins)
    assert difference(picture.pixels, old).max() <= TOLERANCE
    assert difference(picture.pixels, new).mean() > 10


def _answers_by(draw: Draw, digest: str) -> bool:
    try:
        return draw(0, (PROMPTS[0], SEEDS[0])).digest == digest
    except urllib.error.HTTPError:
        return False  # it has not seen the release yet


def test_one_batch_mixes_versions_weights_and_the_base(
    stack: ServedStack, thor: TwoVersions, oracle: Engine, versions: dict[int, str]
) -> None:
    first, second = thor.pins
    stack.release("thor", first)
    stack.release("thor", second)
    asked = ("a photo of a cat", 5)
    mixes: list[list[dict[str, Any]]] = [
        [],
        [{"name": "thor", "version": first.version}],
        [{"name": "thor", "version": second.version}],
        [{"name": "thor", "version": first.version, "weight": 0.5}],
        [{"name": "thor", "version": second.version, "weight": -0.5}],
    ]

    def draw(mix: list[dict[str, Any]]) -> Picture:
        return stack.grpc(prompt=asked[0], seed=asked[1], steps=STEPS, adapters=mix)

    with ThreadPoolExecutor(len(mixes)) as threads:
        pictures = list(threads.map(draw, mixes))
    for mix, picture in zip(mixes, pictures, strict=True):
        uses = [AdapterUse(**one) for one in mix]
        assert difference(picture.pixels, reference(oracle, asked, *uses)).max() <= TOLERANCE
        named = [(one["version"], one["digest"]) for one in picture.info["adapters"]]
        assert named == [(one["version"], versions[one["version"]]) for one in mix]
    for one, other in itertools.combinations(pictures, 2):
        assert difference(one.pixels, other.pixels).mean() > 1  # each has its own effect


def test_a_damaged_package_never_serves_and_the_last_good_one_stays(
    stack: ServedStack, thor: TwoVersions, tiny_model: Path, tmp_path: Path
) -> None:
    stack.release("thor", thor.pins[0])
    third = stack.register(tiny_adapter(tiny_model, tmp_path / "third", name="thor", seed=3))
    with (tmp_path / "third" / "adapter.safetensors").open("rb") as made:
        whole = made.read()
    (stored,) = [
        file
        for file in stack.home.root.joinpath("mlartifacts").rglob("adapter.safetensors")
        if file.read_bytes() == whole
    ]
    stored.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    stack.release("thor", third, wait=False)
    stack.wait_for(lambda: _state(stack, third.digest) == "failed", "the refusal")
    assert "adapter.safetensors" in (stack.report().error or "")
    assert direct(stack)(0, (PROMPTS[0], 0)).digest == thor.pins[0].digest
    assert not (stack.home.packages / hex_of(third.digest)).exists()

    stored.write_bytes(whole)  # the registry is mended; nobody has to ask again
    stack.wait_for(lambda: stack.serves("thor", third), "the mended version")
    assert direct(stack)(0, (PROMPTS[0], 0)).digest == third.digest

    held = stack.home.packages / hex_of(third.digest) / "adapter.safetensors"
    held.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # now on the volume
    stack.wait_for(lambda: held.exists() and held.read_bytes() == whole, "the package fetched anew")
    assert direct(stack)(1, (PROMPTS[0], 0)).digest == third.digest


def _state(stack: ServedStack, digest: str) -> str | None:
    held = stack.report().holds("thor", digest)
    return held.state if held else None


def test_a_killed_agent_comes_back_and_nothing_stops_meanwhile(
    stack: ServedStack, thor: TwoVersions
) -> None:
    first, second = thor.pins
    stack.release("thor", first)
    old = stack.pid_of("services.agent")
    os.kill(old, signal.SIGKILL)
    assert direct(stack)(0, (PROMPTS[0], 0)).digest == first.digest
    stack.release("thor", second)  # waits until it is obeyed
    assert stack.pid_of("services.agent") != old
    assert "agent ended (killed by SIGKILL)" in stack.said()


@pytest.mark.parametrize("victim", ["tritonserver", "worker"])
def test_a_killed_triton_comes_back_with_its_adapters(
    stack: ServedStack, thor: TwoVersions, key: str, victim: str
) -> None:
    """The worker is the nastier case: Triton itself stays, calls itself ready, answers nothing."""
    first = thor.pins[0]
    stack.release("thor", first)
    draw = through_gateway(stack, key)
    stack.wait_for(lambda: _answers_by(draw, first.digest), "the gateway to follow")
    deaths = stack.said().count("triton ended")
    os.kill(getattr(stack, victim)(), signal.SIGKILL)
    stack.wait_for(lambda: stack.said().count("triton ended") > deaths, "the report of its end")
    with pytest.raises(urllib.error.HTTPError) as refused:
        draw(0, (PROMPTS[0], 0))
    assert refused.value.code == 503
    assert refused.value.headers["Retry-After"]
    with pytest.raises((InferenceServerException, OSError)):
        direct(stack)(1, (PROMPTS[0], 0))

    stack.wait_for(lambda: _triton_answers(stack), "Triton again", PATIENCE)
    picture = direct(stack)(0, (PROMPTS[0], 0))  # the very first request finds its adapter
    assert picture.digest == first.digest
    stack.wait_for(lambda: _answers_by(draw, first.digest), "the gateway again")


def _triton_answers(stack: ServedStack) -> bool:
    with stack.grpc_client() as client:
        try:
            return bool(client.is_model_ready("atelier"))
        except InferenceServerException:
            return False
