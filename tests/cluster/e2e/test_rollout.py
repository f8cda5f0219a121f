"""`atelier promote` and its like on a cluster, as the workflows call them, and killed anywhere."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from atelier.adapter.package import Package
from atelier.data.release import Pin
from atelier.platform.release_configmaps import PREFIX
from pipelines.delivery.cluster import STEPS
from services.gateway.balance import place_of
from services.gateway.keys import KeyStore
from tests.cluster.e2e.away import damaged, mlflow_away, reconcile
from tests.cluster.e2e.platform import DIRECT, Platform
from tests.cluster.e2e.rollouts import Checkout
from tests.cluster.e2e.traffic import PROMPTS, Oracle

NAME, FIRST, NEVER = "frigg", "gefjon", "hlin"
ASKED = (PROMPTS[1], 5)
# In the middle of Helm's work, too: as it begins, and while its hook runs.
KILLED = [*((step, None) for step in STEPS), ("upgrade", 0.0), ("upgrade", 2.0)]
KEYS = 24  # that a canary's share is seen with
Versions = list[tuple[Pin, Package]]

pytestmark = pytest.mark.actions


@pytest.fixture(scope="module")
def checkout(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    made = Checkout(platform, tmp_path_factory.mktemp("checkout"))
    yield made
    made.atelier("retire", NAME)


@pytest.fixture(scope="module")
def versions(checkout: Checkout, oracle: Oracle) -> Versions:
    """Two that are judged; the first serves."""
    found = [checkout.candidate(NAME, seed) for seed in (31, 32)]
    for pin, package in found:
        oracle.learn(pin, package)
    first = checkout.atelier("promote", NAME, str(found[0][0].version))
    assert first.code == 0, first.told
    return found


@contextmanager
def watched(platform: Platform, oracle: Oracle) -> Iterator[list[str]]:
    """One call after the other, all the while; the digests that answered, each picture checked."""
    digests: list[str] = []
    wrong: list[str] = []
    enough = threading.Event()
    gateway = platform.gateway

    def ask() -> None:
        while not enough.wait(0.2):
            try:
                picture = platform.draw(*ASKED, adapter=NAME, gateway=gateway)
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
                continue
            digests.append(picture.digest)
            if not oracle.agrees(ASKED, picture):
                wrong.append(f"not what {picture.digest} draws")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield digests
    finally:
        enough.set()
        thread.join()
    assert wrong == []


def agree(checkout: Checkout) -> Any:
    """Git, cluster and MLflow say the same of it; how they do."""
    found = checkout.atelier("status")
    mine = [one for one in found.data["adapters"] if one["adapter"] == NAME]
    assert [one["differences"] for one in mine] == [[]], found.data
    return mine[0]


def test_a_version_is_promoted_rolled_back_from_and_does_not_come_back(
    released: Platform, checkout: Checkout, versions: Versions, oracle: Oracle
) -> None:
    (old, _), (new, _) = versions
    assert agree(checkout)["alias"] == old.version
    done = checkout.atelier("promote", NAME, str(new.version), "--reason", "sharper")
    assert (done.code, done.data["alias"]) == (0, new.version), done.told
    assert "sharper" in released.helm("history", NAME)
    assert released.draw(*ASKED, adapter=NAME).digest == new.digest
    before = checkout.files.get(NAME)
    back = checkout.atelier("rollback", NAME, "--reason", "too sharp")
    assert back.code == 0, back.told
    assert agree(checkout)["alias"] == old.version
    declared = checkout.files.get(NAME)
    assert (declared.pin, declared.replaces) == (old, new)
    assert [one.reason for one in declared.withdrawn] == ["too sharp"]
    again = checkout.atelier("promote", NAME, str(new.version))
    assert again.code == 1 and "too sharp" in again.told
    assert checkout.files.get(NAME) == declared
    checkout.files.put(before)  # the commit never came to git
    unheard = checkout.atelier("promote", NAME)
    assert unheard.code == 1 and "is not recorded in git" in unheard.told
    assert "too sharp" in unheard.told
    checkout.files.put(declared)
    forgotten = {"withdrawn": (), "replaces": None, **new.model_dump()}
    checkout.files.put(declared.model_copy(update=forgotten))  # written for another cluster
    refused = checkout.atelier("promote", NAME)
    assert refused.code == 1 and f"serves version {old.version}" in refused.told
    checkout.files.put(declared.model_copy(update={"withdrawn": ()}))


def test_a_way_back_by_hand_is_noticed_and_written_down(
    released: Platform, checkout: Checkout, versions: Versions
) -> None:
    (old, _), (new, _) = versions
    assert checkout.atelier("promote", NAME, str(new.version)).code == 0
    released.helm("rollback", NAME)
    differs = checkout.atelier("status")
    assert differs.code == 1
    (said,) = [one for one in differs.data["differences"] if one.startswith(NAME)]
    assert f"git declares version {new.version}" in said
    assert f"the cluster serves version {old.version}" in said
    refused = checkout.atelier("promote", NAME)
    assert refused.code == 1 and "its rollback is not recorded in git" in refused.told
    assert checkout.atelier("record", NAME, "--reason", "by hand").code == 0
    assert agree(checkout)["git"]["version"] == old.version
    kept = checkout.files.get(NAME)
    assert [one.version for one in kept.withdrawn] == [new.version]
    checkout.files.put(kept.model_copy(update={"withdrawn": ()}))


def test_going_back_from_what_was_killed(
    released: Platform, checkout: Checkout, versions: Versions
) -> None:
    """A promotion in the middle, and then the rollback from it: each is left, and none too many."""
    (old, _), (new, _) = versions
    checkout.killed("promote", NAME, str(new.version), at="upgrade", after=2.0)
    killed = checkout.atelier("rollback", NAME, "--reason", "on second thoughts")
    assert killed.code == 0 and "interrupted (pending-upgrade)" in killed.told, killed.told
    after = agree(checkout)["git"]
    assert (after["version"], [one["version"] for one in after["withdrawn"]]) == (
        old.version,
        [new.version],
    )
    checkout.files.put(checkout.files.get(NAME).model_copy(update={"withdrawn": ()}))
    assert checkout.atelier("promote", NAME, str(new.version)).code == 0
    checkout.killed("rollback", NAME, "--reason", "cut off", at="roll back", after=1.0)
    refused = checkout.atelier("promote", NAME)
    assert refused.code == 1 and "its rollback was interrupted" in refused.told, refused.told
    again = checkout.atelier("rollback", NAME, "--reason", "once more")
    assert again.code == 0 and "interrupted (pending-rollback)" in again.told, again.told
    after = agree(checkout)["git"]
    assert (after["version"], [one["version"] for one in after["withdrawn"]]) == (
        old.version,
        [new.version],
    )
    checkout.files.put(checkout.files.get(NAME).model_copy(update={"withdrawn": ()}))


def test_the_way_back_needs_no_mlflow(
    released: Platform, checkout: Checkout, versions: Versions, oracle: Oracle
) -> None:
    """Neither the command nor the hook: the alias follows later. The revision is asked for."""
    (old, _), (new, _) = versions
    good = str(released.history(NAME)[-1]["revision"])
    assert checkout.atelier("promote", NAME, str(new.version)).code == 0
    with mlflow_away(released):
        back = checkout.atelier("rollback", NAME, good, "--reason", "in the dark")
        assert back.code == 0, back.told
        assert oracle.agrees(ASKED, drawn := released.draw(*ASKED, adapter=NAME))
        assert drawn.digest == old.digest
        declared = checkout.files.get(NAME)
        assert (declared.pin, [one.version for one in declared.withdrawn]) == (old, [new.version])
        away = checkout.atelier("status")
        assert away.data["away"] and not any(NAME in one for one in away.data["differences"])
    released.wait_for(lambda: released.alias(NAME) == new.version, "MLflow")
    reconcile(released)
    assert agree(checkout)["alias"] == old.version
    checkout.files.put(declared.model_copy(update={"withdrawn": ()}))


@pytest.mark.timeout(900)
def test_a_promotion_killed_at_any_step_is_finished_by_the_next(
    released: Platform,
    checkout: Checkout,
    versions: Versions,
    oracle: Oracle,
    record_property: Callable[[str, object], None],
) -> None:
    """Nobody's call fails meanwhile, and none is answered by anything but one of the two."""
    at = 0
    with watched(released, oracle) as digests:
        for step, after in KILLED:
            at = 1 - at
            pin, _ = versions[at]
            words = ("promote", NAME, str(pin.version))
            told = checkout.killed(*words, at=step, after=after)
            assert f": {step}" in told, told
            done = checkout.atelier("promote", NAME)
            assert done.code == 0, f"killed at {step}: {done.told}"
            assert after is None or "interrupted (pending-upgrade)" in done.told
            assert done.data["version"] == pin.version
            assert agree(checkout)["alias"] == pin.version
            assert released.draw(*ASKED, adapter=NAME).digest == pin.digest
    assert set(digests) == {pin.digest for pin, _ in versions}
    record_property("promotions killed, each finished by the next", len(KILLED))
    record_property("pictures meanwhile, none failed or wrong", len(digests))


