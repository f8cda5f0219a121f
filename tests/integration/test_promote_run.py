"""The whole pipeline in one call: from a recipe to a candidate with a verdict, or to a release."""

import json
import shutil
from pathlib import Path
from typing import Any

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
        "validation": {"prompts": ["{trigger}"], "every": 2, "steps": 1},
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


def atelier(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def run(recipe: Path, policy: Path, *more: str) -> Result:
    """`atelier run`."""
    return atelier("run", recipe, "--policy", policy, *more)


def told(result: Result) -> dict[str, Any]:
    """The result of a command with --json."""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_recipe_becomes_a_candidate_and_serves_only_if_that_is_asked(place: Path) -> None:
    home, recipe = Home.find(), place / "recipe.yaml"
    refused = run(recipe, place / "strict.yaml")
    assert refused.exit_code == 1, refused.stderr
    assert "measuring: 1/1" in refused.stderr, "it shows its progress while it judges"
    assert "effect" in refused.stdout and "FAILED" in refused.stdout  # the table of gates
    assert "worst: thor-cat@1/pictures/subject-0-seed-" in refused.stdout
    assert "next:    check that it was trained" in refused.stdout
    registry = Registry(home.tracking_uri)
    candidate = registry.version("thor-cat", "candidate")
    assert (candidate.version, candidate.verdict) == (1, "refused")
    assert registry.attestation(candidate, "evaluation.json") is not None
    assert (registry.attestation(candidate, "sheet.png") or b"").startswith(b"\x89PNG")
    assert (registry.attestation(candidate, "report.html") or b"").startswith(b"<!doctype html>")
    assert ReleaseFolder(home.releases).list() == {}

    # The same recipe under a milder policy: judged again, not trained again, and not released.
    accepted = told(run(recipe, place / "mild.yaml", "--json"))
    assert (accepted["accepted"], accepted["version"], accepted["trained"]) == (True, 1, False)
    assert accepted["next"] == f"atelier promote thor-cat 1 --policy {place / 'mild.yaml'}"
    assert set(accepted["files"]) == {"report", "sheet", "samples", "loss"}
    assert all(Path(file).exists() for file in accepted["files"].values())
    assert registry.version("thor-cat", 1).verdict == "accepted"
    assert ReleaseFolder(home.releases).list() == {}

    # A third time nothing is judged either. The verdict's files are fetched if they are not here.
    shutil.rmtree(home.runs)
    released = run(recipe, place / "mild.yaml", "--promote")
    assert released.exit_code == 0, released.stderr
    assert "pictures" not in released.stderr
    assert "not trained again" in released.stdout
    assert "version 1 is released" in released.stdout
    report = next(line for line in released.stdout.splitlines() if line.startswith("report"))
    assert Path(report.split()[1]).read_text().startswith("<!doctype html>")
    release = ReleaseFolder(home.releases).get("thor-cat")
    assert release is not None
    assert (release.version, release.digest) == (1, candidate.digest)


def test_only_equal_inputs_are_found_and_again_trains_anew(place: Path, tmp_path: Path) -> None:
    home, recipe = Home.find(), tmp_path / "recipe.yaml"
    shutil.copytree(place / "images", tmp_path / "images")
    shutil.copy(place / "recipe.yaml", recipe)
    first = told(atelier("train", recipe, "--json"))
    assert first["trained"] and Path(first["package"]).parent.parent == home.runs / "thor-cat"

    known = told(atelier("train", recipe, "--json"))
    assert (known["trained"], known["digest"]) == (False, first["digest"])
    offered = atelier("train", recipe)
    assert f"to train anew: atelier train {recipe} --again" in offered.stdout
    finished = told(run(recipe, place / "mild.yaml", "--json"))
    assert (finished["trained"], finished["version"]) == (False, 1)
    assert finished["digest"] == first["digest"]
    offered = atelier("train", recipe)
    assert "thor-cat@1: made from the same recipe, pictures and base" in offered.stdout

    again = told(atelier("train", recipe, "--again", "--json"))
    assert again["trained"] and again["package"] != first["package"]

    # Another picture, and the same recipe: neither the version nor the folder is the one asked for.
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "images" / "more.png")
    other = told(run(recipe, place / "mild.yaml", "--json"))
    assert (other["trained"], other["version"]) == (True, 2)
    assert other["digest"] != first["digest"]


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


def test_a_scorer_that_is_not_there_ends_it_before_training(place: Path, tmp_path: Path) -> None:
    said = yaml.safe_load((place / "mild.yaml").read_text())
    said["scorers"]["dino"] = str(tmp_path / "nothing")
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(said))
    refused = run(place / "recipe.yaml", tmp_path / "policy.yaml")
    assert refused.exit_code == 2
    assert "scorers.dino: scorer " in refused.stderr and "no such folder" in refused.stderr
    assert not Home.find().runs.exists()


def test_what_is_no_error_of_ours_is_a_line_and_no_refusal_either(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_HOME", str(place / "mild.yaml"))  # a file
    refused = run(place / "recipe.yaml", place / "mild.yaml")
    assert refused.exit_code == 2
    assert "mild.yaml" in refused.stderr and "Traceback" not in refused.stderr
