"""A client of the HTTP API of the gateway. It turns problem documents into exceptions."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atelier import http_client
from atelier.contract.problems import error_of
from atelier.errors import AtelierError, Unavailable

if TYPE_CHECKING:
    import httpx2


@dataclass(frozen=True)
class ReceivedImage:
    """One image of a response."""

    png: bytes
    seed: int


@dataclass(frozen=True)
class GatewayAnswer:
    """The response to `POST /generate_image`, with decoded images."""

    pictures: tuple[ReceivedImage, ...]
    body: dict[str, Any]  # the JSON object without the images


@dataclass(frozen=True)
class GatewayClient:
    """A client with a gateway URL, a key, and a timeout in seconds. It retries no request."""

    url: str
    key: str
    timeout: float = 300.0

    def generate(self, **fields: Any) -> GatewayAnswer:
        """Generate images. The gateway applies its default to each field that is None.

        Raises BadInput, Refused or Unavailable, depending on the status, with the message of the
        gateway. Raises Unavailable if the gateway cannot be reached.
        """
        body = self._ask(
            "POST",
            "/generate_image",
            {name: value for name, value in fields.items() if value is not None},
        )
        pictures = (
            ReceivedImage(base64.b64decode(image["png"]), int(image["seed"]))
            for image in body.pop("images")
        )
        return GatewayAnswer(tuple(pictures), body)

    def usage(self) -> dict[str, Any]:
        """Return the usage of this key. Raises the same errors as `generate`."""
        return self._ask("GET", "/api_key_usage")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        gateway = f"the gateway at {self.url}"
        try:
            answer = http_client.send(
                method,
                self.url.rstrip("/") + path,
                what=gateway,
                timeout=self.timeout,
                headers={"X-API-Key": self.key},
                body=body,
            )
        except Unavailable as error:
            raise Unavailable(f"{error}; start a gateway with `atelier serve`") from error
        if not answer.is_success:
            raise _translated(answer)
        decoded: dict[str, Any] = http_client.decoded(answer, what=gateway)
        return decoded


def _translated(answer: httpx2.Response) -> AtelierError:
    """Return the exception for a problem document (RFC 9457)."""
    try:
        problem = answer.json()
        detail = problem.get("detail") or problem.get("title") or answer.reason_phrase
    except (ValueError, AttributeError):
        detail = answer.reason_phrase
    status = answer.status_code
    text = f"the gateway returned {status}: {detail}"
    kind = error_of(status)
    if issubclass(kind, Unavailable):
        return kind(text, retry_after=http_client.retry_after(answer))
    return kind(text)
