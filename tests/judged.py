"""For tests of verdicts and promotions: numbers without pictures, scorers without training."""

from pathlib import Path

from PIL import Image

from atelier.data.policy import Policy
from pipelines.evaluate import REPORT, SHEET, Evaluation
from pipelines.evaluate.evaluation import (
    Measured,
    Measures,
    Reference,
    References,
    SamplingSettings,
)
from pipelines.evaluate.prompt_set import prompt_set

DIGEST = "sha256:" + "a" * 64
TRIGGER, NOUN = "sks cat", "cat"


def policy(**changes: object) -> Policy:
    said = {
        "scorers": {"clip": "scorers/clip", "dino": "scorers/dino"},
        "seeds": {"first": 2, "most": 2},
        "prompts": {"subject": ["{trigger} on the beach"], "unrelated": ["a red robot"]},
        "steps": 10,
        "gates": {
            "subject": {"min": 0.6},
            "text": {"min_delta": -0.03},
            "drift": {"max": 0.25},
            "copying": {"max": 0.9},
            "effect": {"min": 0.01},
        },
    }
    return Policy.model_validate(said | changes)


GOOD = {"subject": 0.8, "text": 0.3, "copying": 0.5, "effect": 0.1, "diversity": 0.2}
OFF = {"subject": 0.4, "text": 0.31, "diversity": 0.7}  # of the base
OF_ROLE = {"class": {"class_drift": 0.1, "leak": 0.0}, "unrelated": {"drift": 0.1}}


def evaluation(
    under: Policy, *, subject: dict[str, float] = GOOD, seeds: int | None = None, **changes: object
) -> Evaluation:
    pictures = []
    count = range(seeds or under.seeds.first)
    for shot in prompt_set(under, trigger=TRIGGER, noun=NOUN, seeds=count):
        pictures.append(
            Measured(
                role=shot.role,
                prompt=shot.prompt,
                seed=shot.seed,
                picture=shot.file,
                base_picture=shot.base_file,
                values=OF_ROLE.get(shot.role, subject),
                base_values=OFF if shot.role == "subject" else {},
            )
        )
    said = {
        "adapter": "thor-cat",
        "digest": DIGEST,
        "base": DIGEST,
        "policy": under.digest,
        "backend": "torch",
        "engine_digest": "engine",
        "scorers": under.scorers.model_dump(),
        "scorer_digests": {},
        "trigger": TRIGGER,
        "noun": NOUN,
        "sampling": SamplingSettings(
            scheduler=under.scheduler, steps=under.steps, guidance_scale=under.guidance_scale
        ),
        "measures": Measures(
            pictures=tuple(pictures),
            references=References(
                digest=DIGEST,
                pictures=tuple(
                    Reference(file=f"{name}.png", values={"consistency": 0.9}) for name in "abc"
                ),
                held_back=False,
            ),
        ),
    }
    return Evaluation.model_validate(said | changes)


def replaced(one: Evaluation, index: int, **values: float) -> Evaluation:
    """The evaluation with some numbers of one picture changed."""
    pictures = list(one.measures.pictures)
    pictures[index] = pictures[index].model_copy(update={"values": pictures[index].values | values})
    measures = one.measures.model_copy(update={"pictures": tuple(pictures)})
    return one.model_copy(update={"measures": measures})


def drawn(one: Evaluation, folder: Path, colour: tuple[int, int, int] = (0, 0, 0)) -> Evaluation:
    """The evaluation, with the files that it names in `folder`: pictures of one colour."""
    plain = Image.new("RGB", (64, 64), colour)
    for file in (SHEET, *(picture.picture for picture in one.measures.pictures)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        plain.save(folder / file)
    (folder / REPORT).write_text("<!doctype html><title>an evaluation</title>")
    return one


SCORED = 32  # pixels, each way, that the tiny scorers look at


def tiny_scorers(folder: Path, tokenizer_folder: Path) -> dict[str, str]:
    """A random CLIP and a random ViT, saved as a policy's real ones are; their names for it."""
    import torch
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPTokenizer,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = small | {"image_size": SCORED, "patch_size": 8}
    text = small | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
        dino = ViTModel(ViTConfig(**vision), add_pooling_layer=False)
    size = {"height": SCORED, "width": SCORED}
    clip.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder / "clip")
    dino.save_pretrained(folder / "dino")
    ViTImageProcessor(size=size).save_pretrained(folder / "dino")
    return {"clip": str(folder / "clip"), "dino": str(folder / "dino")}
