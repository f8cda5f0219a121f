"""V2 inference for clients of Triton and KServe that hold a key: pinned, metered, passed on.

A call keeps its inputs but for ADAPTERS, in which every adapter gets the version that serves, as in
`/generate_image`. Prompts are sent as they are: nothing is filled in. `v2_answer.py` has the way
out.
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
from services.gateway.settings import Settings
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
_BYTES = {"INT64": 8, "INT32": 4}  # of one number
_CHOICES = TypeAdapter(list[AdapterChoice])


class V2Refused(BadInput):
    """A V2 call that cannot be read."""


@dataclass(frozen=True)
class V2Call:
    """An infer request: its JSON, and the bytes of its binary inputs by name."""

    head: Mapping[str, Any]
    binary: Mapping[str, bytes]

    @classmethod
    def parse(cls, body: bytes, header_length: str | None) -> V2Call:
        """Read a body; V2Refused says what is wrong with it."""
        length = len(body)
        if header_length is not None:
            if not header_length.isascii() or not header_length.isdigit():
                raise V2Refused(f"{HEADER_LENGTH}: {header_length[:40]!r} is no length")
            length = int(header_length)
        try:
            head = json.loads(body[:length])
        except (ValueError, RecursionError) as error:
            raise V2Refused(f"the body is not JSON: {error}") from None
        inputs = head.get("inputs") if isinstance(head, dict) else None
        if not isinstance(inputs, list) or not all(_is_input(one) for one in inputs):
            raise V2Refused("the body has no list of inputs, each with name, datatype and shape")
        names = [one["name"] for one in inputs]
        if len(set(names)) < len(names):
            raise V2Refused("an input is given twice")
        if not isinstance(head.get("parameters", {}), dict):
            raise V2Refused("parameters: is not an object")
        outputs = head.get("outputs", [])
        if not isinstance(outputs, list) or not all(map(_is_output, outputs)):
            raise V2Refused("outputs: is not a list of outputs, each with a name")
        return cls(head, _binary(inputs, body[length:]))

    def text(self, name: str) -> str | None:
        """The one string of an input; None where it is not given."""
        one = self._input(name)
        if one is None:
            return None
        if name in self.binary:
            data = self.binary[name]
            if len(data) < 4 or int.from_bytes(data[:4], "little") != len(data) - 4:
                raise V2Refused(f"{name}: its bytes are not one string")
            try:
                return data[4:].decode()
            except UnicodeDecodeError:
                raise V2Refused(f"{name}: is not UTF-8") from None
        return _only(one, str)

    def number(self, name: str) -> int | None:
        """The one whole number of an input; None where it is not given."""
        one = self._input(name)
        if one is None:
            return None
        if name in self.binary:
            data = self.binary[name]
            if len(data) != _BYTES.get(one["datatype"]):
                raise V2Refused(f"{name}: its bytes are not one {one['datatype']}")
            return int.from_bytes(data, "little", signed=True)
        return _only(one, int)

    def outputs(self) -> Outputs:
        """What is asked for, all of it where nothing is listed; V2Refused for another output."""
        default = self.head.get("parameters", {}).get("binary_data_output", False)
        listed = self.head.get("outputs") or [{"name": INFO}, {"name": IMAGE}]
        binary: dict[str, bool] = {}
        for one in listed:
            name, parameters = one["name"], one.get("parameters", {})
            if name not in (INFO, IMAGE) or name in binary:
                raise V2Refused(f"outputs: {name[:40]!r} is not one of {IMAGE} and {INFO}, once")
            if unknown := parameters.keys() - {"binary_data"}:
                raise V2Refused(f"outputs: {name}: {min(unknown)[:40]!r} cannot be used here")
            binary[name] = bool(parameters.get("binary_data", default))
        return Outputs(info=binary.get(INFO), image=binary.get(IMAGE))

    def for_engine(self) -> V2Call:
        """The call with the outputs that `v2_answer.read_answer` reads."""
        return replace(self, head={**self.head, "outputs": self.outputs().for_engine()})

    def with_text(self, name: str, text: str) -> V2Call:
        """The call with another string in an input that it has."""
        inputs = [
            {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
            if one["name"] == name
            else one
            for one in self.head["inputs"]
        ]
        binary = {key: data for key, data in self.binary.items() if key != name}
        return replace(self, head={**self.head, "inputs": inputs}, binary=binary)

    def body(self) -> tuple[bytes, int]:
        """The bytes to send, and how many of them are JSON."""
        head = json.dumps(self.head).encode()
        names = [one["name"] for one in self.head["inputs"] if one["name"] in self.binary]
        return head + b"".join(self.binary[name] for name in names), len(head)

    def _input(self, name: str) -> Mapping[str, Any] | None:
        return next((one for one in self.head["inputs"] if one["name"] == name), None)


@dataclass(frozen=True)
class V2:
    """The parts that a V2 call needs."""

    settings: Settings
    replicas: Replicas
    releases: ReleaseWatch
    meter: Meter
    metrics: Metrics

    async def look(self, path: str, headers: Mapping[str, str], key: KeyRecord) -> V2Answer:
        """Health, metadata and configuration: what any replica says."""
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
        """Pictures, charged where the engine made them by the weights that the call names.

        They are still to be read: the engine is held until `until_sent` is closed. A `V2Answer` is
        an error of Triton's, as it is.
        """
        call = V2Call.parse(body, header_length)
        images = self._images(call)
        outputs = call.outputs()
        choices = _choices(call.text(ADAPTERS))
        async with charged(self.meter, self.metrics, key, images) as charge:
            work = self._ask(path, call.for_engine(), images, choices, headers, key, until_sent)
            answer, pins = await unless_gone(work, gone)
            if isinstance(answer, V2Answer):
                return answer
            await charge()
        self.metrics.delivered(images, pins)
        return written(answer, outputs)

    def _images(self, call: V2Call) -> int:
        """How many pictures are asked for; refuses what this operator does not allow."""
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
            raise V2Refused(f"IMAGES: {images} is less than 1")
        return images

    async def _ask(
        self,
        path: str,
        call: V2Call,
        images: int,
        choices: list[AdapterChoice],
        headers: Mapping[str, str],
        key: KeyRecord,
        until_sent: AsyncExitStack,
    ) -> tuple[V2Answer | EngineAnswer, list[AdapterUse]]:
        """Pin and send; once more where the version was dropped between our look and the call."""
        end = time.monotonic() + self.settings.request_timeout
        for again in (False, True):
            if again:
                await self.releases.refresh()
            versions = [
                self.releases.resolve(one.name, one.version, caller=key.id) for one in choices
            ]
            pins = [
                AdapterUse(one.name, one.version, choice.weight)
                for one, choice in zip(versions, choices, strict=True)
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
                        refused = await stream.whole()
                        if stream.status == 404 and pins:
                            logger.info("V2: %s; looking at the releases again", refused.text())
                            continue
                        return refused, pins
                    answer = await read_answer(stream, call.outputs())
                    check_answer(versions, images, answer.info)
                except (EngineFailed, TimedOut):
                    self.metrics.failed(pins)
                    raise
                until_sent.push_async_callback(attempt.pop_all().aclose)
                return answer, pins
        raise AdapterLoading("the adapter's version has just gone", retry_after=RETRY_AFTER)


def _pinned(call: V2Call, pins: Sequence[AdapterUse]) -> V2Call:
    if not pins:
        return call
    listed = [{"name": one.name, "version": one.version, "weight": one.weight} for one in pins]
    return call.with_text(ADAPTERS, json.dumps(listed))


def _choices(text: str | None) -> list[AdapterChoice]:
    if text is None:
        return []
    try:
        # as JSON: a whole number is a weight, too
        found = _CHOICES.validate_json(text)
    except ValidationError as error:
        raise V2Refused(f"{ADAPTERS}: {summary(error, whole='the list')}") from None
    if len(found) > MAX_ADAPTERS:
        raise V2Refused(f"{ADAPTERS}: {len(found)} adapters, at most {MAX_ADAPTERS} are taken")
    return found


def _is_input(one: object) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("name"), str)
        and isinstance(one.get("datatype"), str)
        and isinstance(one.get("shape"), list)
        and isinstance(one.get("parameters", {}), dict)
    )


def _is_output(one: object) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("name"), str)
        and isinstance(one.get("parameters", {}), dict)
    )


def _binary(inputs: list[dict[str, Any]], data: bytes) -> dict[str, bytes]:
    """The part of `data` that belongs to each input, in their order."""
    found: dict[str, bytes] = {}
    for one in inputs:
        size = one.get("parameters", {}).get("binary_data_size")
        if size is None:
            continue
        if not isinstance(size, int) or not 0 <= size <= len(data):
            raise V2Refused(f"{one['name'][:40]}: binary_data_size does not fit the body")
        found[one["name"]], data = data[:size], data[size:]
    if data:
        raise V2Refused(f"{len(data)} bytes after the last input; is {HEADER_LENGTH} missing?")
    return found


def _only(one: Mapping[str, Any], kind: type[Any]) -> Any:
    data = one.get("data")
    while isinstance(data, list) and len(data) == 1:
        data = data[0]
    if not isinstance(data, kind) or isinstance(data, bool):
        raise V2Refused(f"{one['name']}: is not one {'string' if kind is str else 'whole number'}")
    return data
