"""`atelier score`: the CLIP score of generated or existing pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.command import Answer
from commands.terminal import hide_library_bars, progress, table

if TYPE_CHECKING:
    from atelier.data.policy import Policy
    from pipelines.evaluate.clip_score import Captioned, ClipScore


def score(
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts to generate, one a line. {trigger} and {class} are those of the adapter.",
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(metavar="ADAPTER", help="NAME[@VERSION] or FOLDER. Default: the base alone."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Base model. Default: the base of the adapter."),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures of each prompt.")] = 4,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Policy with the CLIP scorer and the settings of the pictures. Default: the "
            "built-in policy.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Score the pictures of a folder with a metadata.jsonl."),
    ] = None,
    captions: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of metadata.jsonl with the prompts.")
    ] = "text",
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the generated pictures. Default: none."),
    ] = None,
) -> Answer:
    """Compute the CLIP score of pictures, from 0 to 100.

    Generates a list of prompts, or reads a folder of pictures with their prompts.
    """
    from atelier.data.policy import Policy

    if (prompts is None) == (images is None):
        raise BadInput("score: give either --prompts FILE or --images DIR")
    operators_policy = Policy.load(policy)
    texts = _prompts(prompts) if prompts else []

    # imported after the validation of the input, because the imports are slow
    from pipelines.evaluate.clip_score import clip_score
    from pipelines.evaluate.scorers import Scorers
    from services.engine import EngineSettings

    hide_library_bars()
    if images is not None:
        captioned = _existing(images, captions)
    else:
        captioned = _generated(texts, adapter, base, seeds, operators_policy)
    device = EngineSettings.read().torch_device()
    scorers = Scorers(operators_policy.scorers.model_dump(), str(device))
    if output is not None and images is None:
        _keep(captioned, output)
    found = clip_score(captioned, scorers)
    return _answer(found, scorers.names["clip"], scorers.digests["clip"])


def _prompts(file: Path) -> list[str]:
    """Return the lines of a file that are neither empty nor comments, each once."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read ({error}); give a text file") from error
    prompts = [line for line in dict.fromkeys(lines) if line and not line.startswith("#")]
    if not prompts:
        raise BadInput(f"{file}: no prompts; write one a line")
    return prompts


def _existing(folder: Path, column: str) -> "list[Captioned]":
    """Return the pictures of a folder. Raises BadInput if one has no prompt."""
    from pipelines.dataset import open_folder, open_picture
    from pipelines.evaluate.clip_score import Captioned

    pictures = open_folder(folder, column).pictures
    without = [picture.path.name for picture in pictures if not picture.caption]
    if without:
        raise BadInput(
            f"{folder}: {', '.join(without[:3])}: no prompt; add a line with `file_name` and "
            f"`{column}` to metadata.jsonl"
        )
    return [Captioned(open_picture(picture.path), picture.caption) for picture in pictures]


def _generated(
    prompts: Sequence[str], adapter: str | None, base: str | None, seeds: int, policy: "Policy"
) -> "list[Captioned]":
    from commands.adapter_references import AdapterReference, resolve
    from pipelines.evaluate.clip_score import generated
    from services.engine.local import local_engine

    adapters = [resolve(AdapterReference.parse(adapter), Home.find())] if adapter else []
    with local_engine(adapters, base) as engine, progress() as report:
        return generated(engine, prompts, seeds, policy, report)


def _keep(captioned: "Sequence[Captioned]", folder: Path) -> None:
    """Write the pictures with a metadata.jsonl, which `--images` reads."""
    from atelier.files import write_atomic
    from pipelines.dataset.captions import FILE_NAME, METADATA
    from pipelines.evaluate.renderer import save

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, each in enumerate(captioned):
        name = f"{index:05d}-seed-{each.seed}.png"
        save(each.image, folder / name)
        lines.append(json.dumps({FILE_NAME: name, "text": each.text}, ensure_ascii=False))
    write_atomic(folder / METADATA, "\n".join(lines) + "\n")


def _answer(found: "ClipScore", clip: str, digest: str) -> Answer:
    pictures = sum(len(each.scores) for each in found.prompts)
    rows = [(f"{each.mean:.2f}", len(each.scores), each.text) for each in found.prompts]
    interval = f", 95 % interval {found.ci[0]:.2f} to {found.ci[1]:.2f}" if found.ci else ""
    lines = [
        table(("SCORE", "PICTURES", "PROMPT"), rows),
        f"CLIP score {found.mean:.2f} of 100{interval} over the {found.over}; "
        f"{len(found.prompts)} prompts, {pictures} pictures, scorer {clip}",
    ]
    data = {
        "clip_score": found.mean,
        "ci": found.ci,
        "over": found.over,
        "prompts": [
            {"prompt": each.text, "mean": each.mean, "scores": list(each.scores)}
            for each in found.prompts
        ],
        "pictures": pictures,
        "scorer": clip,
        "scorer_digest": digest,
    }
    return Answer("\n".join(lines), data)
