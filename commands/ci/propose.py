"""`atelier propose | commit | comment`: write declarations to git, and comment on pull requests."""

from pathlib import Path
from typing import Annotated

import typer

from atelier.home import Home
from commands.command import Answer
from commands.release.cluster import CanaryShare

Main = Annotated[str, typer.Option("--main", metavar="BRANCH", help="Branch of the declarations.")]
Body = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Markdown for the pull request, such as the summary of atelier validate.",
    ),
]


def propose(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter.")],
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="Version number or alias.")
    ] = "candidate",
    environment: Annotated[str, typer.Option(help="Environment of the declaration.")] = "staging",
    canary: CanaryShare = None,
    reason: Annotated[str, typer.Option(help="Reason, recorded in the declaration.")] = "promoted",
    pull_request: Annotated[
        bool,
        typer.Option("--pull-request", help="Push a branch and open or update its pull request."),
    ] = False,
    body: Body = None,
    main: Main = "main",
) -> Answer:
    """Write the declaration of a version that the policy accepts.

    The policy is `policy.yaml` of the environment. With --pull-request, the checkout
    is not changed.
    """
    from atelier.ci.git import Repository
    from atelier.ci.github import GitHub
    from atelier.data.declaration import Declarations
    from atelier.stores.registry import Registry
    from pipelines.delivery.proposal import Proposal, request_declaration, write_declaration

    declarations = Declarations(Path(), environment)
    registry = Registry(Home.find().tracking_uri)
    number = registry.version(name, version).version
    proposal = Proposal(name, number, environment, reason, canary)
    data = {"adapter": name, "environment": environment, "version": number}
    if not pull_request:
        file = write_declaration(proposal, declarations, registry)
        return Answer(f"{file}: declares {name}@{number}", {**data, "file": str(file)})
    url = request_declaration(
        proposal,
        declarations,
        registry,
        repository=Repository.find(),
        github=GitHub.of_environment(),
        main=main,
        body=body.read_text(encoding="utf-8") if body else "",
    )
    if url is None:
        return Answer(f"{main} already declares {name}@{number} in {environment}", data)
    data |= {"branch": proposal.branch, "pull_request": url}
    return Answer(f"{proposal.title}: {url}", data)


def commit(
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="Commit message.")],
    main: Main = "main",
) -> Answer:
    """Commit and push the changed declarations of this checkout.

    Opens a pull request if the branch is protected. Exit code 2 if other commits of the branch have
    changed the same declarations in the meantime.
    """
    from atelier.ci.git import Repository
    from atelier.ci.github import GitHub
    from pipelines.delivery.proposal import record_edits

    edits = record_edits(Repository.find(), message, main=main, github=GitHub.of_environment)
    data = {"files": list(edits.files), "commit": edits.commit}
    if edits.commit is None:
        return Answer("nothing to commit: git already declares this state", data)
    if edits.pull_request is not None:
        data["pull_request"] = edits.pull_request
        return Answer(f"{edits.pull_request}: merge this pull request to apply the changes", data)
    return Answer("\n".join([f"{main} is now at {edits.commit}:", *edits.files]), data)


def comment(
    body: Annotated[Path, typer.Argument(metavar="FILE", help="Markdown file.")],
    kind: Annotated[
        str, typer.Option(help="Kind of comment; a new comment replaces one of the same kind.")
    ],
) -> Answer:
    """Comment on the pull request of the current workflow run."""
    from atelier.ci.github import GitHub, pull_request_of_workflow

    number = pull_request_of_workflow()
    url = GitHub.of_environment().comment(number, kind, body.read_text(encoding="utf-8"))
    return Answer(url, {"comment": url})