@pytest.mark.timeout(900)
def test_a_first_promotion_killed_at_any_step_is_finished_by_the_next(
    released: Platform, checkout: Checkout, oracle: Oracle
) -> None:
    """Helm has no revision to go back to then."""
    pin, package = checkout.candidate(FIRST, 33)
    oracle.learn(pin, package)
    for step, after in KILLED:
        told = checkout.killed("promote", FIRST, str(pin.version), at=step, after=after)
        assert f": {step}" in told, told
        done = checkout.atelier("promote", FIRST)
        assert done.code == 0, f"killed at {step}: {done.told}"
        assert after is None or "interrupted (pending-install)" in done.told
        drawn = released.draw(*ASKED, adapter=FIRST)
        assert drawn.digest == pin.digest and oracle.agrees(ASKED, drawn)
        assert released.alias(FIRST) == pin.version
        retired = checkout.atelier("retire", FIRST)
        assert retired.code == 0, retired.told
        assert checkout.files.find(FIRST) is None


def test_a_canary_killed_on_its_way_is_finished_or_taken_back(
    released: Platform, checkout: Checkout, versions: Versions
) -> None:
    declared = checkout.files.get(NAME)
    (other,) = [pin for pin, _ in versions if pin != declared.pin]
    tried = ("promote", NAME, str(other.version), "--canary", "50")
    checkout.killed(*tried, at="upgrade", after=2.0)
    done = checkout.atelier("promote", NAME)
    assert done.code == 0 and done.data["canary"]["version"] == other.version, done.told
    assert agree(checkout)["alias"] == declared.version
    back = checkout.atelier("rollback", NAME, "--reason", "no better")
    assert back.code == 0, back.told
    checkout.files.put(checkout.files.get(NAME).model_copy(update={"withdrawn": ()}))
    checkout.killed(*tried, at="upgrade", after=2.0)
    back = checkout.atelier("rollback", NAME, "--reason", "not at all")
    assert back.code == 0, back.told
    after = agree(checkout)["git"]
    assert (after["version"], after["canary"]) == (declared.version, None)
    checkout.files.put(checkout.files.get(NAME).model_copy(update={"withdrawn": ()}))


