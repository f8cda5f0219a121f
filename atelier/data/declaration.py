"""What git says serves: `k8s/environments/<env>/adapters/<name>.yaml`, one file an adapter.

A proposal changes the file, a review agrees to it, and a promotion makes the cluster so. Each file
names what it was to replace, so that one written for another state of the cluster is noticed.
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
# What serves here. `atelier propose` and `atelier rollback` write this file, `atelier promote`
# makes the cluster so.
"""

REASON = 500  # characters
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=REASON)]


class DeclarationError(BadInput):
    """A declaration that cannot be read, or is not there."""


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Withdrawn(Pin):
    """A version that was rolled back from, and is not to come back unnoticed."""

    reason: Reason


class Declaration(_Plain):
    """What is to serve of one adapter in one environment."""

    adapter: AdapterName
    version: int = Field(ge=1)
    digest: Digest
    base: Digest
    vae: Digest | None = None
    canary: Canary | None = None
    replaces: Pin | None = None  # what served when this was written; None: nothing did
    withdrawn: tuple[Withdrawn, ...] = ()  # newest first
    revision: int = Field(default=0, ge=0)  # Helm's, up to which git knows what was done by hand
    reason: Reason

    @model_validator(mode="after")
    def _tries_out_another(self) -> Self:
        if self.canary and self.canary.digest == self.digest:
            raise ValueError("canary: is the version that serves already")
        return self

    @property
    def pin(self) -> Pin:
        """The version that serves."""
        return Pin(version=self.version, digest=self.digest)

    @property
    def served(self) -> tuple[Pin, ...]:
        """Every version that gets calls."""
        return (self.pin, *([self.canary] if self.canary else ()))

    def require_wanted(self) -> None:
        """Refused where it brings back what was rolled back from."""
        for one in self.withdrawn:
            if any(one.digest == pin.digest for pin in self.served):
                raise Refused(
                    f"{self.adapter}@{one.version} was withdrawn here ({one.reason}); take it out "
                    "of `withdrawn` in the file, and say why in the review, to let it serve again"
                )

    def is_live(self, release: Release) -> bool:
        """Whether a release serves just what this says."""
        mine = (self.adapter, self.pin, self.canary, self.base, self.vae)
        return mine == (release.adapter, release.pin, release.canary, release.base, release.vae)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file; DeclarationError names every mistake and its line."""
        found = yaml_model.load(path, cls, DeclarationError)
        if found.adapter != path.stem:
            raise DeclarationError(f"{path}: is that of {found.adapter}; name the file after it")
        return found

    def to_yaml(self, over: str = "") -> str:
        """The file's text; the comments of `over`, the text that it replaces, stay."""
        fields = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        if not over:
            return _HEAD + yaml_text.write(fields)
        try:
            return yaml_text.write(fields, over)
        except YamlError as error:
            raise DeclarationError(
                f"{self.adapter}: its file is not valid YAML: {error}"
            ) from error


class Declarations:
    """One environment's files in a checkout."""

    def __init__(self, root: Path, environment: str):
        folder = root / ENVIRONMENTS / environment
        if not folder.is_dir():
            known = sorted(one.name for one in (root / ENVIRONMENTS).glob("*") if one.is_dir())
            raise DeclarationError(
                f"{folder}: no such environment; known are {', '.join(known) or 'none'}. "
                "Work in the root of a checkout"
            )
        self.environment = environment
        self.platform, self.policy = folder / "platform.yaml", folder / "policy.yaml"
        self._folder = folder / "adapters"

    def path(self, name: str) -> Path:
        """Where an adapter's file is, or would be."""
        return self._folder / f"{name}.yaml"

    def list(self) -> dict[str, Declaration]:
        """Every declaration by adapter."""
        return {file.stem: Declaration.load(file) for file in sorted(self._folder.glob("*.yaml"))}

    def find(self, name: str) -> Declaration | None:
        """An adapter's declaration, or None where git says that it does not serve."""
        path = self.path(name)
        return Declaration.load(path) if path.exists() else None

    def get(self, name: str) -> Declaration:
        """An adapter's declaration; DeclarationError where there is none."""
        found = self.find(name)
        if found is None:
            raise DeclarationError(
                f"{self.path(name)}: git declares no {name} in {self.environment}; "
                f"declared are {_listed(file.stem for file in self._folder.glob('*.yaml'))}"
            )
        return found

    def put(self, declaration: Declaration) -> Path:
        """Write an adapter's file; comments in it stay."""
        path = self.path(declaration.adapter)
        over = path.read_text(encoding="utf-8") if path.exists() else ""
        write_atomic(path, declaration.to_yaml(over))
        return path

    def remove(self, name: str) -> None:
        """Take an adapter's file away; one that is gone is as good."""
        self.path(name).unlink(missing_ok=True)


def reason_of(text: str) -> str:
    """A reason as a declaration keeps it; BadInput where it is none, or too long."""
    try:
        return str(TypeAdapter(Reason).validate_python(text))
    except ValidationError as error:
        raise BadInput(
            f"reason: git keeps one of 1 to {REASON} characters, blanks around it not counted; "
            f"this has {len(text.strip())}"
        ) from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
