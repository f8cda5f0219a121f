"""An adapter is judged with every scorer, each imported into MLflow and loaded by its digest."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet50
from typer.testing import CliRunner

from atelier.adapter.package import Package
from atelier.data.policy import Policy
from atelier.errors import PolicyError
from commands.main import app
from pipelines.evaluate import Evaluation, evaluate, verdict
from pipelines.evaluate.scorers import Scorers
from services.engine import Engine, EngineSettings
from tests.judged import tiny_scorers
from tests.scorer_stand_ins import RED, tiny_copy_scorer, tiny_faces, tiny_saliency
from tests.tiny import tiny_adapter, tiny_base

GATES = {
    "effect": {"min": 0.01},
    "replica": {"max": 1.0},
    "face": {"min": -1.0, "min_delta": -2.0},
    "faces": {"min": 0.0},
    "subject_crop": {"min": -1.0, "min_worst": -1.0},
    "background": {"max_delta": 2.0},
}
OPTIONAL = {"subject_crop", "background", "replica", "face", "faces"}


def invoke(*said: object) -> dict[str, object]:
    answer = CliRunner().invoke(app, [*map(str, said), "--json"])
    assert answer.exit_code == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the three show a "face": a red square that fills a cell of the detector."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for index in range(3):
        pixels = draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        if index:
            picture.paste(RED, (8, 8, 40, 40))
        picture.save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine with a registry."""
    folder = tmp_path_factory.mktemp("registry")
    return {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "ATELIER_HOME": str(folder / "home"),
    }


@pytest.fixture(scope="module")
def scorers(
    base: Path, registry: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The addresses in the registry, by role."""
    folder = tmp_path_factory.mktemp("scorers")
    folders = tiny_scorers(folder, base / "tokenizer") | {
        "copy": tiny_copy_scorer(folder / "copy"),
        "face": tiny_faces(folder / "face"),
        "saliency": tiny_saliency(folder / "saliency"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in registry.items():
            patch.setenv(name, value)
        return {role: invoke("scorer", "import", each)["uri"] for role, each in folders.items()}


def policy(scorers: dict[str, str], **changes: object) -> Policy:
    said = {
        "scorers": scorers,
        "seeds": {"first": 2, "most": 2},
        "steps": 2,
        "prompts": {"subject": ["a photo of {trigger}"], "unrelated": ["a red robot"]},
        "gates": GATES,
    }
    return Policy.model_validate(said | changes)


@pytest.fixture(scope="module")
def judged(
    base: Path,
    pictures: Path,
    scorers: dict[str, str],
    registry: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Evaluation:
    folder = tmp_path_factory.mktemp("judged")
    engine = Engine.load(base, settings=EngineSettings(device="cpu", precision="fp32"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in registry.items():
            patch.setenv(name, value)
        evaluate(
            Package.open(tiny_adapter(base, folder / "package", name="thor-cat")),
            policy(scorers),
            base=base,
            training_pictures=pictures,
            output=folder / "evaluation",
            engine=engine,
        )
    engine.close()
    return Evaluation.load(folder / "evaluation")


def test_the_document_names_every_scorer_and_its_digest(
    judged: Evaluation, scorers: dict[str, str]
) -> None:
    assert set(scorers) == {"clip", "dino", "copy", "face", "saliency"}
    assert judged.scorers == scorers
    digests = judged.scorer_digests
    assert digests.keys() == scorers.keys()
    for role, address in scorers.items():
        assert digests[role] == address.replace("mlflow://scorers/", "sha256:")


def test_every_optional_measure_is_taken(judged: Evaluation) -> None:
    subjects = [one for one in judged.measures.pictures if one.role == "subject"]
    assert len(subjects) == 2
    for one in subjects:
        assert set(one.values) >= OPTIONAL
        assert set(one.base_values) & OPTIONAL == OPTIONAL - {"replica"}
    others = [one for one in judged.measures.pictures if one.role != "subject"]
    assert others and not any(OPTIONAL & set(one.values) for one in others)
    references = judged.measures.references
    assert [one.values["faces"] for one in references.pictures] == [0, 1, 1]
    assert set(references.likeness) == {"subject", "image", "subject_crop", "face"}


def test_the_verdict_needs_no_network(judged: Evaluation, scorers: dict[str, str]) -> None:
    found = verdict(judged, policy(scorers))
    assert {gate.name for gate in found.gates} == set(GATES)
    assert all(gate.value is not None for gate in found.gates)
    assert (found.decision, found.gates) == (judged.decision, judged.gates)


def test_a_scorer_in_the_wrong_role_is_named(
    scorers: dict[str, str], registry: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in registry.items():
        monkeypatch.setenv(name, value)
    both = {"clip": scorers["clip"], "dino": scorers["dino"]}
    for role, other, told in (
        ("copy", "dino", "model_type: .*; convert SSCD's published weights"),
        ("copy", "face", "it has no config.json"),
        ("face", "saliency", "it has no detector.onnx"),
        ("saliency", "face", "it has no saliency.onnx"),
    ):
        with pytest.raises(PolicyError, match=rf"scorers\.{role}: mlflow://\S+ .*{told}"):
            Scorers(both | {role: scorers[other]})
    with pytest.raises(PolicyError, match=r"scorers\.dino: "):
        Scorers(both | {"dino": scorers["copy"]})
    with pytest.raises(PolicyError, match=r"scorers\.dino: "):
        Scorers(both | {"dino": scorers["face"]})


def test_dino_can_separate_the_subject_by_its_patches(
    scorers: dict[str, str], registry: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in registry.items():
        monkeypatch.setenv(name, value)
    named = {"clip": scorers["clip"], "dino": scorers["dino"], "saliency": "dino"}
    loaded = Scorers(named)
    assert set(loaded.digests) == {"clip", "dino"}
    assert loaded.names == named
    assert loaded.optional.saliency is not None and loaded.optional.copy is None
    mask = loaded.optional.saliency.masks([Image.new("RGB", (40, 30), RED)])[0]
    assert mask.shape == (30, 40)


def test_published_weights_are_converted_and_imported(
    tmp_path: Path, registry: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in registry.items():
        monkeypatch.setenv(name, value)
    torch.manual_seed(0)
    state = resnet50(num_classes=512).state_dict()
    file = tmp_path / "sscd_disc_mixup.torchvision.pt"
    torch.save({f"backbone.{name}": value for name, value in state.items()}, file)
    refused = CliRunner().invoke(app, ["scorer", "import", str(file)])
    assert refused.exit_code == 2
    assert "atelier scorer convert" in refused.stderr
    folder = invoke("scorer", "convert", file, tmp_path / "sscd")["folder"]
    imported = invoke("scorer", "import", folder)
    assert imported["uploaded"] is True
    assert str(imported["uri"]).startswith("mlflow://scorers/")
