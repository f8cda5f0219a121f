"""Network addresses as text: parsing, formatting, and removal of credentials.

`redact` is applied to all text that leaves the process: errors (`atelier.errors`), logs and
tracebacks (`atelier.logs`), tags and reports.
"""

import ipaddress
import os
import re
import socket
from contextlib import suppress

HIDDEN = "***"

# Matches up to the last @ before white space, because a password that is not percent-encoded may
# contain : / ? # and @. An address with an @ in its path loses its host, but no password remains.
_USERINFO = re.compile(r"://\S*@")
# Parameters of a query: ?token=…, &X-Amz-Signature=…, &sig=…
_QUERY = re.compile(
    r"([?&;][^\s=&?#'\"<>]*(?:token|key|secret|passw|pwd|sig|credential|auth)[^\s=&?#'\"<>]*=)"
    r"[^\s&#'\"<>]+",
    re.IGNORECASE,
)
# Settings: password=…, MLFLOW_TRACKING_TOKEN=…
_SETTING = re.compile(
    r"((?:passwd|password|token|secret|api[_-]?key)\s*=\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"((?:authorization|x-api-key)['\"]?\s*[:=]\s*['\"]?(?:(?:basic|bearer|token)\s+)?)[^\s'\",]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Replace the credentials in a text by `***`.

    Credentials are the user and password of any address (RFC 3986 §3.2.1, even if not
    percent-encoded), and the values of query parameters, settings and headers whose names indicate
    a token, a key, a password or a signature.
    """
    text = _USERINFO.sub(f"://{HIDDEN}@", text)
    for pattern in (_QUERY, _SETTING, _HEADER):
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def link(url: str) -> str:
    """Return an address without user and password, as a link for other users."""
    return redact(_USERINFO.sub("://", url))


def host_port(host: str, port: int) -> str:
    """Return `host:port` for URLs and gRPC targets; put an IPv6 address into brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(address: str) -> tuple[str, int]:
    """Return host, without brackets, and port of `host:port`. Raises ValueError if malformed."""
    shown = f"{HIDDEN}@{address.rpartition('@')[2]}" if "@" in address else address
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{shown}: an IPv6 address needs brackets, as in [::1]:8001")
    valid = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not host or not valid or re.search(r"[\s/@\[\]]", host):
        raise ValueError(f"{shown}: is not an address; write host:port")
    return host, int(port)


def reachable(host: str) -> str:
    """Return the host under which this machine reaches a server that listens on `host`.

    If the server listens on every address, this is the loopback address.
    """
    if not host:
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "::1" if address.version == 6 else "127.0.0.1"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket; port 0 means any free port. Raises OSError on failure.

    `::` and an empty host mean every address of this machine, of both families if it has both.
    """
    if host in ("", "::") and socket.has_dualstack_ipv6():
        with suppress(OSError):  # a kernel with IPv6 may have no IPv6 address
            family = socket.AF_INET6
            return socket.create_server(("::", port), family=family, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in host and host != "::" else socket.AF_INET
    try:
        return socket.create_server(("" if host == "::" else host, port), family=family)
    except socket.gaierror:
        raise
    except OSError as error:  # the error would repeat the address
        raise OSError(error.errno, os.strerror(error.errno or 0)) from None
