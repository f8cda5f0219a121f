"""Fixtures that integration tests share. Starting a stack takes seconds, so there is one a session.

- `tiny_model`: the folder of a random tiny SDXL base (64 pixels), made once.
- `cats`: the packages of an adapter `cat` on it, in three versions.
- `oracle`: the engine on that base in this process, for reference pictures.
- `stack`: `atelier serve` on that base (Triton, agent, gateway, MLflow): see ServedStack. Use
  adapters of a name of your own, and leave it serving when you are done.
- `thor`: an adapter registered there in two versions that draw differently.
- `hour`: a folder for a new character, which is another one at every time.
- `learnt`: an adapter of that character, trained on the miniature and judged.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from atelier.adapter.package import Package
from atelier.data.release import Pin
from services.engine import Engine
from services.triton.process import alive
from tests.integration.character import Learnt, learn, subject_of_the_hour
from tests.integration.stack import ServedStack
from tests.tiny import tiny_adapter, tiny_base


@dataclass(frozen=True)
class TwoVersions:
    """An adapter in two versions: their packages, and what the registry calls them."""

    name: str
    packages: tuple[Package, Package]
    pins: tuple[Pin, Pin]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights are drawn from a seed; nothing is learned."""
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def cats(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Package]:
    """Read only: damage a copy."""
    folder = tmp_path_factory.mktemp("cats")
    return [
        Package.open(tiny_adapter(tiny_model, folder / str(seed), name="cat", seed=seed))
        for seed in (1, 2, 3)
    ]


@pytest.fixture(scope="session")
def oracle(tiny_model: Path) -> Iterator[Engine]:
    """What the served engine has to draw; takes its steps in the calling thread."""
    engine = Engine.load(tiny_model)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def stack(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStack]:
    """A whole served replica. At the end all of it has to end, and within a minute."""
    env = {"ATELIER_QUEUE": "24", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    served = ServedStack(tmp_path_factory.mktemp("stack"), tiny_model, env=env)
    served.start()
    yield served
    processes = served.processes()
    code = served.stop()
    assert code == 0, served.said()
    assert not [pid for pid in processes if alive(pid)]


@pytest.fixture(scope="session")
def thor(
    stack: ServedStack, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> TwoVersions:
    """Two versions of `thor`, registered and not yet released."""
    folder = tmp_path_factory.mktemp("thor")
    made = [
        tiny_adapter(tiny_model, folder / str(seed), name="thor", seed=seed, scale=1.0)
        for seed in (1, 2)
    ]
    first, second = (Package.open(one) for one in made)
    return TwoVersions(
        "thor", (first, second), (stack.register(first.path), stack.register(second.path))
    )


@pytest.fixture(scope="session")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the character of this run, which all its processes share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "character"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def learnt(hour: Path) -> Learnt:
    """Dear: of the trainings of this character the good one."""
    return learn(hour / "good", subject_of_the_hour(hour))
