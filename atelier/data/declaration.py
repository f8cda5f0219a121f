"""Declarations in git: `k8s/environments/<env>/adapters/<name>.yaml`, one file per adapter.

A proposal changes the file, a review approves it, and a promotion applies it to the cluster. Each
file names the version that it replaces, so a declaration for another state of the cluster is
detected.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from atelier.data import yaml_model, yaml_text
from atelier.data.names import AdapterName, Digest
from atelier.data.release import Canary, Pin, Release
from atelier.data.yaml_text import YamlError
from atelier.errors import BadInput, Refused
from atelier.files import write_atomic

ENVIRONMENTS = Path("k8s/environments")  # in a checkout

_HEAD = """\
# The serving version. `atelier propose` and `atelier rollback` write this file, `atelier promote`
# applies it to the cluster.
"""

REASON = 500  # characters
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=REASON)]


class DeclarationError(BadInput):
    """A declaration is invalid or missing."""


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Withdrawn(Pin):
    """A version that was rolled back, and must not serve again without a review."""

    reason: Reason


class Declaration(_Plain):
    """The declared version of an adapter in an environment."""

    adapter: AdapterName
    version: int = Field(ge=1)
    digest: Digest
    base: Digest
    vae: Digest | None = None
    canary: Canary | None = None
    replaces: Pin | None = None  # the version served at the time of writing; None: none
    withdrawn: tuple[Withdrawn, ...] = ()  # newest first
    revision: int = Field(default=0, ge=0)  # of Helm; later manual rollbacks are not in git yet
    reason: Reason

    @model_validator(mode="after")
    def _tries_out_another(self) -> Self:
        if self.canary and self.canary.digest == self.digest:
            raise ValueError(
                "canary: is the serving version already; remove it, or choose another version"
            )
        return self

    @property
    def pin(self) -> Pin:
        """The declared version."""
        return Pin(version=self.version, digest=self.digest)

    @property
    def served(self) -> tuple[Pin, ...]:
        """The declared version and its canary."""
        return (self.pin, *([self.canary] if self.canary else ()))

    def require_wanted(self) -> None:
        """Raise Refused if the declared version or its canary is withdrawn."""
        for past in self.withdrawn:
            if any(past.digest == pin.digest for pin in self.served):
                raise Refused(
                    f"{self.adapter}@{past.version}: was withdrawn here ({past.reason}); to let it "
                    "serve again, remove it from `withdrawn` in the file, and give the reason in "
                    "the review"
                )

    def is_live(self, release: Release) -> bool:
        """Return whether a release serves exactly the declared versions."""
        declared = (self.adapter, self.pin, self.canary, self.base, self.vae)
        return declared == (release.adapter, release.pin, release.canary, release.base, release.vae)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file. Raises DeclarationError with each mistake and its line."""
        declaration = yaml_model.load(path, cls, DeclarationError)
        name = declaration.adapter
        if name != path.stem:
            raise DeclarationError(
                f"{path}: is the declaration of {name}; rename the file to {name}.yaml"
            )
        return declaration

    def to_yaml(self, over: str = "") -> str:
        """Return the declaration as YAML, with the comments of the text `over` if given."""
        fields = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        if not over:
            return _HEAD + yaml_text.write(fields)
        try:
            return yaml_text.write(fields, over)
        except YamlError as error:
            raise DeclarationError(
                f"{self.adapter}: the declaration is not valid YAML: {error}"
            ) from error


class Declarations:
    """The declarations of one environment in a checkout."""

    def __init__(self, root: Path, environment: str):
        folder = root / ENVIRONMENTS / environment
        if not folder.is_dir():
            known = sorted(path.name for path in (root / ENVIRONMENTS).glob("*") if path.is_dir())
            raise DeclarationError(
                f"{folder}: no such environment; known are {', '.join(known) or 'none'}; run this "
                "in the root of a checkout"
            )
        self.environment = environment
        self.platform, self.policy = folder / "platform.yaml", folder / "policy.yaml"
        self._folder = folder / "adapters"

    def path(self, name: str) -> Path:
        """Return the path of an adapter's file, which may not exist."""
        return self._folder / f"{name}.yaml"

    def list(self) -> dict[str, Declaration]:
        """Return every declaration by adapter. Raises DeclarationError."""
        return {file.stem: Declaration.load(file) for file in sorted(self._folder.glob("*.yaml"))}

    def find(self, name: str) -> Declaration | None:
        """Return an adapter's declaration, or None if there is no file."""
        path = self.path(name)
        return Declaration.load(path) if path.exists() else None

    def get(self, name: str) -> Declaration:
        """Return an adapter's declaration. Raises DeclarationError if there is none."""
        declaration = self.find(name)
        if declaration is None:
            raise DeclarationError(
                f"{self.path(name)}: {name} is not declared in {self.environment}; "
                f"declared are {_listed(file.stem for file in self._folder.glob('*.yaml'))}"
            )
        return declaration

    def put(self, declaration: Declaration) -> Path:
        """Write an adapter's file, keeping its comments; return the path."""
        path = self.path(declaration.adapter)
        over = path.read_text(encoding="utf-8") if path.exists() else ""
        write_atomic(path, declaration.to_yaml(over))
        return path

    def remove(self, name: str) -> None:
        """Delete an adapter's file, if it exists."""
        self.path(name).unlink(missing_ok=True)


def reason_of(text: str) -> str:
    """Return a reason without surrounding blanks. Raises BadInput if it is empty or too long."""
    try:
        return str(TypeAdapter(Reason).validate_python(text))
    except ValidationError as error:
        raise BadInput(
            f"reason: must have 1 to {REASON} characters without surrounding blanks, has "
            f"{len(text.strip())}"
        ) from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
