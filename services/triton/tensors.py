"""Read the V2 tensors of a request, and write the tensors of a response (contract/tensors.py)."""

from collections.abc import Mapping
from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from atelier.contract.info import Info
from atelier.contract.request import AdapterUse, ImageRequest, RequestError
from atelier.contract.tensors import NUMBERS, TEXTS, unsigned_seed
from atelier.validation import mistakes
from services.engine.result import ImageResult

Tensors = Mapping[str, NDArray[Any]]

_EXAMPLE = '[{"name": "thor-cat", "version": 2, "weight": 0.8}]'
SAME_NAME = {"NEGATIVE_PROMPT", "SCHEDULER", "STEPS", "WIDTH", "HEIGHT", "IMAGES", "GUIDANCE_SCALE"}


class _Use(BaseModel):
    """One entry of ADAPTERS."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1)]
    version: Annotated[int, Field(ge=1)] | None = None
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0


_USES: TypeAdapter[list[_Use]] = TypeAdapter(list[_Use])


def parse(tensors: Tensors, *, timeout_us: int = 0) -> ImageRequest:
    """Return the request of the input tensors. Absent inputs get the defaults of ImageRequest.

    Each tensor has one element, in any shape. The inputs TEXTS are UTF-8 bytes (BYTES of V2). The
    inputs NUMBERS are integers, except GUIDANCE_SCALE, which is a float. `timeout_us` is the V2
    parameter `timeout` in microseconds, or 0 if it is absent. Raises RequestError that names the
    input. The engine checks the ranges.
    """
    if "PROMPT" not in tensors:
        raise RequestError("PROMPT: missing; send one string")
    values: dict[str, Any] = {name: _text(name, tensors[name]) for name in TEXTS if name in tensors}
    values |= {name: _number(name, tensors[name]) for name in NUMBERS if name in tensors}
    fields = {name.lower(): values[name] for name in SAME_NAME if name in values}
    return ImageRequest(
        prompt=values["PROMPT"],
        adapters=_adapters(values.get("ADAPTERS", "")),
        seed=unsigned_seed(values.get("SEED", 0)),
        deadline=timeout_us / 1e6 if timeout_us > 0 else None,
        **fields,
    )


def info(result: ImageResult, *, base: str) -> bytes:
    """Return the INFO output: the data to regenerate the images, as UTF-8 JSON.

    Timings are in seconds, rounded to microseconds.
    """
    value = Info(
        seeds=result.seeds,
        adapters=result.adapters,
        base=base,
        backend=result.backend,
        engine_digest=result.engine_digest,
        warnings=result.warnings,
        timings={name: round(seconds, 6) for name, seconds in result.timings.items()},
    )
    return value.model_dump_json().encode()


def _element(name: str, tensor: NDArray[Any]) -> Any:
    if tensor.size != 1:
        raise RequestError(f"{name}: has {tensor.size} values; send exactly one")
    return tensor.reshape(-1)[0]


def _text(name: str, tensor: NDArray[Any]) -> str:
    value = _element(name, tensor)
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise RequestError(f"{name}: is not UTF-8 text ({error.reason}); send UTF-8") from error


def _number(name: str, tensor: NDArray[Any]) -> int | float:
    value: int | float = _element(name, tensor).item()
    return value


def _adapters(text: str) -> tuple[AdapterUse, ...]:
    if not text.strip():
        return ()
    try:
        uses = _USES.validate_json(text)
    except ValidationError as error:
        first = mistakes(error, values=True)[0]
        text = f"ADAPTERS{first.field}: {first.text}; send JSON like {_EXAMPLE}"
        raise RequestError(text) from error
    return tuple(AdapterUse(use.name, use.version, use.weight) for use in uses)
