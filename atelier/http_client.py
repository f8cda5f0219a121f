"""Single HTTP requests to other services, with the errors of this project.

Redirects are refused. A client that follows one sends the request's credential to the new host: all
client libraries keep `X-API-Key`, unlike `Authorization`.
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
    """Send a request, `body` as JSON; return the response unless it is a redirect.

    `timeout` is in seconds for each read or write; `what` begins the text of errors. Raises
    Unavailable if there is no response, BadInput if the address or a header is malformed or the
    address redirects. The texts contain no header.
    """
    import httpx2

    sent, content = dict(headers or {}), None
    if body is not None:
        sent["Content-Type"] = "application/json"
        try:
            content = json.dumps(body, allow_nan=False)
        except ValueError as error:
            raise BadInput(
                f"{what}: not sent, because a number is infinite or NaN; correct it"
            ) from error
    try:
        response = httpx2.request(
            method,
            url,
            headers=sent,
            content=content,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            follow_redirects=False,
            verify=_authorities(),
        )
    except (
        httpx2.InvalidURL,
        httpx2.UnsupportedProtocol,
    ):  # the text of these errors may quote a password
        raise BadInput(f"{what}: the address must have the form https://host:port") from None
    except (httpx2.LocalProtocolError, UnicodeError):  # the text of these errors quotes the header
        text = f"{what}: the key has a character that is not allowed in HTTP headers; remove it"
        raise BadInput(text) from None
    except httpx2.HTTPError as error:
        raise Unavailable(f"{what}: {str(error) or type(error).__name__}") from error
    if response.has_redirect_location:
        text = f"the address redirects to {_target(response)}; use that address if you trust it"
        raise BadInput(f"{what}: {text}")
    return response


def _target(response: httpx2.Response) -> str:
    """Return the target of a redirect, without user, query and fragment (possible credentials)."""
    import httpx2

    try:
        place = response.url.join(response.headers["Location"])
    except httpx2.InvalidURL:
        return "a malformed address"
    return f"{place.scheme}://{place.netloc.decode()}{place.path}"


def decoded(response: httpx2.Response, *, what: str) -> Any:
    """Return the JSON of a response.

    Raises Unavailable for other content, such as a proxy's page.
    """
    try:
        return response.json()
    except ValueError as error:
        raise Unavailable(f"{what}: the response is not JSON: {error}") from error


def retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds in the header Retry-After of a response, or None."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def is_ready(url: str) -> bool:
    """Return whether a server on this machine answers a GET with 200, within two seconds."""
    import httpx2

    try:
        response = httpx2.get(url, timeout=PROBE_SECONDS, trust_env=False, verify=_authorities())
    except httpx2.HTTPError:
        return False
    return bool(response.status_code == 200)


@cache
def _authorities() -> ssl.SSLContext:
    """Load the CAs of the system or of SSL_CERT_FILE once, which takes 20 ms."""
    import httpx2

    return httpx2.create_ssl_context()
