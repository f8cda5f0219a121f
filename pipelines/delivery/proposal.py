"""Write declarations into git: into this checkout, as a pull request, or as a commit.

`declare.propose` creates the declaration. A pull request and a commit are based on the newest
commit of the branch and do not change the checkout.
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
    """A version that one environment shall serve: to all requests, or to a share as a canary."""

    adapter: str
    version: int
    environment: str
    reason: str
    canary: int | None = None  # percent of the requests

    @property
    def title(self) -> str:
        """The subject of the commit and the title of the pull request."""
        share = f" to {self.canary} %" if self.canary else ""
        return f"{self.environment}: {self.adapter} {self.version}{share}"

    @property
    def branch(self) -> str:
        """The branch of all proposals for this adapter in this environment."""
        return f"atelier/{self.environment}/{self.adapter}"

    def declaration(
        self, declared: Declaration | None, registry: Registry, policy: Path
    ) -> Declaration:
        """Return the declaration that replaces `declared`. Raises like `declare.propose`."""
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
    """Write the declaration into the checkout and return its file.

    `policy` replaces the environment's policy. Raises Refused if the version may not serve, and
    DeclarationError if the existing file cannot be read.
    """
    declared = declarations.find(proposal.adapter)
    declaration = proposal.declaration(declared, registry, policy or declarations.policy)
    return declarations.put(declaration)


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
    """Push the declaration as a branch, open or update its pull request, and return its address.

    Returns None if the branch `main` already declares the same versions. The checkout is not
    changed. Raises Refused as `write_declaration` does, and Unavailable if git's remote or GitHub
    does not respond.
    """
    tip, path = repository.fetch(main), declarations.path(proposal.adapter).as_posix()
    text = (repository.read(tip, path) or b"").decode()
    declared = yaml_model.parse(text, Path(path), Declaration, DeclarationError) if text else None
    declaration = proposal.declaration(declared, registry, declarations.policy)
    if declared and declared.served == declaration.served:
        return None
    files: dict[str, bytes | None] = {path: declaration.to_yaml(text).encode()}
    commit = repository.commit_of(files, proposal.title, tip)
    repository.push(commit, proposal.branch, force=True)
    return github.pull_request(proposal.branch, main, proposal.title, body)


@dataclass(frozen=True)
class RecordedEdits:
    """The commit of edited declarations, and the address of its pull request if one was needed."""

    files: tuple[str, ...]
    commit: str | None = None  # None: nothing was edited
    pull_request: str | None = None


def record_edits(
    repository: Repository, message: str, *, main: str, github: Callable[[], GitHub]
) -> RecordedEdits:
    """Commit the edited declarations of a checkout to the branch `main`.

    If the branch is protected, open a pull request instead. Raises GitError if the branch has
    changed one of the files in the meantime.
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
        body = (
            "The cluster already serves this change; merge it so that the branch declares it too. "
            f"{refusal}"
        )
        url = forge.pull_request(branch, main, message.splitlines()[0], body)
        return RecordedEdits(tuple(files), commit, url)
