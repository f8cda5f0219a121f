"""Reads what a comparison needs of a run, from its folder or from the registry."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from atelier.adapter.package import MANIFEST, Package
from atelier.data.manifest import Manifest
from atelier.errors import BadInput
from atelier.home import Home
from atelier.stores import packages
from atelier.stores.packages import ResolvedAdapter
from atelier.stores.registry import Registry, VersionInfo
from pipelines.evaluate import FILE, Evaluation
from pipelines.train.tracking.tracker import ABOUT, LOG

LOSS: Final = "loss"
JUDGED: Final = "judge/"  # prefix of the metrics of checkpoints that were judged while training
SEED: Final = "train.seed"
# Recipe keys that have no effect on the weights.
_BESIDE: Final = (SEED, "tracking.")
_LINEAGE: Final = {
    "atelier.base": "base digest",
    "atelier.dataset": "dataset digest",
    "atelier.git_commit": "commit",
}


@dataclass(frozen=True)
class Series:
    """The values of one metric by step."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunRecord:
    """A training run, as far as it is known.

    `params` are the keys of the recipe, flattened, as text. A package without its run has only the
    keys of its manifest. `lineage` has the digests of the inputs. `adapter` is None if the run has
    not finished.
    """

    label: str
    params: Mapping[str, str]
    lineage: Mapping[str, str]
    metrics: Mapping[str, Series]
    adapter: ResolvedAdapter | None
    evaluations: tuple[Evaluation, ...] = ()
    version: VersionInfo | None = None

    @property
    def seed(self) -> str | None:
        """The seed of the training; None if the run is unknown."""
        return self.params.get(SEED)

    @property
    def recipe(self) -> Mapping[str, str] | None:
        """What two repeats have in common: recipe without its seed, base and dataset.

        None if the run is unknown: a manifest does not contain the whole recipe.
        """
        if self.seed is None:
            return None
        inputs = {key: self.lineage.get(key, "") for key in ("base digest", "dataset digest")}
        return inputs | {
            key: value for key, value in self.params.items() if not key.startswith(_BESIDE)
        }

    def with_label(self, label: str) -> "RunRecord":
        """Return the run under another label."""
        return replace(self, label=label)


def run_in_folder(folder: Path) -> RunRecord:
    """Read the run of a run folder, or of the folder of a package.

    Raises BadInput if it is neither, and AdapterRejected if the package is damaged.
    """
    if (folder / MANIFEST).is_file():
        run = folder.absolute().parent if (folder.absolute().parent / ABOUT).is_file() else None
        return _local(run, ResolvedAdapter(Package.open(folder)), folder.absolute().parent)
    if not (folder / ABOUT).is_file():
        raise BadInput(
            f"{folder}: neither a run folder (with {ABOUT}) nor a package (with {MANIFEST}); give "
            "the output folder of `atelier train`, a package, or NAME@VERSION"
        )
    finished = folder / "package"
    adapter = ResolvedAdapter(Package.open(finished)) if finished.is_dir() else None
    return _local(folder, adapter, folder)


def registered_run(registry: Registry, home: Home, info: VersionInfo) -> RunRecord:
    """Read the run of a registered version, with its package, curves and evaluations.

    Raises Unavailable if the registry cannot be reached.
    """
    adapter = ResolvedAdapter(packages.fetched(registry, home, info), info.version)
    names = [name for name in registry.run(info.run_id).metrics if _is_shown(name)]
    return replace(
        version_record(registry, info),
        label=adapter.label,
        metrics={name: _history(registry, info.run_id, name) for name in names},
        adapter=adapter,
        evaluations=attested(registry, info),
    )


def version_record(registry: Registry, info: VersionInfo) -> RunRecord:
    """Read the recipe and the inputs of a version."""
    run = registry.run(info.run_id)
    trained = SEED in run.params
    return RunRecord(
        label=info.label,
        params=run.params if trained else manifest_params(registry.manifest(info)),
        lineage=_lineage({**info.tags, **run.tags}),
        metrics={},
        adapter=None,
        version=info,
    )


