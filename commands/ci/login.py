"""`atelier login`: a workflow's way into a cluster, with its OIDC token in place of a kept secret.

The kubeconfig has no credential in it. Whoever uses it (kubectl, Helm, this program) runs this
module, which asks Actions for a token that is good for some minutes, as often as one is wanted.
"""

import json
import os
import sys
import urllib.request
from base64 import b64encode, urlsafe_b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from atelier.boundary import answered
from atelier.errors import BadInput, Unavailable
from commands.verb import Answer

AUDIENCE = "atelier"
SECONDS = 30.0
_VERSION = "client.authentication.k8s.io/v1"
_URL, _TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"


def login(
    server: Annotated[
        str, typer.Option(envvar="ATELIER_CLUSTER", metavar="URL", help="The API server.")
    ] = "",
    authority: Annotated[
        str,
        typer.Option(
            envvar="ATELIER_CLUSTER_CA", metavar="PEM", help="Who signs its certificate, as text."
        ),
    ] = "",
    audience: Annotated[str, typer.Option(help="Whom the tokens are for.")] = AUDIENCE,
    kubeconfig: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="By default in RUNNER_TEMP.")
    ] = None,
) -> Answer:
    """Let the next steps of a workflow reach a cluster by the job's OIDC token.

    Where KUBECONFIG is set already (a runner with its own way in), that stays.
    """
    given = os.environ.get("KUBECONFIG")
    if given:
        return Answer(f"KUBECONFIG is {given} already", {"kubeconfig": given})
    if not server:
        raise BadInput("ATELIER_CLUSTER: not set; a variable of the environment names the cluster")
    token(audience)  # what is wrong with the job is said here, not by Helm
    path = (kubeconfig or Path(os.environ.get("RUNNER_TEMP", "."), "kubeconfig")).absolute()
    path.write_text(json.dumps(_config(server, authority, audience), indent=1))
    if file := os.environ.get("GITHUB_ENV"):
        with Path(file).open("a") as variables:
            variables.write(f"KUBECONFIG={path}\n")
    return Answer(f"{path}: {server}, by tokens for {audience}", {"kubeconfig": str(path)})


def token(audience: str) -> str:
    """A new token of the job; BadInput where it may have none."""
    url, asking = os.environ.get(_URL), os.environ.get(_TOKEN)
    if not url or not asking:
        raise BadInput(f"{_URL}: not set; give the job `id-token: write`, or set KUBECONFIG")
    headers = {"Authorization": f"Bearer {asking}", "Accept": "application/json"}
    request = urllib.request.Request(
        f"{url}{'&' if '?' in url else '?'}{urlencode({'audience': audience})}", headers=headers
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return str(json.load(answer)["value"])
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable(f"Actions gives no OIDC token: {error}", retry_after=5) from error


def credential(audience: str) -> dict[str, Any]:
    """An ExecCredential; it says when the token ends, so that the client asks again in time."""
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
