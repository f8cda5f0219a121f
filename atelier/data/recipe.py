"""Recipes: YAML files that determine the training of an adapter completely.

The digest of a recipe covers its content, including defaults, but not its place.
"""

import json
import re
import string
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from atelier.data import yaml_model, yaml_text
from atelier.data.names import AdapterName
from atelier.data.noun import Noun, check_prior, check_trigger
from atelier.data.policy import Gates
from atelier.errors import RecipeError
from atelier.files import digest_json
from atelier.validation import summary

RECIPE = "recipe.yaml"
RECIPE_JSON = "recipe.json"  # in an artifact
ADAPTERS = "adapters"  # the folder of the recipes that a push trains, one subfolder per adapter

Count = Annotated[int, Field(strict=True, ge=1)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**64)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]

Method = Literal["dreambooth", "text_to_image", "textual_inversion", "pivotal", "dreambooth_full"]
# Layers that get low-rank pairs: UNet attention (to_q, to_k, to_v, to_out), UNet feed-forward, the
# UNet's linear proj_in and proj_out, and the attention of either text encoder.
Target = Literal["attn", "ff", "proj", "text_encoder", "text_encoder_2"]
# The names of `diffusers.optimization`.
Schedule = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "piecewise_constant",
]
_STEP_RULES = re.compile(r"(\d*\.?\d+:\d+,)*\d*\.?\d+")


class _Plain(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), serialize_by_alias=True
    )


class BaseSpec(_Plain):
    """The base to train on: a folder (relative to the working directory) or a hub ID."""

    model: Text
    revision: str | None = None
    vae: str | None = None  # a separate VAE, in the same form


class DatasetSpec(_Plain):
    """The pictures: a folder relative to the recipe's folder."""

    path: Text
    resolution: Annotated[int, Field(strict=True, ge=32, le=4096, multiple_of=8)]
    crop: Literal["center", "random", "none"] = "center"
    repeats: Count = 1
    captions: str | None = None  # a column of the folder's metadata.jsonl
    # The number of pictures that training does not use, because the evaluation compares with them.
    # By default a sixth of the pictures, from 3 to 6, if there are at least 12, otherwise none.
    hold_back: Natural | None = None


class Prior(_Plain):
    """The class pictures of DreamBooth's prior preservation (Ruiz et al., arXiv:2208.12242)."""

    prompt: Text
    images: Count
    weight: NotNegative = 1.0


