"""Judging an adapter, start to end: make the pictures, measure them, work out the verdict."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from atelier.adapter.package import Package
from atelier.data.policy import Gates, Policy
from atelier.data.recipe import Recipe
from atelier.files import locked

from .evaluation import FILE, SHEET, Evaluation, Measures, SamplingSettings
from .gates import limits, verdict
from .measures import Pair, measure
from .prompt_set import PICTURES, class_noun, prompt_set
from .references import compared
from .renderer import Progress, Renderer, save
from .scorers import Scorers
from .sheet import contact_sheet

_UNDER_TEST = 0  # a version that no registry gives, so nothing that serves is replaced

if TYPE_CHECKING:
    from services.engine import AdapterUse, Engine


def evaluate(
    package: Package,
    policy: Policy,
    *,
    base: str | Path,
    vae: str | None = None,
    training_pictures: Recipe | Path,
    output: Path,
    engine: "Engine | None" = None,
    held_back: Path | None = None,
    gates: Gates | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge `package` on `base`, writing evaluation.json, sheet.png and pictures/ into `output`.

    `training_pictures` are those the package was trained on, whose digest its manifest names: the
    recipe, or their folder. `gates` (a recipe's own where a recipe is given) may only tighten the
    policy. `vae` (by default the recipe's) replaces the base's own. `held_back` is a folder of
    pictures of the subject that training never saw. Without an `engine` one is loaded by this
    process's ATELIER_* settings, else base and VAE are that one's. `cache` keeps the base's
    pictures between verdicts.
    """
    progress = progress or _silent
    tightening = _tightening(training_pictures, gates)
    limits(policy.tightened(tightening).gates)  # what cannot be judged ends before any picture
    against = compared(package.manifest, training_pictures, held_back)
    noun = class_noun(package.manifest)
    asked = prompt_set(policy, trigger=package.manifest.trigger, noun=noun)
    with (
        _engine(base, vae, training_pictures, engine) as running,
        _loaded(running, package) as adapter,
    ):
        progress("loading the scorers", 0, 1)
        scorers = Scorers(policy.scorers.model_dump(), str(running.base.device))
        pairs = Renderer(running, policy, cache, progress).pairs(asked, adapter)
        made_by = (running.base.vae_digest, running.backend, running.digest)
    progress("measuring", 0, 1)
    measures = measure(pairs, against, scorers)
    measured = _document(package, policy, noun, made_by, scorers, measures, tightening)
    said = verdict(measured, policy)
    evaluation = measured.model_copy(
        update={"gates": said.gates, "accepted": said.accepted, "reasons": said.reasons}
    )
    _write(evaluation, pairs, against.training, output)
    progress("measuring", 1, 1)
    return evaluation


def _silent(doing: str, done: int, total: int) -> None:
    """Nobody watches."""


def _tightening(source: Recipe | Path, gates: Gates | None) -> Gates:
    if gates is None and isinstance(source, Recipe):
        gates = source.gates
    return dict(gates or {})


def _document(
    package: Package,
    policy: Policy,
    noun: str,
    made_by: tuple[str | None, str, str],
    scorers: Scorers,
    measures: Measures,
    tightening: Gates,
) -> Evaluation:
    """All that was measured, without a verdict yet."""
    manifest = package.manifest
    return Evaluation(
        adapter=manifest.name,
        digest=package.digest,
        base=manifest.base.digest,
        vae=made_by[0],
        policy=policy.digest,
        backend=made_by[1],
        engine_digest=made_by[2],
        scorers=scorers.names,
        scorer_digests=scorers.digests,
        trigger=manifest.trigger,
        noun=noun,
        sampling=SamplingSettings(
            scheduler=policy.scheduler, steps=policy.steps, guidance_scale=policy.guidance_scale
        ),
        recipe_gates=dict(tightening),
        measures=measures,
    )


@contextmanager
def _engine(
    base: str | Path, vae: str | None, source: Recipe | Path, engine: "Engine | None"
) -> Iterator["Engine"]:
    """The caller's engine, left as it is, or one of our own that ends with the verdict."""
    if engine is not None:
        yield engine
        return
    from services.engine import Engine, EngineSettings, load_base  # torch: only where it is needed

    named = source.base if isinstance(source, Recipe) else None
    same = named is not None and named.model == str(base)
    settings = EngineSettings.read()
    own = Engine(
        load_base(
            base,
            revision=named.revision if named and same else None,
            vae=vae or (named.vae if named else None),
            device=settings.torch_device(),
            dtype=settings.torch_dtype(),
        ),
        settings,
    )
    try:
        yield own
    finally:
        own.close()


@contextmanager
def _loaded(engine: "Engine", package: Package) -> Iterator["AdapterUse"]:
    """The adapter on the engine for as long as its pictures are made."""
    from services.engine import AdapterUse

    name = package.manifest.name
    engine.adapters.add(package, _UNDER_TEST)
    try:
        yield AdapterUse(name, _UNDER_TEST)
    finally:
        engine.adapters.remove(name, _UNDER_TEST)


def _write(
    evaluation: Evaluation, pairs: Sequence[Pair], training: Sequence[Image.Image], output: Path
) -> None:
    """Remove an older verdict first and write evaluation.json last: it names only what is there.

    Verdicts that are written into one folder wait for each other, so their pictures never mix.
    """
    with locked(output / ".lock"):
        (output / FILE).unlink(missing_ok=True)
        shutil.rmtree(output / PICTURES, ignore_errors=True)
        for pair in pairs:
            save(pair.adapter, output / pair.shot.file)
            save(pair.base, output / pair.shot.base_file)
        save(contact_sheet(evaluation, pairs, training), output / SHEET)
        evaluation.write(output)
