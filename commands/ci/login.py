"""`atelier login`: give a workflow access to a cluster with its OIDC token instead of a secret.

The kubeconfig contains no credential. Its users (kubectl, Helm, this program) run this module
whenever they need a token, and it requests one from Actions that is valid for some minutes.
"""

import json
import os
import sys
from base64 import b64encode, urlsafe_b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from atelier import http_client
from atelier.boundary import answered
from atelier.errors import BadInput, Unavailable
from commands.verb import Answer

AUDIENCE = "atelier"
SECONDS = 30.0
_VERSION = "client.authentication.k8s.io/v1"
_URL, _TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"


def login(
    server: Annotated[
        str,
        typer.Option(envvar="ATELIER_CLUSTER", metavar="URL", help="Address of the API server."),
    ] = "",
    authority: Annotated[
        str,
        typer.Option(
            envvar="ATELIER_CLUSTER_CA",
            metavar="PEM",
            help="Certificate authority of the API server, as text.",
        ),
    ] = "",
    audience: Annotated[str, typer.Option(help="Audience of the tokens.")] = AUDIENCE,
    kubeconfig: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The kubeconfig. Default: in RUNNER_TEMP."),
    ] = None,
) -> Answer:
    """Give the next steps of a workflow access to a cluster.

    Writes a kubeconfig that uses the job's OIDC token. If KUBECONFIG is already set, because the
    runner has its own access, it is left unchanged.
    """
    given = os.environ.get("KUBECONFIG")
    if given:
        return Answer(f"KUBECONFIG is already set to {given}", {"kubeconfig": given})
    if not server:
        raise BadInput("ATELIER_CLUSTER: not set; make it a variable of the GitHub environment")
    token(audience)  # so that a wrong setup of the job fails here and not in Helm
    path = (kubeconfig or Path(os.environ.get("RUNNER_TEMP", "."), "kubeconfig")).absolute()
    path.write_text(json.dumps(_config(server, authority, audience), indent=1))
    if file := os.environ.get("GITHUB_ENV"):
        with Path(file).open("a") as variables:
            variables.write(f"KUBECONFIG={path}\n")
    return Answer(f"{path}: {server}, with tokens for {audience}", {"kubeconfig": str(path)})


def token(audience: str) -> str:
    """Request a new token of the job. BadInput if the job has no permission for one."""
    url, asking = os.environ.get(_URL), os.environ.get(_TOKEN)
    if not url or not asking:
        raise BadInput(f"{_URL}: not set; give the job `id-token: write`, or set KUBECONFIG")
    what = "Actions gives no OIDC token"
    answer = http_client.send(
        "GET",
        f"{url}{'&' if '?' in url else '?'}{urlencode({'audience': audience})}",
        what=what,
        timeout=SECONDS,
        headers={"Authorization": f"Bearer {asking}", "Accept": "application/json"},
    )
    if not answer.is_success:
        said = f"{answer.status_code} {answer.reason_phrase}"
        raise Unavailable(f"{what}: {said}", retry_after=http_client.retry_after(answer) or 5)
    found = http_client.decoded(answer, what=what)
    if not isinstance(found, dict) or not isinstance(found.get("value"), str):
        raise Unavailable(f"{what}: the answer has no `value`", retry_after=5)
    return str(found["value"])


def credential(audience: str) -> dict[str, Any]:
    """An ExecCredential with the token's expiry, so that the client renews it in time."""
    found = token(audience)
    claims = found.split(".")[1]
    end = json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
    until = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"token": found, "expirationTimestamp": until}
    return {"apiVersion": _VERSION, "kind": "ExecCredential", "status": status}


def _config(server: str, authority: str, audience: str) -> dict[str, Any]:
    cluster = {"server": server}
    if authority:
        cluster["certificate-authority-data"] = b64encode(authority.encode()).decode()
    run = {
        "apiVersion": _VERSION,
        "command": sys.executable,
        "args": ["-m", "commands.ci.login", audience],
        "interactiveMode": "Never",
    }
    name = "atelier"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": {"exec": run}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


if __name__ == "__main__":
    sys.exit(answered(lambda: print(json.dumps(credential(sys.argv[1])))))
