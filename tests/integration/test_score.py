"""`atelier score`: real engine and CLIP loader with tiny random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from atelier.adapter.package import Package
from commands.main import app
from tests.judged import policy, tiny_scorers


@pytest.fixture(scope="module")
def policy_file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    scorers = tiny_scorers(folder / "scorers", tiny_model / "tokenizer")
    asked = policy(scorers=scorers, steps=2)
    (folder / "policy.yaml").write_text(
        yaml.safe_dump(asked.model_dump(mode="json", exclude_none=True))
    )
    (folder / "prompts.txt").write_text("# two prompts\na photo of {trigger}\n\na red {class}\n")
    return folder / "policy.yaml"


def score(*words: object, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["score", *map(str, words), "--json"])
    assert done.exit_code == code, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_generated_pictures_are_scored_and_kept_pictures_score_the_same(
    tiny_model: Path, cats: list[Package], policy_file: Path, tmp_path: Path
) -> None:
    prompts = policy_file.with_name("prompts.txt")
    shared = ("--policy", policy_file)
    found = score(
        *("--prompts", prompts, "--adapter", cats[0].path, "--base", tiny_model, "--seeds", 2),
        *("--output", tmp_path / "kept", *shared),
    )
    # CLIP has not learnt the trigger, so its texts have the class.
    assert [each["prompt"] for each in found["prompts"]] == ["a photo of cat", "a red cat"]
    assert found["pictures"] == 4 and found["over"] == "pictures"
    assert 0 <= found["clip_score"] <= 100 and found["ci"][0] <= found["clip_score"]
    again = score("--images", tmp_path / "kept", *shared)
    assert again["clip_score"] == pytest.approx(found["clip_score"], abs=1e-4)
    assert again["scorer_digest"] == found["scorer_digest"]


def test_a_placeholder_without_an_adapter_is_refused(tiny_model: Path, policy_file: Path) -> None:
    prompts = policy_file.with_name("prompts.txt")
    words = ("--prompts", prompts, "--base", tiny_model, "--policy", policy_file)
    assert "--adapter" in str(score(*words, code=2))


def test_a_picture_without_a_prompt_is_refused(cats: list[Package], tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert "metadata.jsonl" in str(score("--images", tmp_path, code=2))


@pytest.mark.parametrize("words", [(), ("--prompts", "a", "--images", "b")])
def test_exactly_one_source_of_pictures_is_needed(words: tuple[str, ...]) -> None:
    assert "either --prompts" in str(score(*words, code=2))