class LoraSpec(_Plain):
    """The low-rank pairs; `alpha` is by default the rank, so the scale is 1."""

    rank: Annotated[int, Field(strict=True, ge=1, le=1024)] = 16
    alpha: Positive
    targets: Annotated[tuple[Target, ...], Field(min_length=1)] = ("attn",)

    @model_validator(mode="before")
    @classmethod
    def _alpha_is_rank(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("alpha") is None:
            return {**value, "alpha": value.get("rank", 16)}
        return value


class TrainSpec(_Plain):
    """The optimization; a step is one update, after `accumulate` batches."""

    steps: Count
    lr: Positive
    # rate of B / rate of A; at 1 (LoRA), B learns too slowly (LoRA+, Hayou et al. 2024)
    lr_ratio: Positive = 1.0
    batch: Count = 1
    accumulate: Count = 1
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    weight_decay: NotNegative = 0.01
    schedule: Schedule = "constant"
    warmup: Natural = 0  # steps
    cycles: Count = 1  # cosine_with_restarts
    power: Positive = 1.0  # polynomial
    step_rules: str | None = None  # piecewise_constant: "1:100,0.1:200,0.01"
    snr_gamma: Positive | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: Seed = 0
    gradient_checkpointing: Annotated[bool, Field(strict=True)] = False
    max_grad_norm: Positive = 1.0

    @model_validator(mode="after")
    def _rules_fit_the_schedule(self) -> Self:
        if (self.schedule == "piecewise_constant") != (self.step_rules is not None):
            raise ValueError(
                "schedule piecewise_constant and step_rules require each other; set both or neither"
            )
        if self.step_rules is not None and not _STEP_RULES.fullmatch(self.step_rules):
            raise ValueError(
                f"step_rules {self.step_rules!r} must read like 1:100,0.1:200,0.01 "
                "(factor:until step, …, last factor)"
            )
        if self.warmup >= self.steps and self.warmup:
            raise ValueError(f"warmup {self.warmup} must be less than steps {self.steps}")
        return self


class Stage(_Plain):
    """One training; each stage of a recipe continues from the previous one."""

    method: Method
    dataset: DatasetSpec
    prompt: str | None = None
    prior: Prior | None = None
    lora: LoraSpec = LoraSpec.model_validate({})
    train: TrainSpec

    @model_validator(mode="after")
    def _says_what_it_trains(self) -> Self:
        if self.prompt is None and self.dataset.captions is None:
            raise ValueError("has no captions; give a prompt for all pictures, or dataset.captions")
        if self.prompt is not None:
            _check_fields(self.prompt, "prompt", {"trigger", "caption"})
        return self


class ValidationSpec(_Plain):
    """Validation pictures during the training, all generated from the same noise."""

    prompts: Annotated[tuple[Text, ...], Field(min_length=1)]
    every: Count
    seed: Seed = 0
    steps: Annotated[int, Field(strict=True, ge=1, le=150)] = 25
    guidance_scale: NotNegative = 5.0

    @field_validator("prompts")
    @classmethod
    def _known_fields(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in prompts:
            _check_fields(prompt, "a prompt", {"trigger"})
        return prompts


class JudgeSpec(_Plain):
    """Scores of checkpoints under the policy; the checkpoint with the best score is the adapter.

    A score is computed every `every` steps and after the last step. The training ends early after
    `patience` scores without a better one; without `patience`, it does not end early.
    """

    every: Count
    patience: Count | None = None


class CheckpointSpec(_Plain):
    """The interval of checkpoints in steps, and the number of checkpoints to keep.

    Without `judge`, the state after the last step is the adapter.
    """

    every: Count = 100
    keep: Count = 2
    judge: JudgeSpec | None = None


class WandbSpec(_Plain):
    """Tracking in Weights & Biases, in addition to MLflow."""

    project: Text
    mode: Literal["online", "offline"] = "online"


class TrackingSpec(_Plain):
    """The tracking services of a run."""

    mlflow: Annotated[bool, Field(strict=True)] = True
    wandb: WandbSpec | None = None


class _Written(_Plain):
    """The content of a recipe file."""

    adapter: AdapterName
    base: BaseSpec
    trigger: str = ""
    class_: Annotated[Noun | None, Field(alias="class")] = None  # of the subject, such as "cat"
    # A folder, relative to the recipe's folder, with pictures of other members of the class: the
    # subject must not be taken for one of them. They are not trained on.
    look_alikes: Text | None = None
    styles: dict[Text, Text] = {}
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    validation: ValidationSpec | None = None
    checkpoint: CheckpointSpec = CheckpointSpec()
    gates: Gates = {}
    tracking: TrackingSpec = TrackingSpec()

    @field_validator("styles")
    @classmethod
    def _styles_hold_a_prompt(cls, styles: dict[str, str]) -> dict[str, str]:
        for name, template in styles.items():
            _check_fields(template, f"style {name}", {"prompt"})
            if "{prompt}" not in template:
                raise ValueError(
                    f"style {name} must contain {{prompt}}, the place of the user's prompt"
                )
        return styles

    @model_validator(mode="after")
    def _trigger_is_there(self) -> Self:
        prompts = [stage.prompt or "" for stage in self.stages]
        prompts += self.validation.prompts if self.validation else ()
        using = [prompt for prompt in prompts if "{trigger}" in prompt]
        if using and not self.trigger.strip():
            raise ValueError(f"trigger is empty, but the prompt {using[0]!r} uses it; set trigger")
        return self

    @model_validator(mode="after")
    def _class_fits(self) -> Self:
        if self.class_ is None:
            if self.trigger.strip():
                raise ValueError(
                    f"class is missing; name the class of {self.trigger!r}, such as `class: cat`"
                )
            return self
        check_trigger(self.trigger, self.class_)
        for number, stage in enumerate(self.stages):
            if stage.prior is not None:
                check_prior(stage.prior.prompt, self.class_, f"stages.{number}.prior.prompt")
        return self


class Places(_Plain):
    """The local folders of a recipe's fetched inputs, the datasets by stage."""

    base: Path
    vae: Path | None = None
    datasets: tuple[Path, ...]
    look_alikes: Path | None = None


class Recipe(_Written):
    """A recipe: the training of one adapter."""

    # Local folders (of the recipe, and of fetched inputs) are not part of the content.
    folder: Path = Field(default=Path(), exclude=True)
    places: Places | None = Field(default=None, exclude=True)

    @classmethod
    def load(cls, path: Path) -> "Recipe":
        """Read a recipe. Raises RecipeError with file, line and key of each mistake.

        In `adapters/`, the recipe must be the only one of its adapter.
        """
        path = Path(path)
        written = yaml_model.load(path, _Written, RecipeError)
        _refuse_twin(path, written.adapter)
        return cls.model_validate({**written.model_dump(), "folder": path.parent})

    @classmethod
    def parse(cls, data: bytes, source: str) -> "Recipe":
        """Parse the output of `to_json`; `source` names it in errors. Raises RecipeError."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise RecipeError(f"{source}: {summary(error)}") from error

    def to_json(self, *, placed: bool = False) -> str:
        """Return the content and the defaults as JSON; `placed` adds the local folders."""
        content = self.model_dump(mode="json")
        if placed:
            places = self.places.model_dump(mode="json") if self.places else None
            content |= {"folder": str(self.folder), "places": places}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the content."""
        return digest_json(self.model_dump(mode="json"))

    def dataset_folder(self, stage: Stage) -> Path:
        """Return the folder of a stage's pictures."""
        if self.places is not None:
            return self.places.datasets[self.stages.index(stage)]
        return self.folder / Path(stage.dataset.path).expanduser()

    @property
    def look_alikes_folder(self) -> Path | None:
        """The folder of the look-alikes, None if the recipe names none."""
        if self.look_alikes is None:
            return None
        if self.places is not None:
            return self.places.look_alikes
        return self.folder / Path(self.look_alikes).expanduser()

    @property
    def base_here(self) -> BaseSpec:
        """The base to load: the fetched folder, or the base that the recipe names."""
        if self.places is None:
            return self.base
        vae = self.places.vae
        return BaseSpec(model=str(self.places.base), vae=None if vae is None else str(vae))

    def fill(self, template: str, caption: str = "") -> str:
        """Fill the placeholders of a prompt, and remove the extra blanks of empty ones."""
        text = template.replace("{trigger}", self.trigger).replace("{caption}", caption)
        return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))


