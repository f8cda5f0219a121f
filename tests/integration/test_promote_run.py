"""The whole pipeline in one call: from a recipe to a release, or to a refusal with its reasons."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from atelier.data.release import ReleaseFolder
from atelier.home import Home
from atelier.stores.registry import Registry
from commands.main import app
from tests.judged import tiny_scorers
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, its scorers, a recipe with two pictures, and two policies."""
    folder = tmp_path_factory.mktemp("place")
    base = tiny_base(folder / "base")
    draw = np.random.default_rng(0)
    (folder / "images").mkdir()
    for index in range(2):
        pixels = draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    stage = {
        "method": "dreambooth",
        "dataset": {"path": "images", "resolution": 64},
        "prompt": "a photo of {trigger}",
        "lora": {"rank": 2, "targets": ["attn"]},
        "train": {"steps": 2, "lr": 0.05},
    }
    recipe = {
        "adapter": "thor-cat",
        "base": {"model": str(base)},
        "trigger": "sks cat",
        "class": "cat",
        "stages": [stage],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for name, limit in (("mild", 0.0001), ("strict", 0.99)):
        policy = {
            "scorers": tiny_scorers(folder / "scorers", base / "tokenizer"),
            "seeds": {"first": 2, "most": 2},
            "steps": 2,
            "prompts": {"subject": ["{trigger}"], "unrelated": ["a red robot"]},
            "gates": {"effect": {"min": limit}},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(policy))
    return folder


def run(recipe: Path, policy: Path, *more: str) -> Result:
    """`atelier run`."""
    return CliRunner().invoke(app, ["run", str(recipe), "--policy", str(policy), *more])


def test_a_recipe_becomes_a_release_and_a_refused_one_stays_a_candidate(place: Path) -> None:
    home = Home.find()
    refused = run(place / "recipe.yaml", place / "strict.yaml")
    assert refused.exit_code == 1
    assert "thor-cat@1 is refused" in refused.stderr
    assert "effect on the picture" in refused.stderr
    registry = Registry(home.tracking_uri)
    candidate = registry.version("thor-cat", "candidate")
    assert candidate.version == 1
    assert registry.attestation(candidate, "evaluation.json") is not None
    assert (registry.attestation(candidate, "sheet.png") or b"").startswith(b"\x89PNG")
    assert ReleaseFolder(home.releases).list() == {}

    # The same recipe under a milder policy: nothing is trained again, the version is the same.
    released = run(place / "recipe.yaml", place / "mild.yaml", "--resume")
    assert released.exit_code == 0, released.stderr
    assert "version 1 is released" in released.stdout
    release = ReleaseFolder(home.releases).get("thor-cat")
    assert release is not None
    assert (release.version, release.digest) == (1, candidate.digest)


def test_a_recipe_with_unreadable_pictures_ends_before_training(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "recipe.yaml").write_text((place / "recipe.yaml").read_text())
    refused = run(tmp_path / "recipe.yaml", place / "mild.yaml")
    assert refused.exit_code == 2
    assert "cut.png" in refused.stderr
    assert not Home.find().runs.exists()


def test_what_is_no_error_of_ours_is_a_line_and_no_refusal_either(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_HOME", str(place / "mild.yaml"))  # a file
    refused = run(place / "recipe.yaml", place / "mild.yaml")
    assert refused.exit_code == 2
    assert "mild.yaml" in refused.stderr and "Traceback" not in refused.stderr
