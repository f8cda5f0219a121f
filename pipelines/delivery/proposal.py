"""Brings declarations into git: into this checkout, by a pull request, or by a commit.

`declare.propose` makes the declaration. A pull request and a commit are made beside the checkout,
on the newest commit of the branch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atelier.ci.git import Repository
from atelier.ci.github import GitHub
from atelier.data import yaml_model
from atelier.data.declaration import ENVIRONMENTS, Declaration, DeclarationError, Declarations
from atelier.data.policy import Policy
from atelier.errors import Refused
from atelier.stores.registry import Registry
from pipelines.delivery.declare import propose


@dataclass(frozen=True)
class Proposal:
    """A version of the registry that one environment is to serve, whole or as a canary."""

    adapter: str
    version: int
    environment: str
    reason: str
    canary: int | None = None  # percent of the calls

    @property
    def title(self) -> str:
        """The subject of the commit and of the pull request."""
        share = f" to {self.canary} %" if self.canary else ""
        return f"{self.environment}: {self.adapter} {self.version}{share}"

    @property
    def branch(self) -> str:
        """The one branch for proposals of this adapter in this environment."""
        return f"atelier/{self.environment}/{self.adapter}"

    def declaration(
        self, declared: Declaration | None, registry: Registry, policy: Path
    ) -> Declaration:
        """The declaration in place of `declared`; Refused where the policy does not allow it."""
        return propose(
            self.adapter,
            self.version,
            declared=declared,
            registry=registry,
            policy=Policy.load(policy),
            environment=self.environment,
            canary=self.canary,
            reason=self.reason,
        )


def write_declaration(
    proposal: Proposal, declarations: Declarations, registry: Registry, policy: Path | None = None
) -> Path:
    """Write the declaration into the checkout, if the environment's policy allows it; its file.

    `policy` takes the place of the environment's. Raises Refused where the version may not serve,
    and DeclarationError where the file in its place cannot be read.
    """
    declared = declarations.find(proposal.adapter)
    made = proposal.declaration(declared, registry, policy or declarations.policy)
    return declarations.put(made)


def request_declaration(
    proposal: Proposal,
    declarations: Declarations,
    registry: Registry,
    *,
    repository: Repository,
    github: GitHub,
    main: str,
    body: str,
) -> str | None:
    """Push the declaration as a branch and open or update its pull request; its address.

    None where the branch `main` declares the same versions already. The checkout stays as it is.
    Raises Refused as `write_declaration` does, and Unavailable where git's remote or GitHub is
    away.
    """
    tip, path = repository.fetch(main), declarations.path(proposal.adapter).as_posix()
    text = (repository.read(tip, path) or b"").decode()
    declared = yaml_model.parse(text, Path(path), Declaration, DeclarationError) if text else None
    made = proposal.declaration(declared, registry, declarations.policy)
    if declared and declared.served == made.served:
        return None
    files: dict[str, bytes | None] = {path: made.to_yaml(text).encode()}
    commit = repository.commit_of(files, proposal.title, tip)
    repository.push(commit, proposal.branch, force=True)
    return github.pull_request(proposal.branch, main, proposal.title, body)


@dataclass(frozen=True)
class RecordedEdits:
    """Edits of declarations as a commit; `pull_request` is its address where one was needed."""

    files: tuple[str, ...]
    commit: str | None = None  # None: nothing was edited
    pull_request: str | None = None


def record_edits(
    repository: Repository, message: str, *, main: str, github: Callable[[], GitHub]
) -> RecordedEdits:
    """Commit the edited declarations of a checkout to the branch `main`.

    A protected branch gets a pull request. Raises GitError where the branch has changed one of the
    files in the meantime.
    """
    files = repository.edited(ENVIRONMENTS.as_posix())
    if not files:
        return RecordedEdits(())
    try:
        return RecordedEdits(tuple(files), repository.record(files, message, main))
    except Refused as refusal:
        commit = repository.commit_of(files, message, repository.fetch(main))
        branch = f"atelier/done/{commit[:12]}"
        forge = github()
        repository.push(commit, branch)
        body = f"This change is already live; merge it so that git agrees. {refusal}"
        url = forge.pull_request(branch, main, message.splitlines()[0], body)
        return RecordedEdits(tuple(files), commit, url)
