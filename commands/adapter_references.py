"""Adapter references on the command line: `thor-cat`, `thor-cat@2=0.7`, or a folder."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.errors import BadInput
from atelier.home import Home

if TYPE_CHECKING:
    from atelier.stores.packages import ResolvedAdapter

_NAMED = re.compile(r"(?P<name>[a-z0-9-]+)(?:@(?P<version>\d+))?")


@dataclass(frozen=True)
class AdapterReference:
    """A reference to an adapter: a name with or without a version, or a folder."""

    name: str | None = None
    version: int | None = None
    path: Path | None = None
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "AdapterReference":
        """Parse `NAME[@VERSION][=WEIGHT]` or `FOLDER[=WEIGHT]`.

        The folder of a package takes precedence over a name. Raises BadInput if the weight is not a
        number.
        """
        from atelier.adapter.package import MANIFEST

        head, equals, tail = text.rpartition("=")
        source, weight = (head, _weight(tail, text)) if equals else (text, 1.0)
        named = _NAMED.fullmatch(source)
        if named is None or (Path(source) / MANIFEST).is_file():
            return cls(path=Path(source), weight=weight)
        version = named["version"]
        return cls(named["name"], int(version) if version else None, weight=weight)

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"{self.name}@{self.version}" if self.version else str(self.name)


def resolve(reference: AdapterReference, home: Home) -> "ResolvedAdapter":
    """Return the package of a reference, from its folder or by its name and version.

    If the reference names no version, `atelier.stores.packages.resolve` selects it. The errors are
    those of this function.
    """
    from atelier.adapter.package import Package
    from atelier.stores import packages
    from atelier.stores.registry import Registry

    if reference.path is not None:
        return packages.ResolvedAdapter(Package.open(reference.path))
    assert reference.name is not None  # parse sets either path or name
    return packages.resolve(
        reference.name, reference.version, home, registry=lambda: Registry(home.tracking_uri)
    )


def _weight(text: str, reference: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{reference!r}: the weight after = is {text!r}; give a number") from None
