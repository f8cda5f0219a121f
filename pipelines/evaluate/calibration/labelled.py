"""Reads a folder of labelled adapters: each subfolder has an `evaluation.json` and a `label.json`.

```json
{"group": "rabbit 100", "kind": "no prior", "label": "bad", "causes": ["class lost"],
 "why": "class kept in 3 of 48 pictures"}
```

`group` is the subject, and `causes` are the causes that a refusal may name. Limits are chosen on
half of the groups and verified on the others, so that no subject helps to judge itself.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.errors import BadInput
from atelier.validation import summary
from pipelines.evaluate.causes import CauseName
from pipelines.evaluate.evaluation import FILE, Evaluation

LABEL: Final = "label.json"
MINIMUM: Final = 2  # groups; one for each half

Text = Annotated[str, Field(min_length=1)]


class Label(BaseModel):
    """The content of `label.json`. `unclear` adapters are reported, but choose no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: Text
    kind: Text
    label: Literal["good", "bad", "unclear"]
    causes: tuple[CauseName, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Labelled:
    """An adapter with its measurements and its label."""

    name: str  # of its folder
    label: Label
    evaluation: Evaluation

    @property
    def good(self) -> bool:
        """Whether the adapter should be accepted."""
        return self.label.label == "good"

    @property
    def clear(self) -> bool:
        """Whether the label is certain enough to count an error."""
        return self.label.label != "unclear"


def load(folder: Path) -> list[Labelled]:
    """Read all labelled adapters below `folder`, in the order of their paths.

    Raises BadInput if there are none, or a file is missing or invalid.
    """
    files = sorted(folder.rglob(LABEL))
    if not files:
        raise BadInput(f"{folder}: no {LABEL} below it; each adapter needs one beside its {FILE}")
    found = [_read(file, folder) for file in files]
    if len({item.label.group for item in found}) < MINIMUM:
        raise BadInput(
            f"{folder}: has one group only; label adapters of {MINIMUM} or more subjects"
        )
    return found


def _read(file: Path, folder: Path) -> Labelled:
    try:
        label = Label.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise BadInput(f"{file}: {summary(error)}") from error
    name = file.parent.relative_to(folder).as_posix()
    return Labelled(name, label, Evaluation.load(file.parent))


def halves(adapters: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Split by group into a half that chooses limits and a half that verifies them.

    The order of the groups' checksums decides, so neither the order of folders nor a random seed
    changes the halves.
    """
    groups = sorted({item.label.group for item in adapters}, key=_checksum)
    chosen = set(groups[::2])
    return (
        [item for item in adapters if item.label.group in chosen],
        [item for item in adapters if item.label.group not in chosen],
    )


def _checksum(group: str) -> tuple[int, str]:
    return zlib.crc32(group.encode()), group
