"""V2 inference for clients of Triton and KServe with a key: pin versions, meter, forward calls.

The gateway changes only the input ADAPTERS of a call: every adapter gets its serving version, as in
`/generate_image`. It does not insert trigger words into prompts. `v2_answer.py` reads and writes
the response.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from atelier.contract.limits import MAX_ADAPTERS
from atelier.contract.request import AdapterUse, pinned
from atelier.errors import BadInput
from atelier.validation import summary
from services.gateway.generation import charged, check_answer, check_sizes, unless_gone
from services.gateway.keys import KeyRecord
from services.gateway.metrics import Metrics
from services.gateway.releases import RETRY_AFTER, AdapterLoading, ReleaseWatch
from services.gateway.replicas import Replicas, V2Answer
from services.gateway.schemas import AdapterChoice
from services.gateway.settings import GatewaySettings
from services.gateway.triton_client import EngineFailed, TimedOut
from services.gateway.usage import Meter
from services.gateway.v2_answer import (
    HEADER_LENGTH,
    IMAGE,
    INFO,
    ClientAnswer,
    EngineAnswer,
    Outputs,
    read_answer,
    written,
)

logger = logging.getLogger(__name__)

ADAPTERS = "ADAPTERS"
_BYTES = {"INT64": 8, "INT32": 4}  # bytes of one number
_CHOICES = TypeAdapter(list[AdapterChoice])


class V2Refused(BadInput):
    """A V2 call is malformed or not supported. The message names the input."""


@dataclass(frozen=True)
class V2Call:
    """An infer request: its JSON, and the bytes of its binary inputs by name.

    https://github.com/kserve/open-inference-protocol (V2, with the binary tensor extension)
    """

    head: Mapping[str, Any]
    binary: Mapping[str, bytes]

    @classmethod
    def parse(cls, body: bytes, header_length: str | None) -> V2Call:
        """Parse a body. `header_length` is the HTTP header with the number of bytes of JSON.

        Raises V2Refused.
        """
        length = len(body)
        if header_length is not None:
            if not header_length.isascii() or not header_length.isdigit():
                raise V2Refused(f"{HEADER_LENGTH}: {header_length[:40]!r} is not a number of bytes")
            length = int(header_length)
        try:
            head = json.loads(body[:length])
        except (ValueError, RecursionError) as error:
            raise V2Refused(f"the body is not valid JSON: {error}") from None
        inputs = head.get("inputs") if isinstance(head, dict) else None
        if not isinstance(inputs, list) or not all(map(_is_input, inputs)):
            raise V2Refused("inputs: must be a list of objects with name, datatype and shape")
        names = [tensor["name"] for tensor in inputs]
        if len(set(names)) < len(names):
            raise V2Refused("inputs: an input occurs twice; give each once")
        if not isinstance(head.get("parameters", {}), dict):
            raise V2Refused("parameters: must be an object")
        outputs = head.get("outputs", [])
        if not isinstance(outputs, list) or not all(map(_is_output, outputs)):
            raise V2Refused("outputs: must be a list of objects with a name")
        return cls(head, _binary(inputs, body[length:]))

    def text(self, name: str) -> str | None:
        """Return the string of an input, or None if the input is absent. Raises V2Refused."""
        tensor = self._input(name)
        if tensor is None:
            return None
        if name in self.binary:
            data = self.binary[name]
            if len(data) < 4 or int.from_bytes(data[:4], "little") != len(data) - 4:
                raise V2Refused(f"{name}: the binary data must be one string")
            try:
                return data[4:].decode()
            except UnicodeDecodeError:
                raise V2Refused(f"{name}: must be UTF-8") from None
        return _value(tensor, str)

    def number(self, name: str) -> int | None:
        """Return the integer of an input, or None if the input is absent. Raises V2Refused."""
        tensor = self._input(name)
        if tensor is None:
            return None
        if name in self.binary:
            data = self.binary[name]
            if len(data) != _BYTES.get(tensor["datatype"]):
                raise V2Refused(f"{name}: the binary data is not one {tensor['datatype']}")
            return int.from_bytes(data, "little", signed=True)
        return _value(tensor, int)

    def outputs(self) -> Outputs:
        """Return the requested outputs, by default both. Raises V2Refused for unknown outputs."""
        default = self.head.get("parameters", {}).get("binary_data_output", False)
        listed = self.head.get("outputs") or [{"name": INFO}, {"name": IMAGE}]
        binary: dict[str, bool] = {}
        for output in listed:
            name, parameters = output["name"], output.get("parameters", {})
            if name not in (INFO, IMAGE) or name in binary:
                raise V2Refused(
                    f"outputs: {name[:40]!r} is not one of {IMAGE} and {INFO}, each at most once"
                )
            if unknown := parameters.keys() - {"binary_data"}:
                raise V2Refused(
                    f"outputs: {name}: the parameter {min(unknown)[:40]!r} is not supported"
                )
            binary[name] = bool(parameters.get("binary_data", default))
        return Outputs(info=binary.get(INFO), image=binary.get(IMAGE))

    def for_engine(self) -> V2Call:
        """Return the call with the outputs that `v2_answer.read_answer` needs."""
        return replace(self, head={**self.head, "outputs": self.outputs().for_engine()})

    def with_text(self, name: str, text: str) -> V2Call:
        """Return a copy of the call in which one input has another string."""
        inputs = [
            {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
            if tensor["name"] == name
            else tensor
            for tensor in self.head["inputs"]
        ]
        binary = {key: data for key, data in self.binary.items() if key != name}
        return replace(self, head={**self.head, "inputs": inputs}, binary=binary)

    def body(self) -> tuple[bytes, int]:
        """Return the body to send, and the number of its bytes that are JSON."""
        head = json.dumps(self.head).encode()
        names = [tensor["name"] for tensor in self.head["inputs"]]
        binary = b"".join(self.binary[name] for name in names if name in self.binary)
        return head + binary, len(head)

    def _input(self, name: str) -> Mapping[str, Any] | None:
        return next((tensor for tensor in self.head["inputs"] if tensor["name"] == name), None)


@dataclass(frozen=True)
class V2:
    """Run the V2 calls of clients, with the shared objects of one application."""

    settings: GatewaySettings
    replicas: Replicas
    releases: ReleaseWatch
    meter: Meter
    metrics: Metrics

    async def look(self, path: str, headers: Mapping[str, str], key: KeyRecord) -> V2Answer:
        """Return health, metadata or configuration from any replica."""
        return await self.replicas.forward(
            "GET", path, headers=headers, caller=key.id, timeout=self.settings.request_timeout
        )

    async def infer(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        key: KeyRecord,
        *,
        header_length: str | None,
        gone: Callable[[], Awaitable[None]],
        until_sent: AsyncExitStack,
    ) -> V2Answer | ClientAnswer:
        """Generate images, and charge them after the digests in INFO have been checked.

        A ClientAnswer is a response whose body has not been read yet; the connection to the engine
        stays open until `until_sent` is closed. A V2Answer is an unchanged error of Triton. If the
        client disconnects, `gone` returns and ClientGone is raised.
        """
        call = V2Call.parse(body, header_length)
        images = self._images(call)
        outputs = call.outputs()
        choices = _choices(call.text(ADAPTERS))
        async with charged(self.meter, self.metrics, key, images) as charge:
            work = self._call(path, call.for_engine(), images, choices, headers, key, until_sent)
            answer, pins = await unless_gone(work, gone)
            if isinstance(answer, V2Answer):
                return answer
            await charge()
        self.metrics.delivered(images, pins)
        return written(answer, outputs)

    def _images(self, call: V2Call) -> int:
        """Return the number of requested images. Raises a problem if the call exceeds a limit."""
        images = call.number("IMAGES")
        images = 1 if images is None else images
        check_sizes(
            self.settings,
            texts={"PROMPT": call.text("PROMPT"), "NEGATIVE_PROMPT": call.text("NEGATIVE_PROMPT")},
            images=images,
            steps=call.number("STEPS"),
            width=call.number("WIDTH"),
            height=call.number("HEIGHT"),
        )
        if images < 1:
            raise V2Refused(f"IMAGES: {images} is less than 1; request at least 1 image")
        return images

    async def _call(
        self,
        path: str,
        call: V2Call,
        images: int,
        choices: list[AdapterChoice],
        headers: Mapping[str, str],
        key: KeyRecord,
        until_sent: AsyncExitStack,
    ) -> tuple[V2Answer | EngineAnswer, list[AdapterUse]]:
        """Pin the versions and send the call. Retry once if the engine has dropped a version."""
        end = time.monotonic() + self.settings.request_timeout
        for is_retry in (False, True):
            if is_retry:
                await self.releases.refresh()
            versions = [
                self.releases.resolve(choice.name, choice.version, caller=key.id)
                for choice in choices
            ]
            pins = [
                AdapterUse(version.name, version.version, choice.weight)
                for version, choice in zip(versions, choices, strict=True)
            ]
            body, length = _pinned(call, pins).body()
            async with AsyncExitStack() as attempt:
                opened = self.replicas.open(
                    "POST",
                    path,
                    body=body,
                    headers={**headers, HEADER_LENGTH: str(length)},
                    caller=key.id,
                    wanted=pinned(pins),
                    timeout=max(0.001, end - time.monotonic()),
                )
                try:
                    stream = await attempt.enter_async_context(opened)
                    if stream.status != 200:
                        error = await stream.whole()
                        if stream.status == 404 and pins:
                            logger.info("V2: %s; resolving the versions again", error.text())
                            continue
                        return error, pins
                    answer = await read_answer(stream, call.outputs())
                    check_answer(versions, images, answer.info)
                except (EngineFailed, TimedOut):
                    self.metrics.failed(pins)
                    raise
                until_sent.push_async_callback(attempt.pop_all().aclose)
                return answer, pins
        names = ", ".join(f"{pin.name}@{pin.version}" for pin in pins)
        raise AdapterLoading(
            f"{names}: a version was dropped during the call; try again", retry_after=RETRY_AFTER
        )


def _pinned(call: V2Call, pins: Sequence[AdapterUse]) -> V2Call:
    if not pins:
        return call
    adapters = [{"name": pin.name, "version": pin.version, "weight": pin.weight} for pin in pins]
    return call.with_text(ADAPTERS, json.dumps(adapters))


def _choices(text: str | None) -> list[AdapterChoice]:
    if text is None:
        return []
    try:
        # Validated as JSON, because validation of Python objects refuses an integer as a weight.
        choices = _CHOICES.validate_json(text)
    except ValidationError as error:
        raise V2Refused(f"{ADAPTERS}: {summary(error, whole='the list')}") from None
    if len(choices) > MAX_ADAPTERS:
        raise V2Refused(
            f"{ADAPTERS}: {len(choices)} adapters exceed the limit, {MAX_ADAPTERS}; use fewer "
            "adapters"
        )
    return choices


def _is_input(tensor: object) -> bool:
    return (
        isinstance(tensor, dict)
        and isinstance(tensor.get("name"), str)
        and isinstance(tensor.get("datatype"), str)
        and isinstance(tensor.get("shape"), list)
        and isinstance(tensor.get("parameters", {}), dict)
    )


def _is_output(output: object) -> bool:
    return (
        isinstance(output, dict)
        and isinstance(output.get("name"), str)
        and isinstance(output.get("parameters", {}), dict)
    )


def _binary(inputs: list[dict[str, Any]], data: bytes) -> dict[str, bytes]:
    """Split the binary data among the inputs, in their order."""
    parts: dict[str, bytes] = {}
    for tensor in inputs:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            continue
        if not isinstance(size, int) or not 0 <= size <= len(data):
            raise V2Refused(f"{tensor['name'][:40]}: binary_data_size does not fit the body")
        parts[tensor["name"]], data = data[:size], data[size:]
    if data:
        raise V2Refused(
            f"the body has {len(data)} bytes after the last input; check {HEADER_LENGTH} and "
            "binary_data_size"
        )
    return parts


def _value(tensor: Mapping[str, Any], kind: type[Any]) -> Any:
    data = tensor.get("data")
    while isinstance(data, list) and len(data) == 1:
        data = data[0]
    if not isinstance(data, kind) or isinstance(data, bool):
        raise V2Refused(f"{tensor['name']}: must be one {'string' if kind is str else 'integer'}")
    return data
