"""What the model reads from its environment: Triton passes it no other arguments of ours.

Whoever starts a server reads the same here first, so that nonsense ends before Triton begins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atelier.errors import BadInput
from services.engine.settings import EngineSettings

DRAIN_SECONDS: Final = 25.0
_LONGEST_DRAIN: Final = 86_400.0
# Environment variable: the engine setting it fills, and how to read it.
_ENGINE: dict[str, tuple[str, type[int] | type[str]]] = {
    "ATELIER_SLOTS": ("slots", int),
    "ATELIER_MAX_BATCH": ("max_batch", int),
    "ATELIER_MAX_RANK": ("max_rank", int),
    "ATELIER_QUEUE": ("queue", int),
    "ATELIER_DEVICE": ("device", str),
    "ATELIER_PRECISION": ("precision", str),
    "ATELIER_BACKEND": ("backend", str),
    "ATELIER_COMPILED": ("compiled", str),
}


@dataclass(frozen=True)
class ModelSettings:
    """Where things lie, and how the engine is to be."""

    base: str
    vae: str | None  # in place of the base's own
    volume: Path
    replica: str
    control: Path | None  # None: nobody keeps this server, so nobody asks it to drain
    drain_seconds: float
    engine: EngineSettings

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "ModelSettings":
        """Raises BadInput naming the variable that is missing or cannot be used."""
        control = environment.get("ATELIER_CONTROL")
        return cls(
            base=_required(environment, "ATELIER_BASE"),
            vae=environment.get("ATELIER_VAE") or None,
            volume=Path(_required(environment, "ATELIER_VOLUME")),
            replica=environment.get("ATELIER_REPLICA") or "local",
            control=Path(control) if control else None,
            drain_seconds=drain_seconds(environment),
            engine=engine_settings(environment),
        )


def engine_settings(environment: Mapping[str, str]) -> EngineSettings:
    """Defaults for what is not said; BadInput names the variable and what it must be."""
    given: dict[str, int | str] = {}
    for variable, (field, kind) in _ENGINE.items():
        if text := environment.get(variable):
            try:
                given[field] = kind(text)
            except ValueError:
                raise BadInput(f"{variable}={text}: must be a whole number") from None
            try:
                EngineSettings(**{field: given[field]})  # type: ignore[arg-type]
            except ValueError as error:
                raise BadInput(f"{variable}={text}: {str(error).partition(': ')[2]}") from None
    return EngineSettings(**given)  # type: ignore[arg-type]


def drain_seconds(environment: Mapping[str, str]) -> float:
    """How long a stopping server may go on with what runs."""
    text = environment.get("ATELIER_DRAIN_SECONDS") or str(DRAIN_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= _LONGEST_DRAIN:  # not-a-number is not between either
        raise BadInput(
            f"ATELIER_DRAIN_SECONDS={text}: must be seconds, from 0 to {_LONGEST_DRAIN:.0f}"
        )
    return seconds


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise BadInput(f"{name} is not set; give the base's folder and the shared volume")
    return value
