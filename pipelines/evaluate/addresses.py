"""Addresses of an evaluation's pictures in the registry: `NAME@VERSION/pictures/FILE`.

The reasons in evaluation.json name pictures by their path beside the document, because a package
has no version number when it is judged. Where a verdict of a registered version is shown,
`addressed` completes these paths.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from atelier.errors import BadInput

from .prompt_set import PICTURES, ROLES

_FILE = rf"{PICTURES}/(?:{'|'.join(ROLES)})-\d+-seed-\d+(?:-base)?\.png"
_BARE = re.compile(rf"(?<![\w/]){_FILE}")
_ADDRESS = re.compile(rf"(?P<name>[a-z0-9-]+)@(?P<version>\d+)(?:/(?P<picture>{_FILE}))?")


def addressed(reasons: Iterable[str], label: str) -> tuple[str, ...]:
    """Return the reasons of a verdict with the registry address of each picture.

    `label` is `NAME@VERSION`. Reasons that already have addresses stay unchanged.
    """
    return tuple(_BARE.sub(lambda found: f"{label}/{found[0]}", reason) for reason in reasons)


@dataclass(frozen=True)
class PictureAddress:
    """A version, and one of the pictures of its evaluation; without `picture`, all of them."""

    name: str
    version: int
    picture: str | None = None  # path relative to evaluation.json

    @classmethod
    def parse(cls, text: str) -> "PictureAddress":
        """Parse `NAME@VERSION` or `NAME@VERSION/pictures/FILE`. Raises BadInput for other texts."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise BadInput(
                f"{text}: is no address of pictures; give NAME@VERSION, or an address from a "
                f"reason, such as thor-cat@1/{PICTURES}/subject-0-seed-1.png"
            )
        return cls(found["name"], int(found["version"]), found["picture"])
