"""Releases of adapters: installed, upgraded under load, rolled back. See issue lines 3 and 4.

Every picture is compared with the engine's own for the digest that its answer names, so a mixture
of two versions, or an answer that names the wrong one, cannot pass.
"""

import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.e2e.platform import Picture, Platform
from tests.cluster.e2e.traffic import PROMPTS, STEPS, Load, Oracle, direct, infer
from tests.integration.kserve_client import kserve_draws

FRESH = ("a blue house", "a fish under the sea")  # asked only after the way back
REQUESTS = 200


def test_two_adapters_draw_through_the_gateway_on_two_replicas(
    released: Platform, oracle: Oracle
) -> None:
    assert len(released.pods("serving")) == 2
    for name in ("thor", "loki", None):
        asked = (PROMPTS[0], 0)
        picture = released.draw(*asked, adapter=name)
        digest = released.pins[name][0][0].digest if name else ""
        assert picture.digest == digest
        assert oracle.agrees(asked, picture)
    for pod in released.pods("serving"):
        assert oracle.agrees((PROMPTS[0], 1), direct(pod, (PROMPTS[0], 1)))
    assert released.alias("thor") == 1


def test_helm_test_makes_a_picture(released: Platform) -> None:
    said = released.helm("test", "atelier", "--timeout", "5m")
    assert "Succeeded" in said


def test_a_client_of_triton_draws_with_a_key(released: Platform, oracle: Oracle) -> None:
    """The V2 protocol at the gateway: the same pixels, and nothing without a key."""
    asked = (PROMPTS[1], 1)
    address = released.gateway.removeprefix("http://")
    picture = infer(address, asked, {"X-API-Key": released.key})
    assert oracle.agrees(asked, picture)
    with pytest.raises(Exception, match=r"key"):
        infer(address, asked)


def test_kserves_client_draws_with_a_key(released: Platform, oracle: Oracle) -> None:
    """Its SDK says when the service is ready, and asks the gateway as any V2 server."""
    asked = (PROMPTS[1], 1)
    inputs = {"PROMPT": asked[0], "SEED": asked[1], "STEPS": STEPS}
    adapters = json.dumps([{"name": "thor"}])
    pixels, info = kserve_draws(released.gateway, released.key, {**inputs, "ADAPTERS": adapters})
    (used,) = json.loads(info)["adapters"]
    assert oracle.agrees(asked, Picture(pixels[0], used["digest"]))


def test_an_upgrade_under_load_and_the_way_back(
    released: Platform, oracle: Oracle, record_property: Callable[[str, object], None]
) -> None:
    old, new = (pin.digest for pin, _ in released.pins["thor"])
    (other,) = {released.pins["loki"][0][0].digest}
    before = released.identities()
    load = Load(released)
    with load.running(clients=4):
        released.wait_for(lambda: load.failures or len(load.answers) >= 40, "load")
        began = time.monotonic()
        released.release("thor", 2)
        record_property("helm upgrade, hook included, s", round(time.monotonic() - began, 1))
        enough = max(REQUESTS, len(load.answers) + 40)
        released.wait_for(lambda: load.failures or len(load.answers) >= enough, "load", 600)
    assert load.failures == []
    assert released.identities() == before  # nothing was started anew
    assert set(load.digests("loki")) == {other}
    thor = load.digests("thor")
    assert set(thor[:20]) == {old} and set(thor[-10:]) == {new}
    wrong = [asked for _, asked, one in load.drawn if not oracle.agrees(asked, one)]
    assert wrong == []
    assert released.alias("thor") == 2
    record_property("requests that the upgrade was under, none failed", len(load.answers))
    # The gateways move one after another, each at once: no more than what was under way then.
    record_property("old answers after the first new one", thor[thor.index(new) :].count(old))

    pods, asked = released.pods("serving"), (FRESH[0], 7)
    with ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        back = thread.submit(released.rollback, "thor")
        seconds = [
            released.wait_for(
                lambda p=pod: direct(p, asked).digest == old, "the old version", 60, pause=0.05
            )
            for pod in pods
        ]
        took = time.monotonic() - began
        back.result()
    record_property("helm rollback until every pod answers by the old version, s", round(took, 2))
    for pod, prompt in itertools.product(released.pods("serving"), FRESH):
        picture = direct(pod, (prompt, 8))
        assert picture.digest == old
        assert oracle.agrees((prompt, 8), picture)
    assert took < 5.0, seconds
    assert released.alias("thor") == 1
    assert released.identities() == before
