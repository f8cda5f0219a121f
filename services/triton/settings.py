"""What the model reads from its environment: Triton passes it no other arguments of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.errors import BadInput

# Environment variable: the engine setting it fills, and how to read it.
_ENGINE: dict[str, tuple[str, type]] = {
    "ATELIER_SLOTS": ("slots", int),
    "ATELIER_MAX_BATCH": ("max_batch", int),
    "ATELIER_MAX_RANK": ("max_rank", int),
    "ATELIER_QUEUE": ("queue", int),
    "ATELIER_DEVICE": ("device", str),
    "ATELIER_PRECISION": ("precision", str),
    "ATELIER_BACKEND": ("backend", str),
}


@dataclass(frozen=True)
class ModelSettings:
    """Where things lie, and what of the engine's settings is not left at its default."""

    base: str
    volume: Path
    replica: str
    control: Path | None  # None: nobody keeps this server, so nobody asks it to drain
    drain_seconds: float
    engine: dict[str, Any]

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "ModelSettings":
        """Raises BadInput naming the variable that is missing or cannot be read."""
        given = {
            key: _as(kind, variable, environment[variable])
            for variable, (key, kind) in _ENGINE.items()
            if environment.get(variable)
        }
        control = environment.get("ATELIER_CONTROL")
        return cls(
            base=_required(environment, "ATELIER_BASE"),
            volume=Path(_required(environment, "ATELIER_VOLUME")),
            replica=environment.get("ATELIER_REPLICA") or "local",
            control=Path(control) if control else None,
            drain_seconds=_as(
                float, "ATELIER_DRAIN_SECONDS", environment.get("ATELIER_DRAIN_SECONDS") or "25"
            ),
            engine=given,
        )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise BadInput(f"{name} is not set; give the base's folder and the shared volume")
    return value


def _as(kind: type, name: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise BadInput(f"{name}={text}: not a number") from error