def _refuse_twin(path: Path, name: str) -> None:
    """Raise RecipeError if another folder of `adapters/` has a recipe of the same adapter."""
    folder = path.absolute().parent
    if folder.parent.name != ADAPTERS or path.name != RECIPE:
        return
    for other in sorted(folder.parent.glob(f"*/{RECIPE}")):
        if other.parent != folder and _adapter_of(other) == name:
            raise RecipeError(
                f"{path}: {other} is also a recipe of adapter {name}; rename or remove one"
            )


def _adapter_of(path: Path) -> object:
    """Return the adapter that a recipe names, even if other parts of it are invalid."""
    try:
        return yaml_text.mapping(path.read_bytes()).get("adapter")
    except OSError:
        return None


def _check_fields(template: str, label: str, known: set[str]) -> None:
    """Raise ValueError if a template has an unknown placeholder."""
    try:
        fields = {
            field for _, field, _, _ in string.Formatter().parse(template) if field is not None
        }
    except ValueError as error:
        raise ValueError(f"{label} {template!r}: {error}") from None
    if fields - known:
        wrong = ", ".join(f"{{{name}}}" for name in sorted(fields - known))
        right = ", ".join(f"{{{name}}}" for name in sorted(known))
        raise ValueError(f"{label} has {wrong}; known placeholders are {right}")
