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
    names = policy.companions_of(adapter)
    if names and registry is None:
        raise PolicyError(f"companions: {names[0]} is not in the registry, which is empty")
    found = []
    for label in names:
        name, _, version = label.partition("@")
        assert registry is not None
        found.append(fetched(registry, home, registry.version(name, int(version))))
    return tuple(found)
