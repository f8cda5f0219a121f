"""The kinds of adapters of the calibration: good ones, and one for each usual mistake.

A kind changes the demo's recipe or its pictures, as people do by mistake, or changes the weights of
the good adapter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.miniature.build.world import Character, character
from pipelines.evaluate.causes import CauseName

from .subjects import SHOWN, Subject

Changes = Mapping[str, Any]  # of the stage of the recipe; a mapping is merged, None removes a key


@dataclass(frozen=True)
class Kind:
    """How the adapters of a kind are made, and the causes that a refusal may name."""

    name: str
    causes: tuple[CauseName, ...] = ()
    changes: Changes | None = None  # of the recipe; None: no training
    characters: Callable[[Subject], Sequence[Character]] = lambda subject: [subject.character]
    places: Sequence[str] = SHOWN
    scale: float | None = None  # of the good adapter's weights B, instead of a training
    other: bool = False  # the good adapter of another subject, instead of a training


def _eight_others(subject: Subject) -> list[Character]:
    """Return eight different characters of the subject's kind."""
    return [character(subject.seed + 1 + number, subject.kind) for number in range(8)]


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("good", changes={}),
        Kind(
            "undertrained",
            ("undertrained", "no effect"),
            {"train": {"steps": 40, "warmup": 5}},
        ),
        Kind(
            "overtrained",
            ("overtrained", "prompts not followed", "copied", "class lost", "drift"),
            {"train": {"steps": 500, "lr": 3e-3, "lr_ratio": 4}, "prior": {"weight": 0.2}},
        ),
        Kind(
            "no prior",
            ("class lost", "drift"),
            {"prior": None, "train": {"lr_ratio": 4}},
        ),
        Kind(
            "attention alone",
            ("undertrained", "broken", "class lost", "drift", "wrong subject"),
            {"lora": {"targets": ["attn"]}, "train": {"steps": 200, "lr_ratio": 4}},
        ),
        Kind("wrong subject", ("wrong subject", "undertrained"), other=True),
        Kind(
            "mixed subjects",
            ("mixed pictures",),
            {"train": {"steps": 120}},
            characters=_eight_others,
        ),
        Kind(
            "one background",
            ("prompts not followed", "copied", "one background"),
            {"prompt": "a photo of a {trigger}"},
            places=SHOWN[:1],
        ),
        Kind(
            "copying",
            ("copied", "prompts not followed", "overtrained"),
            {
                "prior": None,
                "lora": {"rank": 64, "targets": ["attn", "ff", "proj"]},
                "train": {"steps": 200, "batch": 2, "lr": 1e-3, "lr_ratio": 4, "warmup": 10},
            },
            places=SHOWN[:1],
        ),
        Kind(
            "drifting",
            ("drift", "class lost"),
            {
                "prior": None,
                "prompt": "a photo {caption}",
                "train": {"steps": 120, "batch": 2, "lr": 3e-3, "lr_ratio": 4, "warmup": 0},
            },
        ),
        Kind("broken", ("broken", "drift", "class lost"), scale=4.0),
        Kind("no effect", ("no effect",), scale=0.0),
    )
}
