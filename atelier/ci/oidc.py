"""OIDC tokens of a GitHub Actions job, and a kubeconfig that requests them.

The kubeconfig contains no credential. Programs that use it (kubectl, Helm, Atelier) run this module
when they need a token. The module requests a token from Actions. The token is valid for some
minutes.

python -m atelier.ci.oidc AUDIENCE
"""

import json
import os
import sys
from base64 import b64encode, urlsafe_b64decode
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from atelier import http_client
from atelier.errors import BadInput, Unavailable
from atelier.failures import run_process

SECONDS = 30.0
_VERSION = "client.authentication.k8s.io/v1"
_URL, _TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"


def token(audience: str) -> str:
    """Request a new token of the job.

    Raises BadInput if the job has no permission to request one, Unavailable if Actions returns
    none.
    """
    url, bearer = os.environ.get(_URL), os.environ.get(_TOKEN)
    if not url or not bearer:
        raise BadInput(f"{_URL}: not set; give the job `id-token: write`, or set KUBECONFIG")
    what = "Actions gives no OIDC token"
    response = http_client.send(
        "GET",
        f"{url}{'&' if '?' in url else '?'}{urlencode({'audience': audience})}",
        what=what,
        timeout=SECONDS,
        headers={"Authorization": f"Bearer {bearer}", "Accept": "application/json"},
    )
    if not response.is_success:
        status = f"{response.status_code} {response.reason_phrase}"
        raise Unavailable(f"{what}: {status}", retry_after=http_client.retry_after(response) or 5)
    body = http_client.decoded(response, what=what)
    if not isinstance(body, dict) or not isinstance(body.get("value"), str):
        raise Unavailable(f"{what}: the response has no `value`", retry_after=5)
    return str(body["value"])


def credential(audience: str) -> dict[str, Any]:
    """Return an ExecCredential with the token's expiry, so that the client renews it in time.

    Raises the errors of `token`.
    """
    jwt = token(audience)
    claims = jwt.split(".")[1]
    expiry = json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
    until = datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"token": jwt, "expirationTimestamp": until}
    return {"apiVersion": _VERSION, "kind": "ExecCredential", "status": status}


def kubeconfig(server: str, authority: str, audience: str) -> dict[str, Any]:
    """Return a kubeconfig whose user runs this module. `authority`: its CA as PEM, or empty."""
    cluster = {"server": server}
    if authority:
        cluster["certificate-authority-data"] = b64encode(authority.encode()).decode()
    plugin = {
        "apiVersion": _VERSION,
        "command": sys.executable,
        "args": ["-m", "atelier.ci.oidc", audience],
        "interactiveMode": "Never",
    }
    name = "atelier"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"exec": plugin}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def _print_credential(audience: str) -> None:
    print(json.dumps(credential(audience)))


if __name__ == "__main__":
    sys.exit(run_process(lambda: _print_credential(sys.argv[1])))
