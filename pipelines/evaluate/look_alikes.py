"""Finds look-alikes in the registry: pictures of other subjects of the class.

The base's own pictures of the class are often easy to tell from the subject. Other individuals of
the class, in the same composition, are hard (NearID, arXiv:2604.01973).
"""

from typing import Final

from atelier.data.manifest import Manifest
from atelier.stores.registry import Registry, VersionInfo

from .attestations import attested_evaluation, pictures
from .measures import LookAlikes

ADAPTERS: Final = 4  # other adapters of the registry whose pictures are used


def registered_look_alikes(registry: Registry, manifest: Manifest) -> tuple[LookAlikes, ...]:
    """Return the evaluated pictures of other adapters of the same class and base.

    The newest version of each adapter is used, for at most `ADAPTERS` adapters. Versions that were
    refused, or trained on the same pictures, are left out. Raises Unavailable if MLflow cannot be
    reached.
    """
    if not manifest.noun:
        return ()
    newest: dict[str, VersionInfo] = {}
    for info in registry.of_class(manifest.noun, manifest.base.digest):
        dataset = info.tags.get("atelier.dataset")  # imported adapters have none
        same = info.name == manifest.name or (dataset is not None and dataset == manifest.dataset)
        if not same and info.verdict == "accepted":
            newest.setdefault(info.name, info)
    found = (_pictures(registry, info) for info in list(newest.values())[:ADAPTERS])
    return tuple(one for one in found if one.pictures)


def _pictures(registry: Registry, info: VersionInfo) -> LookAlikes:
    evaluation = attested_evaluation(registry, info)
    images = [] if evaluation is None else list(pictures(registry, info, evaluation).values())
    return LookAlikes(info.label, images, declared=False)
