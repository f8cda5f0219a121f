"""One HTTP request to another service; its answer, or an error that a caller can act on.

Redirects are refused. A client that follows one sends the request's credential to whatever host
the answer names: `X-API-Key`, unlike `Authorization`, is kept by every client library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from atelier.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import ssl

    import httpx2

CONNECT_SECONDS = 10.0
PROBE_SECONDS = 2.0


def send(
    method: str,
    url: str,
    *,
    what: str,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    body: object = None,
) -> httpx2.Response:
    """The answer to a request, whatever its status but a redirect; `body` is sent as JSON.

    `what` begins the error's text: Unavailable where no answer comes within `timeout` seconds for
    each read or write, BadInput where the address or a header is malformed, or redirects elsewhere.
    Neither contains a header.
    """
    import httpx2

    sent, content = dict(headers or {}), None
    if body is not None:
        sent["Content-Type"] = "application/json"
        try:
            content = json.dumps(body, allow_nan=False)
        except ValueError as error:
            raise BadInput(f"{what}: not sent, a number is infinite or none") from error
    try:
        answer = httpx2.request(
            method,
            url,
            headers=sent,
            content=content,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            follow_redirects=False,
            verify=_authorities(),
        )
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):  # their text may quote a password
        raise BadInput(f"{what}: the address must read like https://host:port") from None
    except (httpx2.LocalProtocolError, UnicodeError):  # their text quotes the header
        text = f"{what}: the key has a character that no HTTP header may have; remove it"
        raise BadInput(text) from None
    except httpx2.HTTPError as error:
        raise Unavailable(f"{what}: {str(error) or type(error).__name__}") from error
    if answer.has_redirect_location:
        text = f"the address redirects to {_target(answer)}; give that one, if you trust it"
        raise BadInput(f"{what}: {text}")
    return answer


def _target(answer: httpx2.Response) -> str:
    """Where a redirect leads, without what may be a credential: user, query and fragment."""
    import httpx2

    try:
        place = answer.url.join(answer.headers["Location"])
    except httpx2.InvalidURL:
        return "a malformed address"
    return f"{place.scheme}://{place.netloc.decode()}{place.path}"


def decoded(answer: httpx2.Response, *, what: str) -> Any:
    """The JSON of an answer; Unavailable where it is none, as that of a proxy in between."""
    try:
        return answer.json()
    except ValueError as error:
        raise Unavailable(f"{what}: the answer is not JSON: {error}") from error


def retry_after(answer: httpx2.Response) -> float | None:
    """The seconds after which to ask again, where the answer gives them."""
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isdigit() else None


def is_ready(url: str) -> bool:
    """Whether a GET on this machine is answered with 200, within two seconds."""
    import httpx2

    try:
        answer = httpx2.get(url, timeout=PROBE_SECONDS, trust_env=False, verify=_authorities())
    except httpx2.HTTPError:
        return False
    return bool(answer.status_code == 200)


@cache
def _authorities() -> ssl.SSLContext:
    """The system's, or those of SSL_CERT_FILE; loading them takes 20 ms."""
    import httpx2

    return httpx2.create_ssl_context()
