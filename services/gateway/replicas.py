"""The engines behind the gateway as one: each call goes to one replica, and to another only where
the first has certainly not begun it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass

import aiohttp

from atelier.contract.replica import Replica
from atelier.contract.request import pinned
from atelier.errors import Unavailable
from services.gateway.balance import STABLE, Balancer, Wanted
from services.gateway.triton_client import (
    RETRY_AFTER,
    AdapterGone,
    EngineAway,
    EngineBusy,
    EngineFailed,
    ImageAnswer,
    ImageCall,
    TimedOut,
    TritonClient,
    unavailable,
)

CONNECT_SECONDS = 2.0
READY_SECONDS = 2.0
SHORT = 2**20  # bytes of an error, of metadata, of a configuration
PIECE = 2**16  # bytes that are passed on at once


@dataclass(frozen=True)
class V2Answer:
    """What Triton's HTTP answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """What an error says; empty where it is none that can be read."""
        try:
            return str(json.loads(self.body)["error"])
        except (ValueError, TypeError, LookupError, RecursionError):
            return ""


class V2Stream:
    """An answer of Triton's HTTP whose body is still to be read, once.

    Errors are those of `triton_client.py`.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._whole: V2Answer | None = None
        self.status = response.status
        self.headers: Mapping[str, str] = dict(response.headers)

    async def whole(self) -> V2Answer:
        """All of a short answer, such as an error; EngineFailed for a longer one."""
        if self._whole is None:
            with _translated():
                body = await self._response.content.read(SHORT + 1)
                while len(body) <= SHORT and (more := await self._response.content.read(SHORT)):
                    body += more
            if len(body) > SHORT:
                raise EngineFailed(f"Triton answered {self.status} with more than {SHORT} bytes")
            self._whole = V2Answer(self.status, self.headers, body)
        return self._whole

    async def exactly(self, size: int) -> bytes:
        """The next bytes."""
        with _translated():
            return await self._response.content.readexactly(size)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The rest, as it comes."""
        with _translated():
            async for piece in self._response.content.iter_chunked(PIECE):
                yield piece


