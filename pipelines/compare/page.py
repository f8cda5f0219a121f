"""Writes a comparison: an HTML page that needs no network, a contact sheet and the numbers."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from PIL import Image

from atelier.data.names import hex_of
from atelier.files import write_atomic

from .comparison import RunComparison
from .conclusion import Rival
from .parameters import ParameterRow
from .runs import SEED
from .scores import ScoreDifference
from .side_by_side import Pixels

PAGE, SHEET, NUMBERS = "compare.html", "sheet.png", "compare.json"
SHOWN: Final = 512  # pixels of a picture on the page; larger ones are reduced


@dataclass(frozen=True)
class Bar:
    """An interval on a line around zero: the places of its ends and of its middle, in percent."""

    left: float
    width: float
    middle: float


def write(comparison: RunComparison, folder: Path) -> None:
    """Write the page, the numbers and, if there are pictures, the contact sheet into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if comparison.sheet is not None:
        comparison.sheet.image().save(folder / SHEET)
    text = json.dumps(numbers(comparison), indent=1, ensure_ascii=False)
    write_atomic(folder / NUMBERS, text + "\n")
    write_atomic(folder / PAGE, html(comparison))


def html(comparison: RunComparison) -> str:
    """Return the page."""
    from jinja2 import Environment, StrictUndefined

    source = files("pipelines.compare").joinpath("page.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"picture": _data_uri, "short": _short}
    return environment.from_string(source).render(
        comparison=comparison,
        colour=_colours(comparison),
        seed=SEED,
        bars=_bars,
        differing=[row for row in comparison.parameters if row.differs],
        equal=[row for row in comparison.parameters if not row.differs],
    )


def numbers(comparison: RunComparison) -> dict[str, Any]:
    """Return the content of compare.json, which `--scatter` of a later comparison can read."""
    scores, sheet = comparison.scores, comparison.sheet
    return {
        "sentence": comparison.conclusion.sentence,
        "remarks": list(comparison.remarks),
        "runs": [
            {
                "label": run.label,
                "seed": run.seed,
                "digest": run.adapter.package.digest if run.adapter else None,
            }
            for run in comparison.runs
        ],
        "groups": [{"label": group.label, "runs": list(group.runs)} for group in comparison.groups],
        "parameters": [_parameter(row) for row in comparison.parameters if row.differs],
        "policy": scores.policy if scores else None,
        "scatter": {name: asdict(of) for name, of in scores.scatter.items()} if scores else {},
        "comparisons": [_rival(rival) for rival in scores.rivals] if scores else [],
        "trainings": [_rival(rival) for rival in scores.each] if scores else [],
        "columns": [column.name for column in sheet.columns] if sheet else [],
        "rows": [
            {"prompt": prompt, "seed": seed, "mean_difference": sheet.mean_difference(row)}
            for row, (prompt, seed) in enumerate(sheet.rows)
        ]
        if sheet
        else [],
    }


def _parameter(row: ParameterRow) -> dict[str, Any]:
    return {"key": row.key, "values": list(row.values)}


def _rival(rival: Rival) -> dict[str, Any]:
    return {
        "label": rival.group.label,
        "runs": list(rival.group.runs),
        "measures": [_difference(each) for each in rival.differences],
    }


def _difference(each: ScoreDifference) -> dict[str, Any]:
    estimate = each.estimate
    return {
        "measure": each.name,
        "first": round(each.first, 6),
        "other": round(each.other, 6),
        "difference": round(estimate.delta, 6),
        "ci": None if estimate.ci is None else [round(end, 6) for end in estimate.ci],
        "scatter_included": each.known is not None,
        "word": each.word,
        "pictures": each.pictures,
    }


def _colours(comparison: RunComparison) -> Sequence[int]:
    """Return the number of each run's colour: repeats share one, unless all runs are repeats."""
    if len(comparison.groups) == 1:
        return range(len(comparison.runs))
    of = {run: place for place, group in enumerate(comparison.groups) for run in group.runs}
    return [of[run] for run in range(len(comparison.runs))]


def _bars(rival: Rival) -> Mapping[str, Bar]:
    """Return the intervals of a table on one scale, by measure."""
    known = {each.name: each.estimate.ci for each in rival.differences if each.estimate.ci}
    reach = max((abs(end) for ci in known.values() for end in ci), default=0.0) or 1.0

    def place(value: float) -> float:
        return round(50 + 50 * value / reach, 1)

    return {
        name: Bar(place(low), round(place(high) - place(low), 1), place((low + high) / 2))
        for name, (low, high) in known.items()
    }


def _short(digest: str) -> str:
    return hex_of(digest)[:12]


def _data_uri(pixels: Pixels) -> str:
    """Return a picture as a data URI: PNG up to SHOWN pixels, otherwise reduced to WebP."""
    image, data = Image.fromarray(pixels), io.BytesIO()
    kind = "png" if max(image.size) <= SHOWN else "webp"
    image.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    image.save(data, format=kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
