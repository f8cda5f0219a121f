"""Where a rollback goes, and what it leaves: decisions only, no cluster."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from atelier.data.declaration import Declaration
from atelier.data.release import Canary, Release
from atelier.errors import BadInput, Refused
from atelier.platform.helm import Revision


@dataclass(frozen=True)
class RevisionRelease:
    """One revision of an adapter's Helm release, and what it serves."""

    revision: Revision
    release: Release

    @property
    def number(self) -> int:
        """Helm's."""
        return self.revision.number


def release_of(values: dict[str, Any]) -> Release:
    """What values of charts/adapter release."""
    return Release(
        adapter=values["adapter"],
        base=values["base"],
        vae=values.get("vae") or None,
        version=values["version"],
        digest=values["digest"],
        canary=Canary.model_validate(values["canary"]) if values.get("canary") else None,
    )


def same(one: Release | None, other: Release | None) -> bool:
    """Whether both serve the same versions, to the same share."""
    return one is not None and other is not None and one.served == other.served


def left_behind(
    known: Sequence[RevisionRelease], live: Release | None, cut_off: Revision | None
) -> Release | None:
    """What is to be left; None where only the trying of it is to end.

    `known` is the history without what was `cut_off`, the revision that a killed Helm left pending;
    `live` is the ConfigMap, None where there is none or it cannot be read. A rollback that was cut
    off has perhaps written its ConfigMap: going back means what it meant then. A promotion that was
    cut off before it wrote anything leaves nothing behind.
    """
    last = known[-1].release if known else None
    if cut_off is None:
        return live or last
    if cut_off.status == "pending-rollback":
        return last
    return None if same(live, last) else live


def unrecorded(known: Sequence[RevisionRelease], declared: Declaration) -> Revision | None:
    """The newest revision, where it went back from what git declares, and git has not heard of it.

    A rollback that was cut off counts, too: whoever began it wanted something to be gone. What was
    cut off beside that is passed over, as the next one takes it away.
    """

    def unheard(one: RevisionRelease) -> bool:
        return one.revision.went_back and one.number > declared.revision

    made = [one for one in known if one.revision.went_back or not one.revision.pending]
    ways = list(takewhile(unheard, reversed(made)))
    if not ways:
        return None
    left = {pin.digest for one in made[-len(ways) - 1 : -1] for pin in one.release.served}
    left -= {pin.digest for pin in made[-1].release.served}
    return made[-1].revision if left & {pin.digest for pin in declared.served} else None


def target(
    name: str,
    known: Sequence[RevisionRelease],
    left: Release | None,
    *,
    withdrawn: Collection[str],  # digests
    bases: Collection[tuple[str, str | None]],  # base and VAE that the platform draws with
    revision: int | None = None,
) -> RevisionRelease:
    """The revision to go back to: the one asked for, else the newest that served, is drawn with
    what the platform has, and names neither the version that is left nor one that was withdrawn.

    A canary that is left takes only itself along.
    """
    served = [one for one in reversed(known) if one.revision.served]
    fit = [one for one in served if (one.release.base, one.release.vae) in bases]
    if revision is not None:
        found = next((one for one in served if one.number == revision), None)
        if found is None:
            listed = ", ".join(str(one.number) for one in served) or "none"
            raise BadInput(f"{name}: has no revision {revision} that served; known are {listed}")
        if found not in fit:
            raise Refused(f"{name}: revision {revision} is for a base that the platform has not")
        return found
    bad = set(withdrawn)
    if left is not None:
        bad.add(left.canary.digest if left.canary else left.digest)
    for one in fit:
        if not {pin.digest for pin in one.release.served} & bad:
            return one
    raise Refused(
        f"{name}: none of its {len(known)} known revisions serves another version that fits the "
        "platform and was not withdrawn; name a revision, or `atelier retire` it"
    )
