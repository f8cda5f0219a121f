"""Look-alikes of the registry: accepted adapters of the same class, on real MLflow."""

from pathlib import Path

import pytest

from atelier.adapter.package import Package, write_package
from atelier.stores.registry import Registry, VersionInfo
from pipelines.evaluate import attest
from pipelines.evaluate.look_alikes import registered_look_alikes
from pipelines.evaluate.measures import LookAlikes
from tests.integration.test_registry import BASE, tensors
from tests.judged import drawn, evaluation, policy

OTHER_BASE = BASE.model_copy(update={"digest": "sha256:" + "1" * 64})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


def made(folder: Path, name: str, seed: int = 1, **changes: object) -> Package:
    said = {"base": BASE, "trigger": "sks cat", "noun": "cat", "dataset": "sha256:" + "d" * 64}
    return write_package(folder / f"{name}-{seed}", tensors(seed), name=name, **(said | changes))


def registered(registry: Registry, package: Package, decision: str = "accepted") -> VersionInfo:
    """A version with its evaluation and pictures."""
    name = package.manifest.name
    info = registry.version(name, registry.register(package, run_id=None))
    said = {"adapter": name, "digest": package.digest, "decision": decision}
    folder = package.path.parent / f"judged-{package.path.name}"
    attest(registry, info, drawn(evaluation(policy(), **said), folder), folder)
    return info


def found(registry: Registry, package: Package) -> list[tuple[str, int]]:
    look_alikes = registered_look_alikes(registry, package.manifest)
    assert all(isinstance(one, LookAlikes) and not one.declared for one in look_alikes)
    return [(one.name, len(one.pictures)) for one in look_alikes]


def test_they_are_the_newest_accepted_versions_of_other_adapters_of_the_class(
    registry: Registry, tmp_path: Path
) -> None:
    mine = made(tmp_path, "thor-cat")
    assert found(registry, mine) == []
    registered(registry, mine)
    for seed in (2, 3):
        registered(registry, made(tmp_path, "tom", seed, dataset="sha256:" + "e" * 64))
    registered(registry, made(tmp_path, "bad", dataset="sha256:" + "f" * 64), "refused")
    registered(registry, made(tmp_path, "twin"))  # trained on the same pictures
    registered(registry, made(tmp_path, "rex", 4, trigger="sks dog", noun="dog", dataset=None))
    registered(registry, made(tmp_path, "elsewhere", 5, base=OTHER_BASE, dataset=None))
    assert found(registry, mine) == [("tom@2", 1)]
    registered(registry, made(tmp_path, "imported", 7, dataset=None))
    assert found(registry, made(tmp_path, "new", 6, dataset=None)) == [
        ("imported@1", 1),
        ("twin@1", 1),
        ("tom@2", 1),
        ("thor-cat@1", 1),
    ]


def test_a_class_may_have_an_apostrophe(registry: Registry, tmp_path: Path) -> None:
    words = {"trigger": "sks fisherman's boat", "noun": "fisherman's boat"}
    registered(registry, made(tmp_path, "one", dataset=None, **words))
    assert found(registry, made(tmp_path, "two", 2, **words)) == [("one@1", 1)]


def test_a_style_has_none(registry: Registry, tmp_path: Path) -> None:
    registered(registry, made(tmp_path, "thor-cat"))
    assert found(registry, made(tmp_path, "ink", 2, trigger="", noun=None)) == []
