"""One call from a key and a prompt to charged PNGs; every route that makes images goes this way.

resolve versions → fill in the prompt → reserve quota and memory → ask the engine → check its
answer → encode → settle. A call that fails anywhere is not charged.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from starlette.concurrency import run_in_threadpool

from atelier.contract.info import Info
from atelier.contract.request import AdapterUse
from atelier.errors import AtelierError
from services.gateway import prompts
from services.gateway.budget import OWN_SIDE, PixelBudget
from services.gateway.keys import KeyRecord
from services.gateway.metrics import Metrics
from services.gateway.png import encode_png
from services.gateway.problems import invalid
from services.gateway.releases import RETRY_AFTER, AdapterLoading, ReleaseWatch
from services.gateway.routing import Version
from services.gateway.schemas import GenerateImage
from services.gateway.settings import Settings
from services.gateway.triton_client import (
    AdapterGone,
    EngineBusy,
    EngineFailed,
    ImageAnswer,
    ImageCall,
    TimedOut,
)
from services.gateway.usage import Meter, QuotaExceeded, Reserved

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Random seeds stay where every client's numbers are exact (JavaScript's end at 2**53).
RANDOM_SEEDS = 2**32


class ClientGone(AtelierError):  # noqa: N818
    """The client hung up; its call was cancelled and not charged."""


class ImageEngine(Protocol):
    """What makes the pictures: Triton, or a part of a test."""

    async def generate(
        self, call: ImageCall, *, timeout: float, request_id: str
    ) -> ImageAnswer: ...

    async def ready(self) -> bool: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class CallPlan:
    """A call with everything decided, and the versions that it was decided for."""

    call: ImageCall
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class ChargedImages:
    """Charged pictures; whoever sends them takes them out of `pngs`."""

    plan: CallPlan
    info: Info
    pngs: list[bytes]
    seconds: float


@dataclass(frozen=True)
class Generation:
    """The parts that a call needs."""

    settings: Settings
    engine: ImageEngine
    releases: ReleaseWatch
    meter: Meter
    metrics: Metrics
    budget: PixelBudget

    async def make(
        self,
        key: KeyRecord,
        asked: GenerateImage,
        *,
        request_id: str,
        gone: Callable[[], Awaitable[None]],
        until_sent: AsyncExitStack,
    ) -> ChargedImages:
        """Make, check, encode and charge; `gone` returns when the client has hung up.

        The pictures' memory is reserved until `until_sent` is closed.
        """
        began = time.monotonic()
        check_limits(asked, self.settings)
        seed = secrets.randbelow(RANDOM_SEEDS) if asked.seed is None else asked.seed
        plan = self._plan(asked, seed, key.id)
        async with charged(self.meter, self.metrics, key, asked.images) as charge:
            work = self._draw(asked, plan, request_id, until_sent)
            plan, answer = await unless_gone(work, gone)
            info, pngs = answer.info, await _encoded(plan.call, answer)
            del answer  # the raw pixels are as large as the PNGs, or larger
            await charge()
        self.metrics.delivered(len(pngs), plan.call.adapters)
        return ChargedImages(plan, info, pngs, time.monotonic() - began)

    async def _draw(
        self, asked: GenerateImage, plan: CallPlan, request_id: str, until_sent: AsyncExitStack
    ) -> tuple[CallPlan, ImageAnswer]:
        """Wait until there is memory for the pictures, then ask."""
        end = time.monotonic() + self.settings.request_timeout
        pixels = asked.images * (asked.width or OWN_SIDE) * (asked.height or OWN_SIDE)
        await until_sent.enter_async_context(self._room(pixels))
        return await self._ask(asked, plan, end, request_id)

    @asynccontextmanager
    async def _room(self, pixels: int) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            with self.metrics.waiting():
                await stack.enter_async_context(self.budget.reserved(pixels))
            stack.enter_context(self.metrics.pixels_under_way(pixels))
            yield

    async def _ask(
        self, asked: GenerateImage, plan: CallPlan, end: float, request_id: str
    ) -> tuple[CallPlan, ImageAnswer]:
        """Ask the engine; where the version is gone meanwhile, look again and ask once more.

        A release may move and the version before it be dropped between our look and the call.
        """
        try:
            return plan, await self._call(plan, end, request_id)
        except AdapterGone as error:
            logger.info("request %s: %s; looking at the releases again", request_id, error)
        await self.releases.refresh()
        again = self._plan(asked, plan.call.seed, plan.call.caller)
        try:
            return again, await self._call(again, end, request_id)
        except AdapterGone as error:
            raise AdapterLoading(str(error), retry_after=RETRY_AFTER) from error

    async def _call(self, plan: CallPlan, end: float, request_id: str) -> ImageAnswer:
        began = time.monotonic()
        try:
            answer = await self.engine.generate(
                plan.call, timeout=max(0.001, end - began), request_id=request_id
            )
            check_answer(plan.versions, plan.call.images, answer.info)
        except EngineBusy:
            self.metrics.queue_rejections.inc()
            raise
        except (EngineFailed, TimedOut):
            self.metrics.failed(plan.call.adapters)
            raise
        self.metrics.engine_seconds.observe(time.monotonic() - began)
        return answer

    def _plan(self, asked: GenerateImage, seed: int, caller: str) -> CallPlan:
        """Decide versions and prompt from one look at the routes."""
        choices = asked.choices()
        versions = tuple(
            self.releases.resolve(one.name, one.version, caller=caller) for one in choices
        )
        manifests = [one.manifest for one in versions]
        prompt = prompts.styled(asked.prompt, asked.style, manifests)
        prompt = prompts.triggered(prompt, manifests, fill=asked.fill_trigger)
        call = ImageCall(
            prompt=prompt,
            negative_prompt=asked.negative_prompt,
            adapters=tuple(
                AdapterUse(version.name, version.version, choice.weight)
                for version, choice in zip(versions, choices, strict=True)
            ),
            scheduler=asked.scheduler,
            seed=seed,
            steps=asked.steps,
            width=asked.width,
            height=asked.height,
            images=asked.images,
            guidance_scale=asked.guidance_scale,
            caller=caller,
        )
        return CallPlan(call, versions)


@asynccontextmanager
async def charged(
    meter: Meter, metrics: Metrics, key: KeyRecord, images: int
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold `images` of the key's quota. Who has made them awaits what this gives; otherwise, and
    where anything fails, they are given back."""
    try:
        reserved = await run_in_threadpool(meter.reserve, key, images)
    except QuotaExceeded:
        metrics.quota_rejections.inc()
        raise
    settled = False

    async def charge() -> None:
        nonlocal settled
        settled = True
        await run_in_threadpool(meter.settle, reserved)

    try:
        yield charge
    finally:
        if not settled:
            await _release(meter, reserved)


