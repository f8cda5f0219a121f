"""`atelier adapters list` and `pictures`: the verdict of each version, and its pictures."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from atelier.data.release import Release, ReleaseFolder
from atelier.errors import Refused
from atelier.home import Home
from atelier.stores.registry import Registry
from commands.main import app
from pipelines.delivery.approval import accepted_evaluation
from pipelines.evaluate import attest, verdict
from tests.judged import DIGEST as BASE
from tests.judged import GOOD, drawn, evaluation, policy
from tests.promoted import Adapter, package

NAME, RED, BLUE = "thor-cat", (200, 0, 0), (0, 0, 200)


def atelier(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def judge(registry: Registry, version: int, folder: Path, **values: float) -> None:
    info = registry.version(NAME, version)
    one = evaluation(policy(), subject=GOOD | values, digest=info.digest)
    said = verdict(one, policy())
    judged = one.model_copy(
        update={"gates": said.gates, "decision": said.decision, "reasons": said.reasons}
    )
    attest(registry, info, drawn(judged, folder, RED if values else BLUE), folder)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Three versions: accepted, refused, and not judged."""
    made = Registry(Home.find().tracking_uri)
    for seed in (1, 2, 3):
        made.register(package(tmp_path / str(seed), NAME, seed), run_id=None)
    judge(made, 1, tmp_path / "first")
    judge(made, 2, tmp_path / "second", subject=0.3)
    return made


def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(atelier("adapters", "list", "--json").stdout)[
        "adapters"
    ]
    return found


def test_each_version_has_its_verdict_and_serves_only_where_a_replica_holds_it(
    registry: Registry, tmp_path: Path
) -> None:
    assert [one["verdict"] for one in listed()] == ["accepted", "refused", None]
    judge(registry, 2, tmp_path / "third")  # the newest counts
    assert [one["verdict"] for one in listed()] == ["accepted", "accepted", None]
    assert {one["here"] for one in listed()} == {None}

    home, cat = Home.find(), Adapter.__new__(Adapter)
    cat.name, cat.registry, cat.home = NAME, registry, home
    cat.digests = {info.version: info.digest for info in registry.versions(NAME)}
    release = Release(adapter=NAME, base=BASE, version=1, digest=cat.digests[1])
    ReleaseFolder(home.releases).put(release)
    assert [one["here"] for one in listed()] == ["released", None, None]
    assert not any(one["serving"] for one in listed())
    cat.report(v1="loading", v2="ready")
    assert [one["here"] for one in listed()] == ["released", "serving", None]
    cat.report(v1="ready", v2="ready", default=1)
    assert [one["here"] for one in listed()] == ["serving", "loaded", None]
    assert [one["serving"] for one in listed()] == [True, False, False]
    text = atelier("adapters", "list").stdout.splitlines()
    assert text[0].split() == ["ADAPTER", "VERSION", "DIGEST", "VERDICT", "ALIASES", "HERE"]
    assert text[1].split()[3:] == ["accepted", "-", "serving"]


def test_the_pictures_that_a_refusal_names_can_be_fetched(
    registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(Refused) as refused:
        accepted_evaluation(registry, registry.version(NAME, 2), policy())
    address = f"{NAME}@2/pictures/subject-0-seed-1.png"
    assert address in str(refused.value)
    one = json.loads(atelier("adapters", "pictures", address, "--json").stdout)
    (picture,) = one["pictures"]
    assert (picture["prompt"], picture["seed"]) == ("sks cat on the beach", 1)
    assert picture["values"]["subject"] == 0.3
    with Image.open(picture["file"]) as image:
        assert image.getpixel((0, 0)) == RED

    out = tmp_path / "out"
    every = atelier("adapters", "pictures", f"{NAME}@2", "--output", str(out))
    assert every.exit_code == 0, every.stderr
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.is_file()}
    assert names == {
        "evaluation.json",
        "report.html",
        "sheet.png",
        "pictures/subject-0-seed-0.png",
        "pictures/subject-0-seed-1.png",
        "pictures/unrelated-0-seed-0.png",
    }

    lost = atelier("adapters", "pictures", f"{NAME}@1/pictures/subject-0-seed-1.png")
    assert lost.exit_code == 2
    assert "is not stored; the stored pictures are pictures/subject-0-seed-0.png" in lost.stderr
    unjudged = atelier("adapters", "pictures", f"{NAME}@3")
    assert unjudged.exit_code == 1 and "atelier evaluate" in unjudged.stderr
