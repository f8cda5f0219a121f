"""Fetches the companions of a policy: adapters that are applied together with the one evaluated.

Services combine adapters. An adapter that is good alone may lose its subject beside others, so a
policy can name the adapters that serve most and limit the loss (the gate `together`).
"""

from atelier.adapter.package import Package
from atelier.data.policy import Policy
from atelier.errors import PolicyError
from atelier.home import Home
from atelier.stores.packages import fetched
from atelier.stores.registry import Registry


def companion_packages(
    policy: Policy, adapter: str, registry: Registry | None, home: Home
) -> tuple[Package, ...]:
    """Return the packages of the companions, without another version of the adapter itself.

    Raises PolicyError if there is no registry, BadInput if it has no such version, AdapterRejected
    for a damaged package, and Unavailable if the registry cannot be reached.
    """
    labels = policy.companions_of(adapter)
    if not labels:
        return ()
    if registry is None:
        raise PolicyError(f"companions: {labels[0]} is not in the registry, which is empty")
    named = (label.partition("@") for label in labels)
    infos = [registry.version(name, int(version)) for name, _, version in named]
    return tuple(fetched(registry, home, info) for info in infos)
