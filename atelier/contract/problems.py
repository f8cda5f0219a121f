"""The catalogue of the gateway's problem types (RFC 9457).

The gateway sends them, `/docs` describes them, the client of this project reads them, and
docs/errors.md lists them.
"""

from collections.abc import Mapping
from typing import NamedTuple

from atelier.errors import AtelierError, BadInput, Refused, Unavailable

TYPE = "urn:atelier:problem:"  # followed by the name
MEDIA_TYPE = "application/problem+json"


class ProblemType(NamedTuple):
    """One type of problem: its HTTP status and title."""

    status: int  # of HTTP
    title: str


# Clients depend on the names: add some, but never rename one.
CATALOGUE: Mapping[str, ProblemType] = {
    "malformed-json": ProblemType(400, "The body is not JSON"),
    "bad-request": ProblemType(400, "The request cannot be read"),
    "key-missing": ProblemType(401, "An API key is required"),
    "key-wrong": ProblemType(401, "The key is unknown"),
    "key-expired": ProblemType(401, "The key has expired"),
    "key-revoked": ProblemType(401, "The key was revoked"),
    "forbidden": ProblemType(403, "Not allowed"),
    "not-found": ProblemType(404, "No such resource"),
    "unknown-adapter": ProblemType(404, "No such adapter"),
    "method-not-allowed": ProblemType(405, "The method is not allowed"),
    "not-acceptable": ProblemType(406, "The requested format is not available"),
    "body-too-large": ProblemType(413, "The body is too large"),
    "unsupported-media-type": ProblemType(415, "The body must be JSON"),
    "invalid-request": ProblemType(422, "A field is invalid"),
    "unknown-style": ProblemType(422, "No such style"),
    "quota-exceeded": ProblemType(429, "The quota is exhausted"),
    "internal-error": ProblemType(500, "Internal error"),
    "engine-failed": ProblemType(502, "The image engine failed"),
    "adapter-loading": ProblemType(503, "The adapter is not ready yet"),
    "gateway-busy": ProblemType(503, "The gateway is busy"),
    "engine-busy": ProblemType(503, "The image engine is busy"),
    "engine-away": ProblemType(503, "The image engine is unavailable"),
    "database-away": ProblemType(503, "The database is unavailable"),
    "timed-out": ProblemType(504, "The request timed out"),
}
_REFUSED = frozenset({401, 403, 429})  # no valid key, or its quota is exhausted


def error_of(status: int) -> type[AtelierError]:
    """Return the error class for an HTTP status, from the gateway or from a proxy."""
    if status in _REFUSED:
        return Refused
    return Unavailable if status >= 500 else BadInput
