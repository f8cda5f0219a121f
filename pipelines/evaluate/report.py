"""The report of an evaluation: one HTML page without links, which also fits on a phone."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import groupby
from typing import Final

from PIL import Image

from atelier.data.manifest import Manifest
from atelier.data.policy import Measure

from .bar import GateBar
from .evaluation import Evaluation, GateResult, Measured
from .measure_info import MEASURES, MeasureInfo
from .measures import Pair, ReferenceSet
from .prompt_set import Role
from .worst import by_severity, prompts

SIDE: Final = 320  # pixels of the longest side of a picture in the page
QUALITY: Final = 85  # of its JPEG
WORST: Final = 2  # pictures of each measure
SEEDS: Final = 2  # pictures of each prompt
TRAINING: Final = 24  # training pictures


@dataclass(frozen=True)
class Figure:
    """A picture with another one for comparison, and a caption."""

    picture: str  # data URI, as all pictures here
    other: str | None
    other_name: str  # caption of `other`
    caption: str
    note: str = ""


@dataclass(frozen=True)
class GateLine:
    """One limit of a measure, with the positions on its bar."""

    gate: GateResult
    bar: GateBar

    @property
    def tone(self) -> str:
        """The colour class: good, close or bad."""
        if self.gate.state == "failed":
            return "bad"
        return "close" if self.gate.notable else "good"


@dataclass(frozen=True)
class MeasureCard:
    """All limits of a measure, its explanation and its worst pictures."""

    name: Measure
    info: MeasureInfo
    lines: Sequence[GateLine]
    ceiling: float | None
    figures: Sequence[Figure]


@dataclass(frozen=True)
class EvaluationReport:
    """The contents of the page."""

    evaluation: Evaluation
    manifest: Manifest
    pairs: Sequence[Pair]
    references: ReferenceSet

    def html(self) -> str:
        """Render the page."""
        from jinja2 import Environment, StrictUndefined

        source = files("pipelines.evaluate").joinpath("report.html.j2").read_text("utf-8")
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        return environment.from_string(source).render(report=self, evaluation=self.evaluation)

    @property
    def tone(self) -> str:
        """The colour class of the decision."""
        return {"accepted": "good", "undecided": "close"}.get(self.evaluation.decision, "bad")

    @property
    def seeds(self) -> int:
        """The number of pictures of each prompt."""
        return len({measured.seed for measured in self.evaluation.measures.pictures})

    def cards(self) -> list[MeasureCard]:
        """Return one card for each measure, those with failed gates first."""
        ordered = by_severity(self.evaluation.gates)
        names = dict.fromkeys(gate.name for gate in ordered)
        return [self._card(name, [g for g in ordered if g.name == name]) for name in names]

    def subject(self) -> list[Figure]:
        """Return the first picture of each prompt of the subject."""
        return self._first("subject")

    def plain(self) -> list[Figure]:
        """Return the worst pictures of each prompt of the class."""
        groups = prompts(self.pairs, self.evaluation, "class")
        return [self._figure(pair) for group in groups for pair in group[:SEEDS]]

    def training(self) -> list[tuple[str, str]]:
        """Return the training pictures with their names."""
        shown = zip(self.references.training_names, self.references.training, strict=True)
        return [(name, data_uri(image)) for name, image in list(shown)[:TRAINING]]

    def lineage(self) -> list[tuple[str, str]]:
        """Return the inputs of the adapter and of the evaluation."""
        manifest, evaluation = self.manifest, self.evaluation
        sampling = evaluation.sampling
        scorers = ", ".join(f"{role}: {name}" for role, name in evaluation.scorers.items())
        facts = [
            ("package", evaluation.digest),
            ("base", f"{manifest.base.id} {evaluation.base}"),
            ("VAE", evaluation.vae),
            ("recipe", manifest.recipe),
            ("dataset", manifest.dataset),
            ("git commit", manifest.git_commit),
            ("policy", evaluation.policy),
            ("scorers", scorers),
            ("companions", ", ".join(evaluation.companions)),
            ("look-alikes", ", ".join(evaluation.measures.references.look_alikes)),
            ("engine", f"{evaluation.backend} {evaluation.engine_digest}"),
            ("scheduler", f"{sampling.scheduler}, {sampling.steps} steps"),
            ("guidance scale", f"{sampling.guidance_scale:g}"),
        ]
        return [(name, value) for name, value in facts if value]

    def _card(self, name: Measure, gates: Sequence[GateResult]) -> MeasureCard:
        likeness = self.evaluation.measures.references.likeness.get(name)
        return MeasureCard(
            name=name,
            info=MEASURES[name],
            lines=[
                GateLine(gate, GateBar.of(gate, None if "delta" in gate.kind else likeness))
                for gate in gates
            ],
            ceiling=likeness,
            figures=[self._worst(name, file) for file in self._bad(gates[0])[:WORST]],
        )

    def _bad(self, gate: GateResult) -> Sequence[str]:
        """Return the pictures of a gate, the worst first; of a rate, only the bad ones."""
        info = MEASURES[gate.name]
        if not info.rate:
            return gate.pictures
        bad = 1.0 if info.better == "lower" else 0.0
        values = {
            file: measured.values[gate.name]
            for file, measured in self._measured.items()
            if gate.name in measured.values
        }
        return [file for file in gate.pictures if values[file] == bad]

    def _worst(self, name: Measure, file: str) -> Figure:
        """Return the figure of a picture that a gate names: a pair, or a reference picture."""
        if MEASURES[name].role is None:
            image = self.references.references[self.references.reference_names.index(file)]
            return Figure(data_uri(image), None, "", file)
        return self._figure(self._pairs[file], name)

    def _figure(self, pair: Pair, name: Measure | None = None) -> Figure:
        measured = self._measured[pair.case.file]
        other, other_name = pair.base, "base"
        if name == "copying" and measured.nearest is not None:
            index = self.references.training_names.index(measured.nearest)
            other, other_name = self.references.training[index], "training picture"
        if name == "together" and pair.together is not None:
            other, other_name = pair.together, "beside the companions"
        return Figure(
            picture=data_uri(pair.adapter),
            other=data_uri(other),
            other_name=other_name,
            caption=f"{pair.case.prompt}, seed {pair.case.seed}",
            note=_note(measured, name) if name else "",
        )

    def _first(self, role: Role) -> list[Figure]:
        of_role = [pair for pair in self.pairs if pair.case.role == role]
        groups = groupby(of_role, key=lambda pair: pair.case.number)
        return [self._figure(next(group)) for _, group in groups]

    @cached_property
    def _pairs(self) -> Mapping[str, Pair]:
        return {pair.case.file: pair for pair in self.pairs}

    @cached_property
    def _measured(self) -> Mapping[str, Measured]:
        return {measured.picture: measured for measured in self.evaluation.measures.pictures}


def _note(measured: Measured, name: Measure) -> str:
    if name == "retrieval" and measured.look_alike is not None:
        return f"taken for {measured.look_alike}"
    text = f"{name} {measured.values[name]:.3f}"
    base = measured.base_values.get(name)
    return text if base is None else f"{text}, base {base:.3f}"


def data_uri(image: Image.Image) -> str:
    """Return a small JPEG of an image as a data URI."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    small.save(data, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
