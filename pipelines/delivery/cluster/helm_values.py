"""Values of charts/adapter: created from a declaration, and read back as a release."""

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
    """Return the values for `helm upgrade` of the adapter's release.

    `platform` contains all values of the platform's release; the hook runs in the platform's image.
    `live` and `since` are the serving release and its Helm revision. `manifest` returns the text of
    a version's manifest.
    """
    previous = _previous(declared, live, since)
    pins = [*declared.served, *previous]
    canary = declared.canary.model_dump() if declared.canary else {}
    image, smoke = platform["image"], platform["smoke"]
    return {
        "adapter": declared.adapter,
        "base": declared.base,
        "vae": declared.vae or "",
        "version": declared.version,
        "digest": declared.digest,
        "canary": canary,
        "previous": [past.model_dump(mode="json", exclude_none=True) for past in previous],
        "manifests": {pin.digest: manifest(pin) for pin in pins},
        "hook": {
            "image": {key: image[key] for key in _IMAGE if key in image},
            "secret": smoke["secret"],
            "key": smoke["key"],
        },
    }


def release_of(values: dict[str, Any]) -> Release:
    """Return the release that the chart creates from these values."""
    return Release(
        adapter=values["adapter"],
        base=values["base"],
        vae=values.get("vae") or None,
        version=values["version"],
        digest=values["digest"],
        canary=Canary.model_validate(values["canary"]) if values.get("canary") else None,
    )


def served_bases(platform: Mapping[str, Any]) -> set[tuple[str, str | None]]:
    """Return base and VAE of the platform's pools: the stable one and the engine canaries."""
    serving = platform["serving"]
    pools = [serving, *({**serving, **canary} for canary in serving.get("canary") or ())]
    return {(pool["base"], pool.get("vae") or None) for pool in pools}


def require_served(declared: Declaration, platform: Mapping[str, Any]) -> None:
    """Raise Refused if no pool of the platform has the version's base and VAE."""
    if (declared.base, declared.vae) not in served_bases(platform):
        raise Refused(
            f"{declared.adapter}@{declared.version}: evaluated on base {declared.base}"
            f"{f' with VAE {declared.vae}' if declared.vae else ''}, but the platform serves "
            f"{platform['serving']['base']}; train and evaluate it on that base"
        )


def _previous(
    declared: Declaration, live: Release | None, since: Revision | None
) -> tuple[Past, ...]:
    """Return the versions that served before, newest first, without withdrawn ones."""
    if live is None:
        return ()
    details: dict[str, object] = {}
    if since:
        details = {
            "revision": since.number,
            "reason": since.reason,
            "since": since.updated,
        }
    now = live.model_copy(update=details)
    next_ = now if live.pin == declared.pin else now.with_version(declared.pin, declared.reason)
    withdrawn = {version.digest for version in declared.withdrawn}
    return tuple(past for past in next_.previous if past.digest not in withdrawn)
