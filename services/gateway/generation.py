"""Generate and charge the images of one request.

The steps: resolve the versions, insert the triggers, reserve quota and memory, call the engine,
check its response, encode the images, charge them. A request that fails at any step is not charged.
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
from services.gateway.settings import GatewaySettings
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

# Random seeds are integers that every client represents exactly (JavaScript: up to 2**53).
RANDOM_SEEDS = 2**32


class ClientGone(AtelierError):  # noqa: N818
    """The client disconnected; its call was cancelled and not charged."""


class ImageEngine(Protocol):
    """The engine behind the gateway: Triton's replicas, or a fake in tests."""

    async def generate(self, call: ImageCall, *, timeout: float, request_id: str) -> ImageAnswer:
        """Generate the images of a call within `timeout` seconds."""
        ...

    async def ready(self) -> bool:
        """Return whether the engine can be called now."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


@dataclass(frozen=True)
class CallPlan:
    """A complete call to the engine, and the adapter versions that it pins."""

    call: ImageCall
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class ChargedImages:
    """Charged images. The code that sends them removes each image from `pngs` to free memory."""

    plan: CallPlan
    info: Info
    pngs: list[bytes]
    seconds: float  # time from the request to the charge


@dataclass(frozen=True)
class Generation:
    """Generate images for requests, with the shared objects of one application."""

    settings: GatewaySettings
    engine: ImageEngine
    releases: ReleaseWatch
    meter: Meter
    metrics: Metrics
    budget: PixelBudget

    async def make(
        self,
        key: KeyRecord,
        request: GenerateImage,
        *,
        request_id: str,
        gone: Callable[[], Awaitable[None]],
        until_sent: AsyncExitStack,
    ) -> ChargedImages:
        """Generate, check, encode and charge the images of a request.

        If the client disconnects, `gone` returns and ClientGone is raised. The memory of the images
        stays reserved until `until_sent` is closed. `problems.problem_of` lists the errors.
        """
        began = time.monotonic()
        check_limits(request, self.settings)
        seed = secrets.randbelow(RANDOM_SEEDS) if request.seed is None else request.seed
        plan = self._plan(request, seed, key.id)
        async with charged(self.meter, self.metrics, key, request.images) as charge:
            work = self._generate(request, plan, request_id, until_sent)
            plan, answer = await unless_gone(work, gone)
            info, pngs = answer.info, await _encoded(plan.call, answer)
            del answer  # the raw pixels take at least as much memory as the PNGs
            await charge()
        self.metrics.delivered(len(pngs), plan.call.adapters)
        return ChargedImages(plan, info, pngs, time.monotonic() - began)

    async def _generate(
        self, request: GenerateImage, plan: CallPlan, request_id: str, until_sent: AsyncExitStack
    ) -> tuple[CallPlan, ImageAnswer]:
        """Reserve memory for the images, then call the engine."""
        end = time.monotonic() + self.settings.request_timeout
        pixels = request.images * (request.width or OWN_SIDE) * (request.height or OWN_SIDE)
        await until_sent.enter_async_context(self._memory(pixels))
        return await self._call_current(request, plan, end, request_id)

    @asynccontextmanager
    async def _memory(self, pixels: int) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            with self.metrics.waiting():
                await stack.enter_async_context(self.budget.reserved(pixels))
            stack.enter_context(self.metrics.pixels_under_way(pixels))
            yield

    async def _call_current(
        self, request: GenerateImage, plan: CallPlan, end: float, request_id: str
    ) -> tuple[CallPlan, ImageAnswer]:
        """Call the engine. If it has dropped a version, resolve the versions again and retry once.

        Between resolving and the call, a release may change and the engine may unload its previous
        version.
        """
        try:
            return plan, await self._call(plan, end, request_id)
        except AdapterGone as error:
            logger.info("request %s: %s; resolving the versions again", request_id, error)
        await self.releases.refresh()
        current = self._plan(request, plan.call.seed, plan.call.caller)
        try:
            return current, await self._call(current, end, request_id)
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

    def _plan(self, request: GenerateImage, seed: int, caller: str) -> CallPlan:
        """Resolve the versions from the current routes, and complete the prompt."""
        choices = request.choices()
        versions = tuple(
            self.releases.resolve(choice.name, choice.version, caller=caller) for choice in choices
        )
        manifests = [version.manifest for version in versions]
        prompt = prompts.styled(request.prompt, request.style, manifests)
        prompt = prompts.triggered(prompt, manifests, fill=request.fill_trigger)
        call = ImageCall(
            prompt=prompt,
            negative_prompt=request.negative_prompt,
            adapters=tuple(
                AdapterUse(version.name, version.version, choice.weight)
                for version, choice in zip(versions, choices, strict=True)
            ),
            scheduler=request.scheduler,
            seed=seed,
            steps=request.steps,
            width=request.width,
            height=request.height,
            images=request.images,
            guidance_scale=request.guidance_scale,
            caller=caller,
        )
        return CallPlan(call, versions)


@asynccontextmanager
async def charged(
    meter: Meter, metrics: Metrics, key: KeyRecord, images: int
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Reserve `images` of the key's quota inside the block.

    The block gets a function that charges the images. If the block does not call this function, the
    reservation is released at its end. Raises QuotaExceeded or KeyRefused.
    """
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
    except Exception:  # keep the error of the block; the reservation expires
        logger.exception("reservation %s: cannot be released; it will expire", reserved.id)


