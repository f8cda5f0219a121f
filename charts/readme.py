"""Writes the table of values into each chart's README, from the comments of values.yaml.

Run `python charts/readme.py` after a change of values. tests/unit/test_charts.py checks the result.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

CHARTS = Path(__file__).parent
_MARKS = ("<!-- values: written by charts/readme.py -->\n", "<!-- values end -->\n")
_KEY = re.compile(r"( *)([A-Za-z]\w*):")


def values(chart: Path) -> Iterator[tuple[str, str, object]]:
    """Yield path, description and default of every value, in the order of the file.

    A value is a key with a comment `# -- …`. Raises ValueError for a key that has neither a comment
    nor values inside.
    """
    text = (chart / "values.yaml").read_text()
    document = yaml.safe_load(text)
    path: list[str] = []
    described: list[str] = []
    inside = -1  # the indentation of a described value; deeper keys belong to it
    for line in text.splitlines():
        if (comment := line.strip()).startswith("#"):
            described.append(comment.removeprefix("# -- ").removeprefix("# "))
            continue
        if (match := _KEY.match(line)) is None or 0 <= inside < len(match[1]):
            continue
        depth = len(match[1]) // 2
        path[depth:] = [match[2]]
        default: object = document
        for key in path:
            default = default[key]  # type: ignore[index]
        if described:
            inside = len(match[1])
            yield ".".join(path), " ".join(described), default
        elif isinstance(default, dict) and default:
            inside = -1
        else:
            raise ValueError(f"{chart.name}/values.yaml: {'.'.join(path)} has no comment `# -- …`")
        described = []


def table(chart: Path) -> str:
    """Return the values as a Markdown table."""
    lines = ["| value | default | description |", "| --- | --- | --- |"]
    for path, description, default in values(chart):
        shown = json.dumps(default, ensure_ascii=False).replace("|", "\\|")
        lines.append(f"| `{path}` | `{shown}` | {description} |")
    return "\n".join(lines) + "\n"


def readme(chart: Path) -> str:
    """Return the chart's README with the current table."""
    before, _, rest = (chart / "README.md").read_text().partition(_MARKS[0])
    return before + _MARKS[0] + table(chart) + _MARKS[1] + rest.partition(_MARKS[1])[2]


def charts() -> list[Path]:
    """Return the folders of the charts."""
    return sorted(file.parent for file in CHARTS.glob("*/Chart.yaml"))


if __name__ == "__main__":
    for chart in charts():
        (chart / "README.md").write_text(readme(chart))
