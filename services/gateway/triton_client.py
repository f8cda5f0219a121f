"""Call the engine over the V2 protocol of Triton with gRPC, and translate its statuses to errors.

If the gateway cancels a gRPC call, because the client disconnected or the time limit passed, the
engine also cancels it between two steps. HTTP calls do not have this property.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpc
from grpc import ChannelConnectivity
from numpy.typing import NDArray
from pydantic import ValidationError
from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE
from tritonclient.utils import InferenceServerException

from atelier.contract.info import Info
from atelier.contract.request import ImageRequest
from atelier.contract.tensors import INPUTS, signed_seed
from atelier.errors import AtelierError, BadInput, Unavailable

READY_SECONDS = CONNECT_SECONDS = 2.0
RETRY_AFTER = 1.0  # seconds, if the error of the engine contains no time
RETRY_TEXT = re.compile(r"\(retry after ([0-9.]+) s\)")
NUMPY_TYPES = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32}
# Reconnect to a restarted Triton within a second; by default gRPC waits up to two minutes.
CHANNEL = [
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


class RequestRefused(BadInput):
    """The engine refused the request as invalid. The message names the field."""


class AdapterGone(BadInput):
    """The engine does not have this version of the adapter, or has dropped it."""


class EngineAway(Unavailable):
    """Triton is unreachable, or its model is not loaded.

    If `refused` is true, the call was certainly not started, so it may be sent to another replica.
    """

    def __init__(
        self, text: str, *, retry_after: float | None = RETRY_AFTER, refused: bool = False
    ) -> None:
        super().__init__(text, retry_after=retry_after)
        self.refused = refused


class EngineBusy(Unavailable):
    """The engine's queue is full, or the engine is stopping; the call was not started."""

    refused = True


class TimedOut(AtelierError):  # noqa: N818
    """The images were not ready within the request's time limit."""


class EngineFailed(AtelierError):  # noqa: N818
    """The engine failed for a reason that the client cannot change."""


@dataclass(frozen=True)
class ImageCall(ImageRequest):
    """A request of one key. Every adapter has a version, so the engine applies no defaults."""

    caller: str = ""  # the id of the key, which decides the pool


@dataclass(frozen=True)
class ImageAnswer:
    """Images, uint8 [image, height, width, 3], and the parameters that reproduce them."""

    pixels: NDArray[np.uint8]
    info: Info


class TritonClient:
    """A gRPC channel to one address of Triton. Use it in the event loop that created it."""

    def __init__(self, address: str, model: str) -> None:
        self._client = grpc.InferenceServerClient(address, channel_args=CHANNEL)
        self._address = address
        self._model = model

    async def generate(self, call: ImageCall, *, timeout: float, request_id: str) -> ImageAnswer:
        """Generate the images of a call within `timeout` seconds.

        Raises the errors of this module. If the awaiting task is cancelled, the engine cancels the
        call.
        """
        began = time.monotonic()
        if not await self._connected(min(timeout, CONNECT_SECONDS)):
            raise EngineAway("the image engine does not answer; try again later", refused=True)
        try:
            result = await self._client.infer(
                self._model,
                tensors(call),
                request_id=request_id,
                timeout=round(timeout * 1e6),  # the deadline in the engine, in microseconds
                client_timeout=timeout,
            )
        except InferenceServerException as error:
            late = time.monotonic() - began >= timeout
            raise self._translated(error, late=late) from error
        try:
            return _answer(result)
        except (ValueError, TypeError, LookupError, ValidationError) as error:
            raise EngineFailed(
                f"Triton at {self._address}: the response does not have the expected form"
            ) from error

    async def ready(self) -> bool:
        """Return whether the model can be called now. Wait at most READY_SECONDS."""
        try:
            return bool(
                await self._client.is_model_ready(self._model, client_timeout=READY_SECONDS)
            )
        except InferenceServerException:
            return False

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def _connected(self, seconds: float) -> bool:
        """Connect, and return whether this succeeded. Without a connection, no call is sent."""
        channel = self._client._channel  # the client has no public access to its state
        end = time.monotonic() + seconds
        while (state := channel.get_state(try_to_connect=True)) != ChannelConnectivity.READY:
            if state == ChannelConnectivity.TRANSIENT_FAILURE:
                return False
            try:
                left = max(0.0, end - time.monotonic())
                await asyncio.wait_for(channel.wait_for_state_change(state), left)
            except TimeoutError:
                return False
        return True

    def _translated(self, error: InferenceServerException, *, late: bool) -> AtelierError:
        status = str(error.status()).removeprefix("StatusCode.")
        text = str(error.message() or "").strip()
        if status in {"DEADLINE_EXCEEDED", "CANCELLED"} or (late and status == "UNAVAILABLE"):
            return TimedOut("the images were not ready within the request's time limit")
        if status == "UNAVAILABLE" or _not_loaded(text):
            return unavailable(text)
        if status == "NOT_FOUND":
            return AdapterGone(text)
        if status == "INVALID_ARGUMENT":
            return RequestRefused(text)
        return EngineFailed(f"Triton at {self._address} responded with {status}: {text}")


def unavailable(text: str) -> EngineAway | EngineBusy:
    """Return the error for the status UNAVAILABLE of Triton (503 over HTTP) with this message."""
    if _not_loaded(text):
        return EngineAway("the model is not loaded yet", refused=True)
    match = RETRY_TEXT.search(text)
    if match:
        return EngineBusy(RETRY_TEXT.sub("", text).strip(), retry_after=float(match[1]))
    return EngineAway("the image engine does not answer; try again later")


def _not_loaded(text: str) -> bool:
    return "unknown model" in text or "is not ready" in text


def tensors(call: ImageCall) -> list[Any]:
    """Return the V2 inputs (`contract/tensors.py`) for the values of a call that are not None."""
    adapters = [
        {"name": use.name, "version": use.version, "weight": use.weight} for use in call.adapters
    ]
    values: dict[str, Any] = {
        "PROMPT": call.prompt,
        "NEGATIVE_PROMPT": call.negative_prompt,
        "ADAPTERS": json.dumps(adapters),
        "SCHEDULER": call.scheduler,
        "SEED": signed_seed(call.seed),
        "STEPS": call.steps,
        "WIDTH": call.width,
        "HEIGHT": call.height,
        "IMAGES": call.images,
        "GUIDANCE_SCALE": call.guidance_scale,
    }
    return [_input(name, value) for name, value in values.items() if value is not None]


def _input(name: str, value: str | float) -> Any:
    datatype = INPUTS[name]
    tensor = grpc.InferInput(name, [1], datatype)
    if isinstance(value, str):
        tensor.set_data_from_numpy(np.array([value.encode()], dtype=np.object_))
    else:
        tensor.set_data_from_numpy(np.array([value], dtype=NUMPY_TYPES[datatype]))
    return tensor


def _answer(result: Any) -> ImageAnswer:
    pixels = result.as_numpy("IMAGE")
    info = Info.model_validate_json(result.as_numpy("INFO").reshape(-1)[0])
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"IMAGE is {pixels.dtype} {pixels.shape}, not uint8 [N, H, W, 3]")
    if len(info.seeds) != len(pixels):
        raise ValueError(f"{len(pixels)} images and {len(info.seeds)} seeds")
    return ImageAnswer(pixels, info)