def check_limits(request: GenerateImage, settings: GatewaySettings) -> None:
    """Raise an `invalid-request` problem that names every field over a limit of this gateway."""
    check_sizes(
        settings,
        texts={"prompt": request.prompt, "negative_prompt": request.negative_prompt},
        images=request.images,
        steps=request.steps,
        width=request.width,
        height=request.height,
    )


def check_sizes(
    settings: GatewaySettings, *, texts: Mapping[str, str | None], **sizes: int | None
) -> None:
    """Raise the problem of `check_limits`; `sizes` are images, steps, width and height."""
    errors = [
        (
            field,
            f"{len(text.encode())} bytes exceed the limit of this gateway, {settings.prompt_limit}",
        )
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
        (field, f"{value} exceeds the limit of this gateway, {bounds[field]}")
        for field, value in sizes.items()
        if value is not None and value > bounds[field]
    ]
    if errors:
        raise invalid(errors)


def check_answer(versions: Iterable[Version], images: int, info: Info) -> None:
    """Raise EngineFailed unless the engine made `images` images with exactly these versions."""
    requested = {(version.name, version.version, version.digest) for version in versions}
    used = {(adapter.name, adapter.version, adapter.digest) for adapter in info.adapters}
    if requested != used:
        raise EngineFailed(f"requested the adapters {requested}, but the engine used {used}")
    if len(info.seeds) != images:
        raise EngineFailed(f"requested {images} images, but the engine returned {len(info.seeds)}")


async def unless_gone(work: Awaitable[Result], gone: Callable[[], Awaitable[None]]) -> Result:
    """Return the result of `work`. If `gone` returns first, cancel it and raise ClientGone."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("the client disconnected")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _encoded(call: ImageCall, answer: ImageAnswer) -> list[bytes]:
    """Encode the images one by one, so that a large call does not delay other calls for long."""
    return [
        await run_in_threadpool(encode_png, pixels, metadata(call, answer, index))
        for index, pixels in enumerate(answer.pixels)
    ]


def metadata(call: ImageCall, answer: ImageAnswer, index: int) -> dict[str, Any]:
    """Return the parameters that reproduce image `index` of the engine's response."""
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
        "adapters": [adapter.model_dump() for adapter in info.adapters],
        "base": info.base,
        "backend": info.backend,
        "engine_digest": info.engine_digest,
    }
