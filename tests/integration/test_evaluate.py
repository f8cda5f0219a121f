"""A verdict from end to end: real engine, real CLIP and DINO loaders, tiny random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from atelier.adapter.package import Package
from atelier.data.policy import Gate, Policy
from atelier.errors import AdapterRejected, PolicyError
from commands.main import app
from pipelines.evaluate import Evaluation, evaluate, verdict
from services.engine import Engine, EngineSettings
from tests.judged import tiny_scorers
from tests.tiny import tiny_adapter, tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def engine(base: Path) -> Engine:
    return Engine.load(base, settings=EngineSettings(device="cpu", precision="fp32"))


@pytest.fixture(scope="module")
def scorers(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny_scorers(tmp_path_factory.mktemp("scorers"), base / "tokenizer")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for index in range(3):
        pixels = draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def policy(scorers: dict[str, str]) -> Policy:
    return Policy.model_validate(
        {
            "scorers": scorers,
            "seeds": {"first": 2, "most": 4},
            "steps": 3,
            "prompts": {
                "subject": ["a photo of {trigger} on the beach", "{trigger} at night"],
                "class": ["a photo of a {class}"],
                "unrelated": ["a red robot"],
            },
            "gates": {"effect": {"min": 0.01}, "copying": {"max": 0.9}, "drift": {"max": 1.9}},
        }
    )


def package(base: Path, folder: Path, **how: float) -> Package:
    return Package.open(tiny_adapter(base, folder, name="thor-cat", **how))


@pytest.fixture(scope="module")
def judged(
    base: Path,
    policy: Policy,
    pictures: Path,
    engine: Engine,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Evaluation]:
    folder = tmp_path_factory.mktemp("judged")
    found = evaluate(
        package(base, folder / "package"),
        policy,
        base=base,
        training_pictures=pictures,
        output=folder / "evaluation",
        engine=engine,
        cache=folder / "cache",
    )
    return folder, found


def test_the_document_names_what_made_it_and_its_pictures_are_there(
    judged: tuple[Path, Evaluation], engine: Engine
) -> None:
    folder, found = judged
    written = Evaluation.load(folder / "evaluation")
    assert written == found
    assert written.digest == Package.open(folder / "package").digest
    assert (written.backend, written.engine_digest) == (engine.backend, engine.digest)
    assert set(written.scorer_digests) == {"clip", "dino"}
    assert len(written.measures.pictures) == 8
    for one in written.measures.pictures:
        for name in (one.picture, one.base_picture):
            with Image.open(folder / "evaluation" / name) as image:
                assert image.size == (64, 64)
    with Image.open(folder / "evaluation" / "sheet.png") as sheet:
        assert sheet.width > 500
        assert sheet.height > 500
    document = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert document["adapter"] == "thor-cat"


def test_the_verdict_is_the_documents_and_needs_nothing_else(
    judged: tuple[Path, Evaluation], policy: Policy
) -> None:
    folder, found = judged
    again = verdict(Evaluation.load(folder / "evaluation"), policy)
    assert (again.gates, again.decision, again.reasons) == (
        found.gates,
        found.decision,
        found.reasons,
    )
    assert found.accepted, found.reasons


def test_every_measure_is_taken_where_it_has_a_meaning(judged: tuple[Path, Evaluation]) -> None:
    _, found = judged
    for one in found.measures.pictures:
        if one.role == "unrelated":
            assert set(one.values) == {"drift"}
            assert one.values["drift"] > 0
        elif one.role == "class":
            assert set(one.values) == {"class_drift", "leak"}
            assert one.values["class_drift"] > 0
        else:
            assert set(one.values) == {
                "subject",
                "image",
                "retrieval",
                "text",
                "diversity",
                "sharpness",
                "copying",
                "stamp",
                "effect",
            }
            assert set(one.base_values) == {"subject", "image", "retrieval", "text", "diversity"}
            assert one.base_values["retrieval"] == 0
            assert one.nearest in {"0.png", "1.png", "2.png"}


def test_the_engine_is_given_back_as_it_was(
    judged: tuple[Path, Evaluation], engine: Engine
) -> None:
    assert engine.adapters.list() == ()
    assert engine.alive()


def test_an_adapter_that_changes_nothing_fails_and_the_bases_pictures_are_kept(
    judged: tuple[Path, Evaluation],
    base: Path,
    policy: Policy,
    pictures: Path,
    engine: Engine,
    tmp_path: Path,
) -> None:
    folder, first = judged
    done: list[str] = []
    found = evaluate(
        package(base, tmp_path / "package", scale=0.0),
        policy,
        base=base,
        training_pictures=pictures,
        output=tmp_path / "evaluation",
        engine=engine,
        cache=folder / "cache",
        progress=lambda doing, *_: done.append(doing),
    )
    assert not found.accepted
    assert [gate.name for gate in found.gates if not gate.passed] == ["effect"]
    assert "changes nothing" in found.reasons[0]
    assert "pictures of the base" not in done  # taken from the cache
    for one, before in zip(found.measures.pictures, first.measures.pictures, strict=True):
        same = (tmp_path / "evaluation" / one.base_picture).read_bytes()
        assert same == (folder / "evaluation" / before.base_picture).read_bytes()


def test_companions_are_applied_together_with_the_adapter(
    base: Path, policy: Policy, pictures: Path, engine: Engine, tmp_path: Path
) -> None:
    said = policy.model_dump(mode="json") | {"companions": ["ink@2", "thor-cat@1"]}
    said["gates"] = {"together": {"min": -1.0}}
    under = Policy.model_validate(said)
    made = package(base, tmp_path / "package")
    ink = Package.open(tiny_adapter(base, tmp_path / "ink", name="ink", seed=7, scale=2.0))
    how = {"base": base, "training_pictures": pictures, "engine": engine}
    found = evaluate(made, under, **how, output=tmp_path / "judged", companions=[ink])
    assert found.companions == ("ink@2",) and found.accepted
    of_subject = [one for one in found.measures.pictures if one.role == "subject"]
    assert all("together" in one.values for one in of_subject)
    assert any(one.values["together"] != one.values["subject"] for one in of_subject)
    alone = Image.open(tmp_path / "judged" / of_subject[0].picture)
    file = of_subject[0].picture.replace(".png", "-together.png")
    assert np.any(np.asarray(alone) != np.asarray(Image.open(tmp_path / "judged" / file)))
    with pytest.raises(PolicyError, match="the policy names ink@2"):
        evaluate(made, under, **how, output=tmp_path / "other")


def test_an_adapter_of_another_base_is_rejected_naming_both(
    base: Path, policy: Policy, pictures: Path, engine: Engine, tmp_path: Path
) -> None:
    other = tiny_base(tmp_path / "other", seed=1)
    stranger = package(other, tmp_path / "package")
    with pytest.raises(AdapterRejected) as caught:
        evaluate(
            stranger,
            policy,
            base=base,
            training_pictures=pictures,
            output=tmp_path / "evaluation",
            engine=engine,
        )
    assert stranger.manifest.base.digest in str(caught.value)
    assert engine.base.digest in str(caught.value)
    assert not (tmp_path / "evaluation" / "evaluation.json").exists()


def test_a_recipe_that_loosens_the_policy_is_refused_before_any_picture(
    base: Path, policy: Policy, pictures: Path, engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(PolicyError, match="tighten"):
        evaluate(
            package(base, tmp_path / "package"),
            policy,
            base=base,
            training_pictures=pictures,
            output=tmp_path / "evaluation",
            engine=engine,
            gates={"effect": Gate(min=0.001)},
        )


def test_a_scorer_that_is_not_there_is_named(
    base: Path, policy: Policy, pictures: Path, engine: Engine, tmp_path: Path
) -> None:
    lost = {"clip": str(tmp_path / "nowhere"), "dino": policy.scorers.dino}
    broken = Policy.model_validate(policy.model_dump() | {"scorers": lost})
    with pytest.raises(PolicyError, match=r"scorers\.clip: .*nowhere"):
        evaluate(
            package(base, tmp_path / "package"),
            broken,
            base=base,
            training_pictures=pictures,
            output=tmp_path / "evaluation",
            engine=engine,
        )


def test_the_command_ends_with_1_and_the_reasons_where_it_is_refused(
    base: Path, policy: Policy, pictures: Path, tmp_path: Path
) -> None:
    refused = package(base, tmp_path / "package", scale=0.0)
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy.model_dump(mode="json")))
    said = ["evaluate", str(refused.path), "--pictures", str(pictures), "--json"]
    said += ["--policy", str(tmp_path / "policy.yaml"), "--base", str(base)]
    answer = CliRunner().invoke(app, said)
    assert answer.exit_code == 1, answer.stderr
    told = json.loads(answer.stdout)
    assert told["accepted"] is False
    assert "changes nothing" in told["reasons"][0]
    assert (tmp_path / "evaluation" / "evaluation.json").exists()