def attested(registry: Registry, info: VersionInfo) -> tuple[Evaluation, ...]:
    """Return the newest evaluation of a version under each policy."""
    files = [name for name in registry.attestations(info) if name.endswith(FILE)]
    newest: dict[str, Evaluation] = {}
    for name in sorted(files, key=len):  # FILE itself, the shortest name, is the newest
        data = registry.attestation(info, name) or b""
        found = Evaluation.parse(data, f"{name} of {info.label}")
        if found.digest == info.digest:
            newest.setdefault(found.policy, found)
    return tuple(newest.values())


def labelled(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Return the runs with labels that are all different: equal ones get a letter in front."""
    runs = list(runs)
    labels = [run.label for run in runs]
    return [
        run.with_label(f"{chr(ord('A') + index)}: {run.label}")
        if labels.count(run.label) > 1
        else run
        for index, run in enumerate(runs)
    ]


def manifest_params(manifest: Manifest) -> dict[str, str]:
    """Return the keys of the recipe that a manifest contains."""
    known = {
        "adapter": manifest.name,
        "base.model": manifest.base.id,
        "trigger": manifest.trigger,
        "class": manifest.noun or None,
        "lora.rank": manifest.rank,
        "lora.alpha": manifest.alpha,
        "lora.targets": list(manifest.targets),
    }
    return {key: str(value) for key, value in known.items() if value not in (None, "", [])}


def _local(run: Path | None, adapter: ResolvedAdapter | None, beside: Path) -> RunRecord:
    """Return the run of a folder; `beside` is the folder in which its evaluation is."""
    events = _events(run / LOG) if run else []
    params = {key: str(value) for event in _of("params", events) for key, value in event.items()}
    lineage = _lineage({k: v for event in _of("tags", events) for k, v in event.items()})
    if adapter is not None:
        manifest = adapter.package.manifest
        params = params or manifest_params(manifest)
        lineage = _from_manifest(manifest) | lineage
    file = beside / "evaluation" / FILE
    return RunRecord(
        label=adapter.label if adapter and not run else beside.absolute().name,
        params=params,
        lineage=lineage,
        metrics=_series(_of("metrics", events)),
        adapter=adapter,
        evaluations=(Evaluation.load(file),) if _is_of(file, adapter) else (),
    )


def _is_of(file: Path, adapter: ResolvedAdapter | None) -> bool:
    """Return whether the evaluation exists and is of this package, not of an earlier one."""
    if adapter is None or not file.is_file():
        return False
    return Evaluation.load(file).digest == adapter.package.digest


def _events(log: Path) -> list[dict[str, Any]]:
    """Return the events of a journal; the last line of a run in progress may be incomplete."""
    if not log.is_file():
        return []
    lines = log.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _of(kind: str, events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [event["data"] for event in events if event["kind"] == kind]


def _series(events: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    points: dict[str, dict[int, float]] = {}
    for event in events:
        for name, value in event["values"].items():
            if _is_shown(name):
                points.setdefault(name, {})[event["step"]] = value
    return {name: Series(tuple(of), tuple(of.values())) for name, of in points.items()}


def _history(registry: Registry, run_id: str, name: str) -> Series:
    points = {point.step: point.value for point in registry.history(run_id, name)}
    return Series(tuple(points), tuple(points.values()))


def _is_shown(metric: str) -> bool:
    return metric == LOSS or metric.startswith(JUDGED)


def _lineage(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: tags[tag] for tag, name in _LINEAGE.items() if tag in tags}


def _from_manifest(manifest: Manifest) -> dict[str, str]:
    known = {
        "base digest": manifest.base.digest,
        "dataset digest": manifest.dataset,
        "commit": manifest.git_commit,
    }
    return {key: value for key, value in known.items() if value}
