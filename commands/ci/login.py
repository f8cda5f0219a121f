"""`atelier login`: give a workflow access to a cluster through its OIDC token, without a secret."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from atelier.errors import BadInput
from commands.command import Answer
from commands.github_actions import add_variable

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
            help="Certificate authority of the API server, as PEM text.",
        ),
    ] = "",
    audience: Annotated[str, typer.Option(help="Audience of the tokens.")] = AUDIENCE,
    kubeconfig: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Kubeconfig to write. Default: in RUNNER_TEMP."),
    ] = None,
) -> Answer:
    """Give the later steps of a workflow access to a cluster.

    Writes a kubeconfig that uses the OIDC token of the job, and sets KUBECONFIG. If KUBECONFIG is
    already set, the runner has its own access, and the command does nothing.
    """
    from atelier.ci import oidc

    existing = os.environ.get("KUBECONFIG")
    if existing:
        return Answer(f"KUBECONFIG is already set to {existing}", {"kubeconfig": existing})
    if not server:
        raise BadInput(
            "neither --server nor ATELIER_CLUSTER is set; set ATELIER_CLUSTER as a variable of the "
            "GitHub environment"
        )
    oidc.token(audience)  # so that a job without the permission fails now and not later in Helm
    path = (kubeconfig or Path(os.environ.get("RUNNER_TEMP", "."), "kubeconfig")).absolute()
    path.write_text(json.dumps(oidc.kubeconfig(server, authority, audience), indent=1))
    add_variable("KUBECONFIG", str(path))
    return Answer(f"{path}: {server}, with tokens for {audience}", {"kubeconfig": str(path)})
