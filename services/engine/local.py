"""Run the serving engine in this process, with packages from any source and without an agent."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from atelier.contract.request import AdapterUse, ImageRequest
from atelier.errors import AdapterRejected
from atelier.stores.base_files import DEFAULT_BASE
from atelier.stores.packages import ResolvedAdapter

if TYPE_CHECKING:
    from services.engine.engine import Engine
    from services.engine.result import ImageResult

# The engine needs a version for packages from a folder. The registry never uses these numbers.
_UNREGISTERED: Final = 1_000_000


@dataclass(frozen=True)
class LocalEngine:
    """An engine with the requested adapters loaded."""

    engine: "Engine"
    adapters: tuple[ResolvedAdapter, ...]

    def use(self, index: int, weight: float = 1.0) -> "AdapterUse":
        """Return `adapters[index]` with a weight, as an entry of a request."""
        adapter = self.adapters[index]
        return AdapterUse(adapter.package.manifest.name, _engine_version(adapter, index), weight)

    def metadata(self, request: "ImageRequest", result: "ImageResult") -> dict[str, Any]:
        """Return the content of the chunk `atelier` for the first image of `result`.

        It suffices to generate the image again.
        """
        versions = {
            _engine_version(adapter, index): adapter.version
            for index, adapter in enumerate(self.adapters)
        }
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
                    "version": versions.get(used.version) if used.version is not None else None,
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
def local_engine(
    adapters: Sequence[ResolvedAdapter], base: str | None = None
) -> Iterator[LocalEngine]:
    """Load a base and the adapters. The engine is closed at the end of the block.

    The default base is the base of the first adapter. The engine reads the same ATELIER_* settings
    as a serving engine. Raises AdapterRejected if an adapter was trained on another base, and
    BaseError if the base cannot be loaded.
    """
    # imported late, because importing torch and diffusers takes seconds
    from services.engine.engine import Engine
    from services.engine.settings import EngineSettings

    own_base = adapters[0].package.manifest.base.id if adapters else DEFAULT_BASE
    engine = Engine.load(base or own_base, settings=EngineSettings.read())
    try:
        for index, adapter in enumerate(adapters):
            manifest = adapter.package.manifest
            if manifest.base.digest != engine.base.digest:
                raise AdapterRejected(
                    f"{adapter.package.path}: {manifest.name} was trained on base "
                    f"{manifest.base.id} ({manifest.base.digest}), but {engine.base.id} is "
                    f"{engine.base.digest}; name the base of the adapter"
                )
            engine.adapters.add(adapter.package, _engine_version(adapter, index))
        yield LocalEngine(engine, tuple(adapters))
    finally:
        engine.close()


def _engine_version(adapter: ResolvedAdapter, index: int) -> int:
    return adapter.version if adapter.version is not None else _UNREGISTERED + index
