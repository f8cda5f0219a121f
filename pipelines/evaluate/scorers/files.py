"""Finds the files of a scorer: a folder, a hub ID, or an address in the registry."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atelier.data.names import SCHEME, ArtifactRef
from atelier.data.policy import OF_DINO
from atelier.errors import BaseError, PolicyError
from atelier.files import digest_files
from atelier.home import Home
from atelier.stores.artifacts import Artifacts
from atelier.stores.base_files import scorer_files
from atelier.stores.model_files import only

_FIX: Final = "name a folder or a hub ID in the policy"


@dataclass(frozen=True)
class ScorerFiles:
    """The files of one scorer, and its role and name in the policy."""

    role: str
    name: str
    folder: Path
    files: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """The digest of the files."""
        return digest_files(self.folder, self.files)

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """Yield a folder that contains only these files."""
        with only(self.folder, self.files) as folder:
            yield folder

    def error(
        self, why: object, fix: str = "name a folder or a hub ID in the policy"
    ) -> PolicyError:
        """Return the error for a scorer that cannot be loaded."""
        reason = str(why).partition("\n")[0]
        return PolicyError(f"scorers.{self.role}: {self.name} cannot be loaded ({reason}); {fix}")


def find_scorers(names: Mapping[str, str]) -> dict[str, ScorerFiles]:
    """Return the files of the scorers that a policy names, by role, and fetch them if necessary.

    Raises PolicyError if there is none, Unavailable if MLflow or the hub cannot be reached.
    """
    return {role: located(role, name) for role, name in names.items() if name != OF_DINO}


def located(role: str, name: str) -> ScorerFiles:
    """Return the files of a scorer. A scorer in the registry is fetched into the home.

    Raises PolicyError if there is none, Unavailable if MLflow or the hub cannot be reached.
    """
    place = _fetched(role, name) if name.startswith(SCHEME) else name
    try:
        folder, files = scorer_files(place)
    except BaseError as error:
        raise PolicyError(f"scorers.{role}: {error}; {_FIX}") from error
    return ScorerFiles(role, name, folder, tuple(files))


def _fetched(role: str, name: str) -> str:
    ref, home = ArtifactRef.parse(name), Home.find()
    if ref.kind != "scorers":
        raise PolicyError(
            f"scorers.{role}: {name} is not a scorer; import one with `atelier scorer import`"
        )
    folder = home.root / "artifacts" / ref.kind / ref.key
    return str(Artifacts(home.tracking_uri).get(ref, folder))
