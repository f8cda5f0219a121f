"""Runs an evaluation: renders pictures and measures them until the verdict is decided."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.adapter.package import Package
from atelier.data.manifest import Manifest
from atelier.data.policy import Gates, Policy
from atelier.data.recipe import Recipe
from atelier.errors import PolicyError
from atelier.files import locked, write_atomic
from atelier.stores.registry import Registry

from .evaluation import FILE, REPORT, SHEET, Evaluation, Measures, SamplingSettings
from .gates import limits, verdict
from .look_alikes import registered_look_alikes
from .measures import Pair, ReferenceSet, measure
from .prompt_set import PICTURES, prompt_set, require_prompts
from .references import reference_set
from .renderer import Progress, Renderer, save
from .report import EvaluationReport
from .scorers import Scorers
from .sheet import contact_sheet

_UNDER_TEST = 0  # versions in MLflow start at 1, so this number replaces no serving version

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
    gates: Gates | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    all_seeds: bool = False,
    registry: Registry | None = None,
    companions: Sequence[Package] = (),
) -> Evaluation:
    """Evaluate `package` on `base`; write the result into `output`.

    The files are evaluation.json, sheet.png, report.html and the folder pictures.

    - `training_pictures`: the recipe or the folder of the pictures that the package was trained on;
      their digest must be the dataset digest of the manifest. The pictures that the manifest lists
      as held back are the references
    - `gates` (by default the gates of the recipe): may only tighten the policy
    - `vae` (by default the VAE of the recipe): replaces the VAE of the base
    - `engine`: its base and VAE are used; without one, an engine is loaded from the process's
      ATELIER_* settings
    - `cache`: a folder that keeps the base's pictures between evaluations
    - `registry`: pictures of other adapters of the class, as look-alikes
    - `companions`: the packages of `policy.companions_of` the adapter, for the gate `together`
    - `all_seeds`: draw all seeds of the policy, even if fewer decide (for a calibration)

    Raises BadInput (PolicyError, DatasetError) if the gates loosen the policy, the adapter has a
    trigger but no class, the package was not trained on the pictures, or a scorer cannot be loaded.
    """
    progress = progress or _silent
    tightening = _tightening(training_pictures, gates)
    limits(policy.tightened(tightening).gates)  # fail before the first picture is rendered
    require_prompts(policy, package.manifest)
    _require_companions(policy, package, companions)
    references = reference_set(package.manifest, training_pictures)
    if registry is not None:
        others = registered_look_alikes(registry, package.manifest)
        references = replace(references, look_alikes=(*references.look_alikes, *others))
    with (
        _engine(base, vae, training_pictures, engine) as running,
        loaded(running, package) as adapter,
        ExitStack() as stack,
    ):
        beside = tuple(stack.enter_context(loaded(running, one)) for one in companions)
        progress("loading the scorers", 0, 1)
        scorers = Scorers(policy.scorers.model_dump(), str(running.base.device))
        rendered_by = (running.base.vae_digest, running.backend, running.digest)
        renderer = Renderer(running, policy, cache, progress)
        pairs: list[Pair] = []
        for seeds in policy.seeds.looks[-1:] if all_seeds else policy.seeds.looks:
            pairs = _extended(pairs, renderer, package, (adapter, *beside), seeds)
            progress("measuring", 0, 1)
            measures = measure(pairs, references, scorers, scorers.optional)
            measured = _document(package, policy, rendered_by, scorers, measures, tightening)
            result = verdict(measured, policy)
            progress("measuring", 1, 1)
            if result.decision != "undecided":
                break
    evaluation = measured.model_copy(
        update={"gates": result.gates, "decision": result.decision, "reasons": result.reasons}
    )
    _write(evaluation, package.manifest, pairs, references, output)
    return evaluation


def _require_companions(policy: Policy, package: Package, companions: Sequence[Package]) -> None:
    """Raise PolicyError unless `companions` are those of the policy, for the package's base."""
    manifest = package.manifest
    labels = policy.companions_of(manifest.name)
    given = [one.manifest.name for one in companions]
    if [label.partition("@")[0] for label in labels] != given:
        raise PolicyError(f"companions: the policy names {', '.join(labels)}; got {given}")
    for label, one in zip(labels, companions, strict=True):
        if one.manifest.base.digest != manifest.base.digest:
            raise PolicyError(
                f"companions: {label} is for another base than {manifest.name}; name an adapter of "
                "the same base"
            )


def _extended(
    pairs: Sequence[Pair],
    renderer: Renderer,
    package: Package,
    adapters: "Sequence[AdapterUse]",
    seeds: int,
) -> list[Pair]:
    """Render the seeds that are not in `pairs`, and return all pairs in the order of the policy.

    `adapters` are the evaluated one and its companions.
    """
    manifest = package.manifest
    cases = prompt_set(
        renderer.policy, trigger=manifest.trigger, noun=manifest.noun, seeds=range(seeds)
    )
    known = {pair.case: pair for pair in pairs}
    new = [case for case in cases if case not in known]
    known |= dict(zip(new, renderer.pairs(new, adapters[0], tuple(adapters[1:])), strict=True))
    return [known[case] for case in cases]


def _silent(doing: str, done: int, total: int) -> None:
    """Report nothing."""


def _tightening(source: Recipe | Path, gates: Gates | None) -> Gates:
    if gates is None and isinstance(source, Recipe):
        gates = source.gates
    return dict(gates or {})


def _document(
    package: Package,
    policy: Policy,
    rendered_by: tuple[str | None, str, str],  # VAE digest, backend, engine digest
    scorers: Scorers,
    measures: Measures,
    tightening: Gates,
) -> Evaluation:
    """Return the measurements as a document without a verdict."""
    manifest = package.manifest
    return Evaluation(
        adapter=manifest.name,
        digest=package.digest,
        base=manifest.base.digest,
        vae=rendered_by[0],
        policy=policy.digest,
        backend=rendered_by[1],
        engine_digest=rendered_by[2],
        scorers=scorers.names,
        scorer_digests=scorers.digests,
        trigger=manifest.trigger,
        noun=manifest.noun,
        companions=policy.companions_of(manifest.name),
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
    """Yield the caller's engine, or a new one that is closed at the end."""
    if engine is not None:
        yield engine
        return
    from services.engine import Engine, EngineSettings, load_base  # imports torch

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
def loaded(engine: "Engine", package: Package) -> Iterator["AdapterUse"]:
    """Add the adapter to the engine while its pictures are rendered."""
    from services.engine import AdapterUse

    name = package.manifest.name
    engine.adapters.add(package, _UNDER_TEST)
    try:
        yield AdapterUse(name, _UNDER_TEST)
    finally:
        engine.adapters.remove(name, _UNDER_TEST)


def _write(
    evaluation: Evaluation,
    manifest: Manifest,
    pairs: Sequence[Pair],
    references: ReferenceSet,
    output: Path,
) -> None:
    """Remove an older evaluation, then write the files, evaluation.json last.

    The document therefore names only files that exist. A lock on the folder keeps the pictures of
    two evaluations from mixing.
    """
    page = EvaluationReport(evaluation, manifest, pairs, references).html()
    with locked(output / ".lock"):
        (output / FILE).unlink(missing_ok=True)
        shutil.rmtree(output / PICTURES, ignore_errors=True)
        for pair in pairs:
            save(pair.adapter, output / pair.case.file)
            save(pair.base, output / pair.case.base_file)
            if pair.together is not None:
                save(pair.together, output / pair.case.together_file)
        save(contact_sheet(evaluation, pairs, references.training), output / SHEET)
        write_atomic(output / REPORT, page)
        evaluation.write(output)
