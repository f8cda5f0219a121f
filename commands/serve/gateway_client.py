"""A client of the gateway's HTTP API. It translates problem documents into our errors."""

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from atelier.errors import AtelierError, BadInput, Refused, Unavailable


@dataclass(frozen=True)
class ReceivedImage:
    """One picture of an answer."""

    png: bytes
    seed: int


@dataclass(frozen=True)
class GatewayAnswer:
    """The answer of `POST /generate_image`, with decoded pictures."""

    pictures: tuple[ReceivedImage, ...]
    body: dict[str, Any]  # everything but the pictures


@dataclass(frozen=True)
class GatewayClient:
    """One gateway and one key. Errors contain the gateway's message. Calls are not retried."""

    url: str
    key: str
    timeout: float = 300.0

    def generate(self, **fields: Any) -> GatewayAnswer:
        """Request pictures. Fields that are None are left to the gateway's defaults."""
        given = {name: value for name, value in fields.items() if value is not None}
        body = self._ask("/generate_image", given)
        images = body.pop("images")
        pictures = (ReceivedImage(base64.b64decode(one["png"]), int(one["seed"])) for one in images)
        return GatewayAnswer(tuple(pictures), body)

    def usage(self) -> dict[str, Any]:
        """The usage of this key."""
        return self._ask("/api_key_usage", None)

    def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        request = urllib.request.Request(
            self.url.rstrip("/") + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-API-Key": self.key, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise _translated(error) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Unavailable(
                f"no gateway answers at {self.url} ({reason}); start one with `atelier serve`"
            ) from error


def _translated(error: urllib.error.HTTPError) -> AtelierError:
    """Translate a problem document (RFC 9457) into an error of ours."""
    try:
        problem = json.loads(error.read())
        said = problem.get("detail") or problem.get("title") or error.reason
    except ValueError:
        said = str(error.reason)
    text = f"the gateway says {error.code}: {said}"
    if error.code in (401, 403, 429):  # no key that works, or its quota is used up
        return Refused(text)
    if error.code >= 500:
        wait = error.headers.get("Retry-After", "")
        return Unavailable(text, retry_after=float(wait) if wait.isdigit() else None)
    return BadInput(text)
