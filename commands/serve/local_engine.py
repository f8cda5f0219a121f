"""Draws pictures in this process with the serving engine and packages from anywhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from atelier.errors import AdapterRejected
from commands.adapter_references import ResolvedAdapter

if TYPE_CHECKING:
    from services.engine import AdapterUse, Engine, ImageRequest, ImageResult

MINIATURE: Final = "models/miniature"
# Packages from a folder have no version, but the engine needs one. The registry never uses these.
_UNREGISTERED: Final = 1_000_000


@dataclass(frozen=True)
class LocalEngine:
    """An engine with the requested adapters loaded."""

    engine: "Engine"
    found: tuple[ResolvedAdapter, ...]

    def use(self, place: int, weight: float = 1.0) -> "AdapterUse":
        """The adapter at index `place` of `found`, in the form that a request takes."""
        from services.engine import AdapterUse

        name = self.found[place].package.manifest.name
        return AdapterUse(name, _engine_version(self.found[place], place), weight)

    def metadata(self, request: "ImageRequest", result: "ImageResult") -> dict[str, Any]:
        """The content of a picture's `atelier` chunk: everything needed to draw it again."""
        real = {_engine_version(one, place): one.version for place, one in enumerate(self.found)}
        return {
            "seed": result.seeds[0],
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "steps": request.steps,
            "scheduler": request.scheduler,
            "guidance_scale": request.guidance_scale,
            "width": int(result.images.shape[2]),
            "height": int(result.images.shape[1]),
            "adapters": [
                {
                    "name": used.name,
                    "version": real.get(used.version) if used.version is not None else None,
                    "digest": used.digest,
                    "weight": used.weight,
                }
                for used in result.adapters
            ],
            "base": self.engine.base.digest,
            "backend": result.backend,
            "engine_digest": result.engine_digest,
        }


@contextmanager
def local_engine(found: Sequence[ResolvedAdapter], base: str | None) -> Iterator[LocalEngine]:
    """Load the base (default: that of the first adapter) and the adapters; close at the end.

    The engine obeys the same ATELIER_* settings as one that serves.
    """
    from commands.quiet import quiet_loading
    from services.engine import Engine, EngineSettings  # imports torch, which takes seconds

    quiet_loading()
    own = found[0].package.manifest.base.id if found else MINIATURE
    engine = Engine.load(base or own, settings=EngineSettings.read())
    try:
        for place, one in enumerate(found):
            manifest = one.package.manifest
            if manifest.base.digest != engine.base.digest:
                raise AdapterRejected(
                    f"{one.package.path}: {manifest.name} was made for base {manifest.base.id} "
                    f"({manifest.base.digest}), but {engine.base.id} is {engine.base.digest}; "
                    "name its own base with --base"
                )
            engine.adapters.add(one.package, _engine_version(one, place))
        yield LocalEngine(engine, tuple(found))
    finally:
        engine.close()


def _engine_version(found: ResolvedAdapter, place: int) -> int:
    return found.version if found.version is not None else _UNREGISTERED + place
