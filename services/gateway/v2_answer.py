"""The response to a V2 infer call: read INFO first, then forward the pixels as they arrive.

The gateway always requests binary tensors, INFO before IMAGE. It can therefore check the digests in
INFO before it forwards the first pixel, and it never has a complete image in memory. The pixels are
converted piece by piece to the form that the client requested, JSON or binary.

https://github.com/kserve/open-inference-protocol (V2, with the binary tensor extension)
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from atelier.contract.info import Info
from services.gateway.replicas import V2Stream
from services.gateway.triton_client import EngineFailed

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
IMAGE, INFO = "IMAGE", "INFO"
_HEAD_BYTES, _INFO_BYTES = 2**16, 2**20  # limits of the JSON and of INFO
# Each value as JSON with a fixed width ("  7,", " 12,", "255,"), so that the length of the body is
# known before the pixels arrive.
_NUMBERS = np.array([f"{value:3d},".encode() for value in range(256)], dtype="S4")


@dataclass(frozen=True)
class Outputs:
    """The outputs that a client requests: True means binary data, False JSON, None no output."""

    info: bool | None
    image: bool | None

    def for_engine(self) -> list[dict[str, Any]]:
        """Return the outputs to request from the engine."""
        names = [INFO] if self.image is None else [INFO, IMAGE]
        return [{"name": name, "parameters": {"binary_data": True}} for name in names]


@dataclass(frozen=True)
class EngineAnswer:
    """The response up to the pixels, which have not been read from `stream` yet."""

    head: Mapping[str, Any]  # the JSON object without its outputs
    info: Info
    info_text: bytes
    # shape of IMAGE, [image, height, width, 3]; None if it was not requested
    shape: tuple[int, int, int, int] | None
    stream: V2Stream

    @property
    def size(self) -> int:
        """The bytes of all pixels."""
        return math.prod(self.shape or (0,))


async def read_answer(stream: V2Stream, outputs: Outputs) -> EngineAnswer:
    """Read the response up to the pixels. Raises EngineFailed if it has other outputs."""
    try:
        length = _within(int(stream.headers.get(HEADER_LENGTH, "")), _HEAD_BYTES)
        head = json.loads(await stream.exactly(length))
        listed = head.pop("outputs")
        names = [output["name"] for output in listed]
        if names != [output["name"] for output in outputs.for_engine()]:
            raise ValueError(f"its outputs are {names}")
        size = _within(listed[0]["parameters"]["binary_data_size"], _INFO_BYTES)
        raw = await stream.exactly(size)
        if int.from_bytes(raw[:4], "little") != size - 4:
            raise ValueError("INFO is not one string")
        info = Info.model_validate_json(raw[4:])
        shape = _shape(listed[1]) if outputs.image is not None else None
        if shape is not None and len(info.seeds) != shape[0]:
            raise ValueError(f"{shape[0]} images and {len(info.seeds)} seeds")
    except (ValueError, TypeError, LookupError, ValidationError) as error:
        raise EngineFailed(
            f"the V2 response of Triton does not have the expected form: {error}"
        ) from error
    return EngineAnswer(head, info, raw[4:], shape, stream)


@dataclass(frozen=True)
class ClientAnswer:
    """A response in the form that the client requested: headers, and a body in pieces."""

    headers: Mapping[str, str]
    body: AsyncIterator[bytes]


def written(answer: EngineAnswer, outputs: Outputs) -> ClientAnswer:
    """Return the response with only the requested outputs, INFO before IMAGE."""
    listed, info_section = [], b""
    if outputs.info is not None:
        output: dict[str, Any] = {"name": INFO, "datatype": "BYTES", "shape": [1]}
        if outputs.info:
            info_section = len(answer.info_text).to_bytes(4, "little") + answer.info_text
            output["parameters"] = {"binary_data_size": len(info_section)}
        else:
            output["data"] = [answer.info_text.decode()]
        listed.append(output)
    pixels = 0  # bytes
    if outputs.image is not None:
        output = {"name": IMAGE, "datatype": "UINT8", "shape": list(answer.shape or ())}
        if outputs.image:
            output["parameters"] = {"binary_data_size": answer.size}
            pixels = answer.size
        else:
            output["data"] = []
            pixels = max(0, _NUMBERS.itemsize * answer.size - 1)
        listed.append(output)
    text = json.dumps({**answer.head, "outputs": listed}).encode()
    end = b"]}]}" if outputs.image is False else b""  # the values are written before it
    text = text.removesuffix(end)
    length = len(text) + len(end) + (0 if outputs.image else pixels)
    binary = bool(outputs.info or outputs.image)
    headers = {
        "Content-Type": "application/octet-stream" if binary else "application/json",
        "Content-Length": str(len(text) + len(end) + len(info_section) + pixels),
        **({HEADER_LENGTH: str(length)} if binary else {}),
    }

    async def body() -> AsyncIterator[bytes]:
        yield text
        if outputs.image is False:
            async for piece in _numbers(_pixels(answer)):
                yield piece
        yield end + info_section
        if outputs.image:
            async for piece in _pixels(answer):
                yield piece

    return ClientAnswer(headers, body())


async def _pixels(answer: EngineAnswer) -> AsyncIterator[bytes]:
    """Yield the raw values. Raises EngineFailed if their number does not match the shape."""
    left = answer.size
    async for piece in answer.stream.pieces():
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left != 0:
        raise EngineFailed(
            f"the IMAGE of Triton does not have the {answer.size} bytes of its shape: {left} left"
        )


async def _numbers(pixels: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the values as JSON, without a comma after the last value."""
    last = b""
    async for piece in pixels:
        yield last
        last = _NUMBERS[np.frombuffer(piece, np.uint8)].tobytes()
    yield last[:-1]


def _shape(output: Mapping[str, Any]) -> tuple[int, int, int, int]:
    images, height, width, channels = (int(side) for side in output["shape"])
    size = output["parameters"]["binary_data_size"]
    if output["datatype"] != "UINT8" or channels != 3 or size != images * height * width * 3:
        raise ValueError(f"IMAGE is {output['datatype']} {output['shape']} of {size} bytes")
    return images, height, width, channels


def _within(size: int, limit: int) -> int:
    if not 0 < size <= limit:
        raise ValueError(f"{size} bytes; the limit is {limit}")
    return size
