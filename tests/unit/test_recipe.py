"""A recipe says everything once; a mistake in it is named with its line, key and way out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.data.recipe import Recipe
from atelier.errors import RecipeError

# DESIGN's own example.
RECIPE = """\
adapter: thor-cat
base: {model: models/miniature, revision: null, vae: null}
trigger: sks cat
class: cat
styles: {portrait: "{prompt}, close-up"}
stages:
  - method: dreambooth
    dataset: {path: images, resolution: 128, crop: center, repeats: 1, captions: text}
    prompt: a photo of {trigger} {caption}
    prior: {prompt: a photo of a cat, images: 32, weight: 1.0}
    lora: {rank: 16, alpha: 16, targets: [attn, ff, proj]}
    train: {steps: 300, batch: 4, accumulate: 1, lr: 1.0e-4, optimizer: adamw, snr_gamma: 5}
validation: {prompts: ["{trigger} on the beach"], every: 100, seed: 0}
checkpoint: {every: 50, keep: 2}
gates: {subject: {min: 0.65}}
tracking: {mlflow: true, wandb: {project: atelier, mode: offline}}
"""
LEAST = """\
adapter: least
base: {model: m}
stages:
  - method: dreambooth
    dataset: {path: images, resolution: 64}
    prompt: a photo of sks cat
    train: {steps: 1, lr: 1e-4}