def test_a_promotion_that_cannot_serve_is_taken_back(
    released: Platform, checkout: Checkout, versions: Versions, oracle: Oracle
) -> None:
    """Its package is damaged in the registry: what served goes on, and the alias stays. Mended, the
    same promotion serves."""
    before = checkout.files.get(NAME)
    pin, package = checkout.candidate(NAME, 34)
    oracle.learn(pin, package)
    with watched(released, oracle) as digests, damaged(released, package):
        refused = checkout.atelier("promote", NAME, str(pin.version))
        assert refused.code == 1, refused.told
        assert "was reverted" in refused.told and "serves, as before" in refused.told
        assert f"{NAME}@{pin.version} in the registry, adapter.safetensors" in refused.told
        assert released.alias(NAME) == before.version
        assert released.draw(*ASKED, adapter=NAME).digest == before.digest
    assert set(digests) == {before.digest}
    done = checkout.atelier("promote", NAME)
    assert (done.code, done.data["alias"]) == (0, pin.version), done.told
    assert released.draw(*ASKED, adapter=NAME).digest == pin.digest
    assert checkout.atelier("rollback", NAME, "--reason", "enough").code == 0
    checkout.files.put(checkout.files.get(NAME).model_copy(update={"withdrawn": ()}))


def test_a_first_promotion_that_cannot_serve_leaves_nothing(
    released: Platform, checkout: Checkout
) -> None:
    pin, package = checkout.candidate(NEVER, 35)
    with damaged(released, package):
        refused = checkout.atelier("promote", NEVER, str(pin.version))
    assert refused.code == 1 and "no version serves, as before" in refused.told, refused.told
    assert not released.there("configmap", f"{PREFIX}{NEVER}")
    assert released.alias(NEVER) is None
    checkout.files.remove(NEVER)


