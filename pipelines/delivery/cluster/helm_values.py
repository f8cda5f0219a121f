"""Values of charts/adapter: made from a declaration, and read back as a release."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from atelier.data.declaration import Declaration
from atelier.data.release import Canary, Past, Pin, Release
from atelier.errors import Refused
from atelier.platform.helm import Revision

Values = dict[str, Any]
_IMAGE: Final = ("repository", "tag", "digest", "pullPolicy", "pullSecrets")


def release_values(
    declared: Declaration,
    platform: Mapping[str, Any],
    live: Release | None,
    since: Revision | None,
    manifest: Callable[[Pin], str],
) -> Values:
    """What `helm upgrade` of the adapter's release is given.

    `platform` are all values of the platform's release, whose image has the hook; `live` and
    `since` what serves now; `manifest` gives the text of a version's manifest.
    """
    previous = _previous(declared, live, since)
    named = [*declared.served, *previous]
    canary = declared.canary.model_dump() if declared.canary else {}
    image, smoke = platform["image"], platform["smoke"]
    return {
        "adapter": declared.adapter,
        "base": declared.base,
        "vae": declared.vae or "",
        "version": declared.version,
        "digest": declared.digest,
        "canary": canary,
        "previous": [one.model_dump(mode="json", exclude_none=True) for one in previous],
        "manifests": {one.digest: manifest(one) for one in named},
        "hook": {
            "image": {key: image[key] for key in _IMAGE if key in image},
            "secret": smoke["secret"],
            "key": smoke["key"],
        },
    }


def release_of(values: dict[str, Any]) -> Release:
    """The release that values of charts/adapter make."""
    return Release(
        adapter=values["adapter"],
        base=values["base"],
        vae=values.get("vae") or None,
        version=values["version"],
        digest=values["digest"],
        canary=Canary.model_validate(values["canary"]) if values.get("canary") else None,
    )


def drawn_by(platform: Mapping[str, Any]) -> set[tuple[str, str | None]]:
    """Base and VAE of the platform's replicas, and of its engine's canaries."""
    serving = platform["serving"]
    pools = [serving, *({**serving, **one} for one in serving.get("canary") or ())]
    return {(one["base"], one.get("vae") or None) for one in pools}


def require_served(declared: Declaration, platform: Mapping[str, Any]) -> None:
    """Refused where no replica will ever draw with what the version was judged with."""
    if (declared.base, declared.vae) not in drawn_by(platform):
        raise Refused(
            f"{declared.adapter}@{declared.version}: judged on base {declared.base}"
            f"{f' with VAE {declared.vae}' if declared.vae else ''}, but the platform serves "
            f"{platform['serving']['base']}; train and judge it on what is served"
        )


def _previous(
    declared: Declaration, live: Release | None, since: Revision | None
) -> tuple[Past, ...]:
    """What served before, newest first, without what was withdrawn meanwhile."""
    if live is None:
        return ()
    told: dict[str, object] = {}
    if since:
        told = {
            "revision": since.number,
            "reason": since.reason,
            "since": since.updated,
        }
    now = live.model_copy(update=told)
    next_ = now if live.pin == declared.pin else now.with_version(declared.pin, declared.reason)
    gone = {one.digest for one in declared.withdrawn}
    return tuple(one for one in next_.previous if one.digest not in gone)