class Replicas:
    """Every replica of this gateway. Use it in the event loop that made it.

    Where replicas tell no addresses (or none is there yet), the one at `default` is asked.
    """

    def __init__(
        self,
        balancer: Balancer,
        model: str,
        *,
        default: str | None,
        counted: Callable[[str], None] = lambda pool: None,  # each call's pool
    ) -> None:
        self._balancer = balancer
        self._model = model
        self._default = default
        self._counted = counted
        self._clients: dict[str, TritonClient] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._http: aiohttp.ClientSession | None = None

    async def generate(self, call: ImageCall, *, timeout: float, request_id: str) -> ImageAnswer:
        """Pictures for the call; errors are those of `triton_client.py`."""
        end = time.monotonic() + timeout
        if self._single():
            client = self._client(self._default or "")
            return await client.generate(call, timeout=timeout, request_id=request_id)
        wanted = pinned(call.adapters)
        tried: list[str] = []
        refusal: Unavailable | None = None
        while True:
            one = self._choose(call.caller, wanted, tried, refusal)
            tried.append(one.replica)
            with self._call(one):
                try:
                    left = max(0.001, end - time.monotonic())
                    client = self._client(one.grpc or "")
                    return await client.generate(call, timeout=left, request_id=request_id)
                except (EngineAway, EngineBusy) as error:
                    if not error.refused:
                        raise
                    refusal = error
                    if isinstance(error, EngineAway):
                        self._balancer.leave_out(one.replica)

    async def forward(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str],
        caller: str,
        wanted: Wanted = (),
        timeout: float,
    ) -> V2Answer:
        """A short answer to a V2 call, as `open` gives it."""
        opened = self.open(
            method, path, body=body, headers=headers, caller=caller, wanted=wanted, timeout=timeout
        )
        async with opened as stream:
            return await stream.whole()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str],
        caller: str,
        wanted: Wanted = (),
        timeout: float,
    ) -> AsyncIterator[V2Stream]:
        """A V2 call over HTTP, as it is; an answer of any status is Triton's own, but for one that
        says that the call was not begun: where no replica begins it, that is the error.

        `timeout` is for all of it, reading the answer included.
        """
        end = time.monotonic() + timeout
        tried: list[str] = []
        refusal: Unavailable | None = None
        while True:
            one = self._choose(caller, wanted, tried, refusal, http=True)
            tried.append(one.replica)
            with self._call(one):
                async with AsyncExitStack() as stack:
                    try:
                        left = max(0.001, end - time.monotonic())
                        with _translated():
                            sent = self._send(
                                method, f"http://{one.address}{path}", body, headers, left
                            )
                            stream = V2Stream(await stack.enter_async_context(sent))
                        refusal = await _refusal(stream)
                    except EngineAway as error:
                        if not error.refused:
                            raise
                        refusal = error
                    if refusal is None:
                        yield stream
                        return
                if isinstance(refusal, EngineAway):
                    self._balancer.leave_out(one.replica)

    async def ready(self) -> bool:
        """Whether any replica's model can be called now."""
        known = self._balancer.replicas()
        addresses = [self._default] if self._single() else [one.grpc for one in known]
        asked = [self._client(address).ready() for address in addresses if address]
        return any(await asyncio.gather(*asked))

    async def close(self) -> None:
        """End every connection."""
        for client in self._clients.values():
            await client.close()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def _single(self) -> bool:
        """Whether there is only the engine that the settings name."""
        told = any(one.grpc for one in self._balancer.replicas())
        return self._default is not None and not told

    def _choose(
        self,
        caller: str,
        wanted: Wanted,
        tried: Collection[str],
        refusal: Unavailable | None,
        *,
        http: bool = False,
    ) -> Replica:
        while True:
            one = self._balancer.choose(caller, wanted, tried)
            if one is None:
                break
            if one.address if http else one.grpc:
                return one
            tried = [*tried, one.replica]
        if refusal is not None:
            raise refusal
        if not self._balancer.replicas() or tried or not wanted:
            raise EngineAway("no replica can be reached", retry_after=RETRY_AFTER, refused=True)
        names = ", ".join(f"{name}@{version}" for name, version in sorted(wanted))
        raise AdapterGone(f"no replica holds {names} now")

    def _call(self, one: Replica) -> AbstractContextManager[None]:
        self._counted(one.pool or STABLE)
        return self._balancer.under_way(one.replica)

    def _client(self, address: str) -> TritonClient:
        """The channel to an address, made when it is first needed; those of replicas that are gone
        are closed."""
        if address not in self._clients:
            there = {one.grpc for one in self._balancer.replicas()} | {self._default}
            for gone in set(self._clients) - there:
                task = asyncio.ensure_future(self._clients.pop(gone).close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            self._clients[address] = TritonClient(address, self._model)
        return self._clients[address]

    def _send(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], timeout: float
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._http is None:
            # a connection for each call: one that is kept may be closed by Triton as it is used
            # again, and nobody could tell whether the call was begun
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0), auto_decompress=False
            )
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        return self._http.request(
            method,
            url,
            data=body or None,
            headers={**headers, "Accept-Encoding": "identity"},  # it is read here
            timeout=limits,
            allow_redirects=False,
        )


@contextmanager
def _translated() -> Iterator[None]:
    """aiohttp's errors as those of `triton_client.py`."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise EngineAway("the image engine does not answer", refused=True) from error
    except TimeoutError as error:
        raise TimedOut("there was no answer in the time a request may take") from error
    except (aiohttp.ClientError, asyncio.IncompleteReadError) as error:
        raise EngineAway("the image engine broke off") from error


async def _refusal(stream: V2Stream) -> Unavailable | None:
    """What an answer says where the call was certainly not begun; None for every other answer."""
    if stream.status != 503:
        return None
    told = unavailable((await stream.whole()).text())
    return told if told.refused else None