def test_a_canary_gets_its_share_and_ends_with_a_rollback_or_serves_all(
    released: Platform, checkout: Checkout, versions: Versions, oracle: Oracle
) -> None:
    declared = checkout.files.get(NAME)
    (other,) = [pin for pin, _ in versions if pin != declared.pin]
    tried = ("promote", NAME, str(other.version), "--canary", "50")
    first = checkout.atelier(*tried)
    assert first.code == 0, first.told
    assert first.data["canary"]["version"] == other.version
    assert agree(checkout)["alias"] == declared.version

    store = KeyStore(released.database)
    keys = {record.id: key for key, record in (store.create(f"try-{n}") for n in range(KEYS))}
    counted = delivered(released)
    for id, key in [*keys.items()] * 2:  # a key's calls are answered by one version
        drawn = released.draw(*ASKED, adapter=NAME, key=key)
        tries = place_of(f"{NAME}/{id}") < 50
        assert drawn.digest == (other if tries else declared).digest
        assert oracle.agrees(ASKED, drawn)
    trying = sum(place_of(f"{NAME}/{id}") < 50 for id in keys)
    assert 0 < trying < KEYS
    now = delivered(released)
    assert now[other.version] - counted[other.version] == 2 * trying
    assert now[declared.version] - counted[declared.version] == 2 * (KEYS - trying)

    back = checkout.atelier("rollback", NAME, "--reason", "no better")
    assert back.code == 0, back.told
    after = agree(checkout)["git"]
    assert (after["version"], after["canary"]) == (declared.version, None)
    assert [one["version"] for one in after["withdrawn"]] == [other.version]

    checkout.files.put(checkout.files.get(NAME).model_copy(update={"withdrawn": ()}))
    assert checkout.atelier(*tried).code == 0
    whole = checkout.atelier("promote", NAME, str(other.version))
    assert (whole.code, whole.data["alias"]) == (0, other.version), whole.told
    after = agree(checkout)["git"]
    assert (after["version"], after["canary"]) == (other.version, None)
    for key in [*keys.values()][:4]:
        assert released.draw(*ASKED, adapter=NAME, key=key).digest == other.digest


def delivered(platform: Platform) -> Counter[int]:
    """Pictures of each version, as the gateways' metrics have them."""
    counted: Counter[int] = Counter()
    line = re.compile(
        rf'^atelier_gateway_adapter_images_total{{adapter="{NAME}",version="(\d+)"}} (\S+)$', re.M
    )
    for pod in platform.pods("gateway"):
        with DIRECT.open(f"http://{pod['status']['podIP']}:8000/metrics", timeout=30) as answer:
            for version, images in line.findall(answer.read().decode()):
                counted[int(version)] += int(float(images))
    return counted