"""


def load(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return Recipe.load(path)


def mistakes(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def test_everything_that_is_written_is_read(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE)
    (stage,) = recipe.stages
    assert (recipe.adapter, recipe.base.model, recipe.trigger) == (
        "thor-cat",
        "models/miniature",
        "sks cat",
    )
    assert recipe.dataset_folder(stage) == tmp_path / "images"
    assert (stage.lora.rank, stage.lora.alpha, stage.lora.targets) == (
        16,
        16.0,
        ("attn", "ff", "proj"),
    )
    assert (stage.train.lr, stage.train.snr_gamma, stage.train.steps) == (1e-4, 5.0, 300)
    assert stage.prior is not None and stage.prior.images == 32
    assert recipe.validation is not None and recipe.validation.every == 100
    assert recipe.checkpoint.keep == 2
    assert recipe.gates["subject"].limits == {"min": 0.65}
    assert recipe.tracking.wandb is not None and recipe.tracking.wandb.mode == "offline"


def test_defaults(tmp_path: Path) -> None:
    """Pinned, because a changed default changes what old recipes mean."""
    recipe = load(tmp_path, LEAST)
    (stage,) = recipe.stages
    assert stage.train.model_dump() == {
        "steps": 1,
        "lr": 1e-4,
        "batch": 1,
        "accumulate": 1,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "schedule": "constant",
        "warmup": 0,
        "cycles": 1,
        "power": 1.0,
        "step_rules": None,
        "snr_gamma": None,
        "precision": "fp32",
        "seed": 0,
        "gradient_checkpointing": False,
        "max_grad_norm": 1.0,
        "lr_ratio": 1.0,
    }
    assert stage.lora.model_dump() == {"rank": 16, "alpha": 16.0, "targets": ("attn",)}
    assert stage.prior is None
    assert (recipe.class_, stage.dataset.hold_back) == (None, None)
    assert recipe.checkpoint.model_dump() == {"every": 100, "keep": 2, "judge": None}
    assert recipe.tracking.model_dump() == {"mlflow": True, "wandb": None}


def test_alpha_follows_the_rank(tmp_path: Path) -> None:
    text = LEAST.replace("prompt:", "lora: {rank: 8}\n    prompt:")
    assert load(tmp_path, text).stages[0].lora.alpha == 8.0


def test_numbers_are_yaml_1_2s(tmp_path: Path) -> None:
    """PyYAML alone would read 1e-4 as text and `off` as false."""
    for written in ("1e-4", "1E-4", "0.0001", "1.0e-4", "+1.e-4"):
        assert load(tmp_path, LEAST.replace("1e-4", written)).stages[0].train.lr == 1e-4
    assert "is '010'" in mistakes(tmp_path, LEAST.replace("steps: 1", "steps: 010"))
    assert "is '1:30'" in mistakes(tmp_path, LEAST.replace("steps: 1", "steps: 1:30"))
    assert "is 'off'" in mistakes(tmp_path, RECIPE.replace("mode: offline", "mode: off"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("lr: 1.0e-4", "learning_rate: 1", "recipe.yaml:12: stages.0.train.lr: missing"),
        ("steps: 300", "stepz: 300", "stages.0.train.stepz: unknown key; did you mean steps?"),
        ("trigger:", "triger:", "recipe.yaml:3: triger: unknown key; did you mean trigger?"),
        ("rank: 16", "rnk: 16", "recipe.yaml:11: stages.0.lora.rnk: unknown key; did you mean ra"),
        ("min: 0.65", "mim: 0.65", "gates.subject.mim: unknown key; did you mean min?"),
        ("{subject:", "{subjekt:", "recipe.yaml:15: gates.subjekt: must be 'consis"),
        ("lr: 1.0e-4", "lr: fast", "recipe.yaml:12: stages.0.train.lr: must be a valid number, is"),
        ("lr: 1.0e-4", "lr: 0", "stages.0.train.lr: must be greater than 0, is 0"),
        ("lr: 1.0e-4", "lr: .inf", "stages.0.train.lr: must be a finite number, is inf"),
        ("steps: 300", "steps: 0", "stages.0.train.steps: must be greater than or equal to 1"),
        ("steps: 300", "steps: yes", "stages.0.train.steps: must be a valid integer, is 'yes'"),
        ("steps: 300", "steps: 3.5", "stages.0.train.steps: must be a valid integer, is 3.5"),
        ("rank: 16", "rank: true", "stages.0.lora.rank: must be a valid integer, is True"),
        ("method: dreambooth", "method: dreamboth", "is 'dreamboth'; did you mean dreambooth?"),
        ("optimizer: adamw", "optimizer: lion", "must be 'adamw' or 'adamw8bit', is 'lion'"),
        ("[attn, ff", "[atn, ff", "stages.0.lora.targets.0: must be"),
        ("targets: [attn, ff, proj]", "targets: []", "stages.0.lora.targets: must not be empty"),
        ("resolution: 128", "resolution: 130", "dataset.resolution: must be a multiple of 8, is"),
        ("{caption}", "{capton}", "stages.0: prompt has {capton}; known placeholders are {capt"),
        ("{trigger} on", "{caption} on", "validation.prompts: a prompt has {caption}"),
        ("of {trigger}", "of {trigger", "stages.0: prompt 'a photo of {trigger {caption}"),
        ("{prompt}, close-up", "close-up", "styles: style portrait must contain {prompt}"),
        ("trigger: sks cat", "trigger: ''", "trigger is empty, but the prompt 'a photo of {tr"),
        ("class: cat", "clas: cat", "recipe.yaml:4: clas: unknown key; did you mean class?"),
        ("class: cat\n", "", "class is missing; name the class of 'sks cat', such as `class: cat`"),
        ("class: cat", "class: ''", "recipe.yaml:4: class: must not be empty; name the class"),
        ("class: cat", "class: a cat", "class: 'a cat' has an article; write the noun alone: cat"),
        ("class: cat", "class: dog", "trigger 'sks cat' must end with the class 'dog'"),
        ("class: cat", "class: sks cat", "trigger and class are both 'sks cat'; put a rare word"),
        ("of a cat", "of a boat", "stages.0.prior.prompt 'a photo of a boat' does not contain the"),
        ("of a cat", "of a catfish", "does not contain the class 'cat'; class pictures must show"),
        ("repeats: 1", "hold_back: -1", "dataset.hold_back: must be greater than or equal to 0"),
        ("thor-cat", "Thor Cat", "recipe.yaml:1: adapter: 'Thor Cat' is not an adapter name; use"),
        ("thor-cat", "a" * 54, "is not an adapter name; use at most 53"),
        ("thor-cat", "../evil", "is not an adapter name"),
        ("seed: 0}", "seed: 18446744073709551616}", "validation.seed: must be less than 18446744"),
        ("mlflow: true", "mlflow: 1", "tracking.mlflow: must be a valid boolean, is 1"),
        ("keep: 2}", "keep: 2, keep: 3}", "recipe.yaml:14: checkpoint.keep: given twice; keep one"),
        ("keep: 2}", "keep: 2", "recipe.yaml:15: not valid YAML"),
        ("accumulate: 1", "warmup: 300", "stages.0.train: warmup 300 must be less than steps 300"),
        ("accumulate: 1", "schedule: piecewise_constant", "step_rules require each other"),
        ("accumulate: 1", 'step_rules: "1:2,0.1"', "step_rules require each other"),
        ("keep: 2}", "keep: 2, folder: x}", "checkpoint.folder: unknown key"),
        ("keep: 2}", "keep: 2, judge: {}}", "checkpoint.judge.every: missing"),
        (
            "keep: 2}",
            "keep: 2, judge: {every: 50, patience: 0}}",
            "checkpoint.judge.patience: must be greater than or equal to 1",
        ),
        ("adapter:", "folder: /etc\nadapter:", "recipe.yaml:1: folder: unknown key"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in RECIPE
    text = mistakes(tmp_path, RECIPE.replace(old, new, 1))
    assert told in text
    assert "validation error" not in text


@pytest.mark.parametrize("trigger", ["thorcat", "#thumbsup", "sks  Cat", "my old cat"])
def test_a_trigger_is_one_word_or_ends_with_the_class(tmp_path: Path, trigger: str) -> None:
    recipe = load(tmp_path, RECIPE.replace("trigger: sks cat", f"trigger: '{trigger}'"))
    assert (recipe.trigger, recipe.class_) == (trigger, "cat")
    assert json.loads(recipe.to_json())["class"] == "cat"
    assert Recipe.parse(recipe.to_json().encode(), "x").digest == recipe.digest


def test_only_the_root_of_a_mistake_is_told(tmp_path: Path) -> None:
    assert len(mistakes(tmp_path, RECIPE.replace("steps: 300", "steps: 0")).splitlines()) == 1
    two = RECIPE.replace("steps: 300", "steps: 0").replace("rank: 16", "rank: 0")
    assert len(mistakes(tmp_path, two).splitlines()) == 2


def test_anchors_are_read_and_cannot_go_round(tmp_path: Path) -> None:
    stage = LEAST[LEAST.index("  - method") :].replace("  - method", "  - &one\n    method")
    again = "  - {<<: *one, prompt: another}\n"
    stages = load(tmp_path, LEAST.split("  - method")[0] + stage + again).stages
    assert [one.prompt for one in stages] == ["a photo of sks cat", "another"]
    assert "recipe.yaml:3: stages.0: must be" in mistakes(
        tmp_path, LEAST.split("stages:")[0] + "stages: &all [*all]\n"
    )


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(RECIPE) - 1), st.integers(0, 6), st.text("{}[]:,&*!|>'\"#-?\n\t 0a\x00é"))
def test_any_scribble_is_a_recipe_or_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, place: int, cut: int, scribble: str
) -> None:
    folder = tmp_path_factory.mktemp("scribble")
    try:
        load(folder, RECIPE[:place] + scribble + RECIPE[place + cut :])
    except RecipeError as error:
        assert str(error).startswith(f"{folder}/recipe.yaml")


def test_step_rules(tmp_path: Path) -> None:
    rules = 'accumulate: 1, schedule: piecewise_constant, step_rules: "{}"'
    text = RECIPE.replace("accumulate: 1", rules.format("1:100,0.1:200,0.01"))
    assert load(tmp_path, text).stages[0].train.step_rules == "1:100,0.1:200,0.01"
    assert "must read like" in mistakes(
        tmp_path, RECIPE.replace("accumulate: 1", rules.format("1-100"))
    )


def test_a_stage_without_any_words_is_refused(tmp_path: Path) -> None:
    text = LEAST.replace("    prompt: a photo of sks cat\n", "")
    assert "has no captions; give a prompt for all pictures, or dataset.captions" in mistakes(
        tmp_path, text
    )
    assert load(tmp_path, text.replace("64}", "64, captions: text}")).stages[0].prompt is None


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "adapter: missing"), ("- a", "must be a mapping"), ("text", "must be a mapping")],
)
def test_documents_that_are_no_recipe(tmp_path: Path, text: str, told: str) -> None:
    assert told in mistakes(tmp_path, text)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    load(tmp_path, LEAST)
    for path, told in (
        (tmp_path / "recpie.yaml", f"no such file; did you mean {tmp_path}/recipe.yaml?"),
        (tmp_path, f"is a folder, not a file; did you mean {tmp_path}/recipe.yaml?"),
        (tmp_path / "no" / "recipe.yaml", "no such file"),
    ):
        with pytest.raises(RecipeError) as caught:
            Recipe.load(path)
        assert str(caught.value) == f"{path}: {told}"
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="is not UTF-8 text"):
        Recipe.load(tmp_path / "recipe.yaml")


def test_the_digest_covers_content_not_place_nor_spelling(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    recipe = load(tmp_path, RECIPE)
    assert load(tmp_path / "other", f"# a comment\n{RECIPE}").digest == recipe.digest
    data: dict[str, Any] = yaml.safe_load(RECIPE)
    data["stages"][0]["train"]["lr"] = 1e-4
    reordered = yaml.safe_dump(data, sort_keys=True)
    assert load(tmp_path / "other", reordered).digest == recipe.digest
    assert load(tmp_path, RECIPE.replace("seed: 0", "seed: 1")).digest != recipe.digest


def test_filling_leaves_no_gaps(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE)
    assert recipe.fill("a photo of {trigger} {caption}") == "a photo of sks cat"
    assert recipe.fill("{caption}, {trigger} .", "in snow") == "in snow, sks cat."


def test_two_recipes_for_one_adapter_are_both_named(tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    for name in ("a", "b", "broken"):
        (adapters / name).mkdir(parents=True)
    load(adapters / "a", LEAST)
    (adapters / "broken" / "recipe.yaml").write_text("adapter: [least\n")
    assert load(adapters / "b", LEAST.replace("least", "another")).adapter == "another"
    with pytest.raises(RecipeError, match=r"b/recipe\.yaml: .*a/recipe\.yaml is also a rec"):
        load(adapters / "b", LEAST)


def test_versions_of_a_recipe_may_lie_side_by_side(tmp_path: Path) -> None:
    for folder in (tmp_path / "examples" / "a", tmp_path / "examples" / "b"):
        folder.mkdir(parents=True)
        assert load(folder, LEAST).adapter == "least"


def test_a_recipe_cannot_be_changed(tmp_path: Path) -> None:
    recipe = load(tmp_path, LEAST)
    with pytest.raises(ValueError, match="frozen"):
        recipe.trigger = "other"
