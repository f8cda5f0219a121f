"""`atelier login`: give a workflow access to a cluster with its OIDC token instead of a secret."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from atelier.errors import BadInput
from commands.github_actions import add_variable
from commands.verb import Answer

AUDIENCE = "atelier"


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
    from atelier.ci import oidc

    existing = os.environ.get("KUBECONFIG")
    if existing:
        return Answer(f"KUBECONFIG is already set to {existing}", {"kubeconfig": existing})
    if not server:
        raise BadInput("ATELIER_CLUSTER: not set; make it a variable of the GitHub environment")
    oidc.token(audience)  # so that a wrong setup of the job fails here and not in Helm
    path = (kubeconfig or Path(os.environ.get("RUNNER_TEMP", "."), "kubeconfig")).absolute()
    path.write_text(json.dumps(oidc.kubeconfig(server, authority, audience), indent=1))
    add_variable("KUBECONFIG", str(path))
    return Answer(f"{path}: {server}, with tokens for {audience}", {"kubeconfig": str(path)})
