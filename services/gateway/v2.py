"""V2 inference for clients of Triton and KServe that hold a key: pinned, metered, passed on.

A call keeps its bytes but for ADAPTERS, in which every adapter gets the version that serves, as in
`/generate_image`. Prompts are sent as they are: nothing is filled in. The binary tensor extension
is understood on the way in, and passes through on the way out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from atelier.errors import BadInput
from atelier.validation import summary
from services.gateway.generation import charged, check_sizes, unless_gone
from services.gateway.keys import KeyRecord
from services.gateway.metrics import Metrics
from services.gateway.releases import RETRY_AFTER, AdapterLoading, ReleaseWatch
from services.gateway.replicas import Replicas, V2Answer
from services.gateway.schemas import MAX_ADAPTERS, AdapterChoice
from services.gateway.settings import Settings
from services.gateway.triton_client import AdapterCall
from services.gateway.usage import Meter

logger = logging.getLogger(__name__)

HEADER_LENGTH = "Inference-Header-Content-Length"
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
    ) -> V2Answer:
        """Pictures, charged where Triton made them; its errors pass through as they are."""
        call = V2Call.parse(body, header_length)
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
        choices = _choices(call.text(ADAPTERS))
        async with charged(self.meter, self.metrics, key, images) as charge:
            work = self._ask(path, call, choices, headers, key)
            answer, pins = await unless_gone(work, gone)
            if answer.status == 200:
                await charge()
                self.metrics.delivered(images, pins)
        return answer

    async def _ask(
        self,
        path: str,
        call: V2Call,
        choices: list[AdapterChoice],
        headers: Mapping[str, str],
        key: KeyRecord,
    ) -> tuple[V2Answer, list[AdapterCall]]:
        """Pin and send; once more where the version was dropped between our look and the call."""
        for again in (False, True):
            if again:
                await self.releases.refresh()
            pins = [self._pin(one, key.id) for one in choices]
            pinned = call
            if pins:
                listed = [{"name": p.name, "version": p.version, "weight": p.weight} for p in pins]
                pinned = call.with_text(ADAPTERS, json.dumps(listed))
            body, length = pinned.body()
            answer = await self.replicas.forward(
                "POST",
                path,
                body=body,
                headers={**headers, HEADER_LENGTH: str(length)},
                caller=key.id,
                wanted={(pin.name, pin.version) for pin in pins},
                timeout=self.settings.request_timeout,
            )
            if answer.status != 404 or not pins:
                return answer, pins
            logger.info("V2: %s; looking at the releases again", answer.body[:200])
        raise AdapterLoading("the adapter's version has just gone", retry_after=RETRY_AFTER)

    def _pin(self, choice: AdapterChoice, caller: str) -> AdapterCall:
        one = self.releases.resolve(choice.name, choice.version, caller=caller)
        return AdapterCall(one.name, one.version, choice.weight)


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
