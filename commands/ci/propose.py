"""`atelier propose | commit | comment`: propose declarations in git and comment on them."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.data.declaration import Declaration

BODY = 60_000  # characters; GitHub takes 65,536 in a pull request or a comment

Main = Annotated[
    str, typer.Option("--main", metavar="BRANCH", help="Branch with the declarations.")
]
Body = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Markdown for the reviewers, such as the summary of validate."
    ),
]


def propose(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")],
    version: Annotated[str, typer.Argument(help="Version number, or an alias.")] = "candidate",
    environment: Annotated[str, typer.Option(help="Environment to serve in.")] = "staging",
    canary: Annotated[
        int | None, typer.Option(min=1, max=100, help="Canary: only this percentage of the calls.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Recorded in the declaration.")] = "promoted",
    pull_request: Annotated[
        bool,
        typer.Option("--pull-request", help="Push a branch and open or update its pull request."),
    ] = False,
    body: Body = None,
    main: Main = "main",
) -> Answer:
    """Write the declaration of a version, if its environment's policy allows it.

    With --pull-request this checkout is not changed.
    """
    from atelier.data.declaration import Declarations
    from atelier.data.policy import Policy
    from commands.adapter_references import open_registry
    from pipelines.delivery.declare import propose as proposed

    declarations = Declarations(Path(), environment)
    registry = open_registry(Home.find())
    number = registry.version(name, version).version
    policy = Policy.load(declarations.policy)

    def made(declared: "Declaration | None") -> "Declaration":
        return proposed(
            name,
            number,
            declared=declared,
            registry=registry,
            policy=policy,
            environment=environment,
            canary=canary,
            reason=reason,
        )

    data = {"adapter": name, "environment": environment, "version": number}
    if not pull_request:
        file = declarations.put(made(declarations.find(name)))
        return Answer(f"{file}: declares {name}@{number}", {**data, "file": str(file)})

    from atelier.ci.git import Repository
    from atelier.ci.github import GitHub

    github, repository = GitHub.of_environment(), Repository.find()
    tip, path = repository.fetch(main), declarations.path(name).as_posix()
    over = (repository.read(tip, path) or b"").decode()
    declared = _declared(over, path)
    wanted = made(declared)
    if declared and (declared.served == wanted.served):
        return Answer(f"{main} already declares {name}@{number} in {environment}", data)
    share = f" to {canary} %" if canary else ""
    title = f"{environment}: {name} {number}{share}"
    branch = f"atelier/{environment}/{name}"
    files: dict[str, bytes | None] = {path: wanted.to_yaml(over).encode()}
    repository.push(repository.commit_of(files, title, tip), branch, force=True)
    url = github.pull_request(branch, main, title, _text(body))
    return Answer(f"{title}: {url}", {**data, "branch": branch, "pull_request": url})


def commit(
    message: Annotated[str, typer.Argument(help="Commit message.")],
    main: Main = "main",
) -> Answer:
    """Commit and push the changed declarations of this checkout.

    If the branch is protected, this opens a pull request. Exit code 2 if the branch has changed the
    same declarations in the meantime.
    """
    from atelier.ci.git import Repository
    from atelier.ci.github import GitHub
    from atelier.data.declaration import ENVIRONMENTS
    from atelier.errors import Refused

    repository = Repository.find()
    files = repository.edited(ENVIRONMENTS.as_posix())
    if not files:
        return Answer(
            "nothing to commit: git already declares this state", {"files": [], "commit": None}
        )
    data: dict[str, Any] = {"files": list(files)}
    try:
        made = repository.record(files, message, main)
    except Refused as refusal:
        made = repository.commit_of(files, message, repository.fetch(main))
        branch = f"atelier/done/{made[:12]}"
        github = GitHub.of_environment()
        repository.push(made, branch)
        title, about = (
            message.splitlines()[0],
            f"This change is already live; merge it so that git agrees. {refusal}",
        )
        url = github.pull_request(branch, main, title, about)
        return Answer(
            f"{url}: merge this pull request", {**data, "commit": made, "pull_request": url}
        )
    return Answer("\n".join([f"{main} is now at {made}:", *files]), {**data, "commit": made})


def comment(
    body: Annotated[Path, typer.Argument(metavar="FILE", help="Markdown file.")],
    kind: Annotated[str, typer.Option(help="Replaces the previous comment of this kind.")],
) -> Answer:
    """Comment on the pull request that a workflow runs for."""
    from atelier.ci.github import GitHub

    found = re.fullmatch(r"refs/pull/(\d+)/(merge|head)", os.environ.get("GITHUB_REF", ""))
    if found is None:
        raise BadInput(
            "GITHUB_REF: names no pull request; run this in a workflow for a pull request"
        )
    url = GitHub.of_environment().comment(int(found[1]), kind, _text(body))
    return Answer(url, {"comment": url})


def _declared(text: str, path: str) -> "Declaration | None":
    from atelier.data import yaml_model
    from atelier.data.declaration import Declaration, DeclarationError

    return yaml_model.parse(text, Path(path), Declaration, DeclarationError) if text else None


def _text(body: Path | None) -> str:
    text = body.read_text(encoding="utf-8") if body else ""
    return text if len(text) <= BODY else text[:BODY] + "\n\n… (cut off: too long)"