async def _release(meter: Meter, reserved: Reserved) -> None:
    try:
        await run_in_threadpool(meter.release, reserved)
    except Exception:  # the first error is the one to tell; the reservation expires by itself
        logger.exception("reservation %s could not be given back", reserved.id)


def check_limits(asked: GenerateImage, settings: Settings) -> None:
    """Refuse what this operator does not allow, naming every field at once."""
    check_sizes(
        settings,
        texts={"prompt": asked.prompt, "negative_prompt": asked.negative_prompt},
        images=asked.images,
        steps=asked.steps,
        width=asked.width,
        height=asked.height,
    )


def check_sizes(
    settings: Settings, *, texts: Mapping[str, str | None], **sizes: int | None
) -> None:
    """The same for fields however they came; `sizes` are images, steps, width and height."""
    errors = [
        (field, f"has {len(text.encode())} bytes, at most {settings.prompt_limit} are taken")
        for field, text in texts.items()
        if text is not None and len(text.encode()) > settings.prompt_limit
    ]
    bounds = {
        "images": settings.max_images,
        "steps": settings.max_steps,
        "width": settings.max_side,
        "height": settings.max_side,
    }
    errors += [
        (field, f"{value} is more than the {bounds[field]} allowed here")
        for field, value in sizes.items()
        if value is not None and value > bounds[field]
    ]
    if errors:
        raise invalid(errors)


def check_answer(versions: Iterable[Version], images: int, info: Info) -> None:
    """EngineFailed unless the pictures were made with exactly the weights that were asked for."""
    asked = {(one.name, one.version, one.digest) for one in versions}
    used = {(one.name, one.version, one.digest) for one in info.adapters}
    if asked != used:
        raise EngineFailed(f"asked for the adapters {asked}, the engine used {used}")
    if len(info.seeds) != images:
        raise EngineFailed(f"asked for {images} pictures, got {len(info.seeds)}")


async def unless_gone(work: Awaitable[Result], gone: Callable[[], Awaitable[None]]) -> Result:
    """The work's result; the work is cancelled when the client hangs up first."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client hung up")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _encoded(call: ImageCall, answer: ImageAnswer) -> list[bytes]:
    """One after another, so that a call of eight pictures keeps no other one waiting for long."""
    return [
        await run_in_threadpool(encode_png, pixels, metadata(call, answer, index))
        for index, pixels in enumerate(answer.pixels)
    ]


def metadata(call: ImageCall, answer: ImageAnswer, index: int) -> dict[str, Any]:
    """All that is needed to make picture `index` of the answer again."""
    height, width = answer.pixels.shape[1:3]
    info = answer.info
    return {
        "prompt": call.prompt,
        "negative_prompt": call.negative_prompt,
        "seed": info.seeds[index],
        "steps": call.steps,
        "scheduler": call.scheduler,
        "guidance_scale": call.guidance_scale,
        "width": width,
        "height": height,
        "adapters": [one.model_dump() for one in info.adapters],
        "base": info.base,
        "backend": info.backend,
        "engine_digest": info.engine_digest,
    }
