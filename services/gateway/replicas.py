"""Send each call to one of the replicas behind the gateway.

A call is sent to another replica only if the first replica has certainly not started it.
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
SHORT = 2**20  # bytes; the limit for errors, metadata and configurations
PIECE = 2**16  # bytes forwarded at once


@dataclass(frozen=True)
class V2Answer:
    """A complete HTTP response of Triton."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """Return the error message in the body, or an empty string if it has no message."""
        try:
            return str(json.loads(self.body)["error"])
        except (ValueError, TypeError, LookupError, RecursionError):
            return ""


class V2Stream:
    """An HTTP response of Triton whose body is read once, in pieces.

    All methods raise the errors of `triton_client.py`.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._whole: V2Answer | None = None
        self.status = response.status
        self.headers: Mapping[str, str] = dict(response.headers)

    async def whole(self) -> V2Answer:
        """Read a short response, such as an error.

        Raises EngineFailed if it has more than SHORT bytes.
        """
        if self._whole is None:
            with _translated():
                body = await self._response.content.read(SHORT + 1)
                while len(body) <= SHORT and (more := await self._response.content.read(SHORT)):
                    body += more
            if len(body) > SHORT:
                raise EngineFailed(
                    f"the response of Triton (status {self.status}) has more than {SHORT} bytes"
                )
            self._whole = V2Answer(self.status, self.headers, body)
        return self._whole

    async def exactly(self, size: int) -> bytes:
        """Read the next `size` bytes."""
        with _translated():
            return await self._response.content.readexactly(size)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the rest of the body as it arrives."""
        with _translated():
            async for piece in self._response.content.iter_chunked(PIECE):
                yield piece


class Replicas:
    """Send calls to the replicas of this gateway. Use it in the event loop that created it.

    If no replica reports an address, calls are sent to the gRPC address `default`.
    """

    def __init__(
        self,
        balancer: Balancer,
        model: str,
        *,
        default: str | None,
        counted: Callable[[str], None] = lambda pool: None,  # called with the pool of each call
    ) -> None:
        self._balancer = balancer
        self._model = model
        self._default = default
        self._counted = counted
        self._clients: dict[str, TritonClient] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._http: aiohttp.ClientSession | None = None

    async def generate(self, call: ImageCall, *, timeout: float, request_id: str) -> ImageAnswer:
        """Generate the images of a call. Raises the errors of `triton_client.py`."""
        end = time.monotonic() + timeout
        if self._single():
            client = self._client(self._default or "")
            return await client.generate(call, timeout=timeout, request_id=request_id)
        wanted = pinned(call.adapters)
        tried: list[str] = []
        refusal: Unavailable | None = None
        while True:
            replica = self._choose(call.caller, wanted, tried, refusal)
            tried.append(replica.replica)
            with self._call(replica):
                try:
                    left = max(0.001, end - time.monotonic())
                    client = self._client(replica.grpc or "")
                    return await client.generate(call, timeout=left, request_id=request_id)
                except (EngineAway, EngineBusy) as error:
                    if not error.refused:
                        raise
                    refusal = error
                    if isinstance(error, EngineAway):
                        self._balancer.leave_out(replica.replica)

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
        """Send a V2 call as `open` does, and return its short response."""
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
        """Send a V2 call over HTTP unchanged, and open its response, whatever its status.

        `timeout` is in seconds and includes reading the response. If every replica refuses to start
        the call, the error of the last replica is raised: EngineAway or EngineBusy.
        """
        end = time.monotonic() + timeout
        tried: list[str] = []
        refusal: Unavailable | None = None
        while True:
            replica = self._choose(caller, wanted, tried, refusal, http=True)
            tried.append(replica.replica)
            with self._call(replica):
                async with AsyncExitStack() as stack:
                    try:
                        left = max(0.001, end - time.monotonic())
                        with _translated():
                            url = f"http://{replica.address}{path}"
                            sent = self._send(method, url, body, headers, left)
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
                    self._balancer.leave_out(replica.replica)

    async def ready(self) -> bool:
        """Return whether the model of at least one replica can be called now."""
        replicas = self._balancer.replicas()
        addresses = [self._default] if self._single() else [replica.grpc for replica in replicas]
        checks = [self._client(address).ready() for address in addresses if address]
        return any(await asyncio.gather(*checks))

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def _single(self) -> bool:
        """Return whether calls are sent to `default`, because no replica reports an address."""
        reported = any(replica.grpc for replica in self._balancer.replicas())
        return self._default is not None and not reported

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
            replica = self._balancer.choose(caller, wanted, tried)
            if replica is None:
                break
            if replica.address if http else replica.grpc:
                return replica
            tried = [*tried, replica.replica]
        if refusal is not None:
            raise refusal
        if not self._balancer.replicas() or tried or not wanted:
            raise EngineAway("no replica can be reached", retry_after=RETRY_AFTER, refused=True)
        names = ", ".join(f"{name}@{version}" for name, version in sorted(wanted))
        raise AdapterGone(f"no replica has {names} loaded now")

    def _call(self, replica: Replica) -> AbstractContextManager[None]:
        self._counted(replica.pool or STABLE)
        return self._balancer.under_way(replica.replica)

    def _client(self, address: str) -> TritonClient:
        """Return the channel to an address. A new channel closes the channels of ended replicas."""
        if address not in self._clients:
            current = {replica.grpc for replica in self._balancer.replicas()} | {self._default}
            for gone in set(self._clients) - current:
                task = asyncio.ensure_future(self._clients.pop(gone).close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            self._clients[address] = TritonClient(address, self._model)
        return self._clients[address]

    def _send(
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], timeout: float
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._http is None:
            # One connection for each call: Triton may close a reused one during the next call, and
            # then it is unknown whether that call was started.
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0), auto_decompress=False
            )
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        return self._http.request(
            method,
            url,
            data=body or None,
            headers={**headers, "Accept-Encoding": "identity"},  # V2Stream reads the body
            timeout=limits,
            allow_redirects=False,
        )


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the errors of aiohttp to the errors of `triton_client.py`."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise EngineAway(
            "the image engine does not answer; try again later", refused=True
        ) from error
    except TimeoutError as error:
        raise TimedOut(
            "the image engine did not respond within the request's time limit; request fewer "
            "images or steps"
        ) from error
    except (aiohttp.ClientError, asyncio.IncompleteReadError) as error:
        raise EngineAway("the connection to the image engine broke; try again") from error


async def _refusal(stream: V2Stream) -> Unavailable | None:
    """Return the error if the call was certainly not started, and None for other responses."""
    if stream.status != 503:
        return None
    error = unavailable((await stream.whole()).text())
    return error if error.refused else None
