"""A Kubernetes namespace as an environment: releases are ConfigMaps, reports are Leases.

`watching` is for long-running processes: it follows the namespace, and keeps the last known state
while the API server is unavailable. `listing` is for commands: it lists all objects at each call.
The Kubernetes client is imported on the first connection.
"""

from atelier.platform.api import Api, ClusterAway, ClusterRefused
from atelier.platform.lease_lock import LeaseLock
from atelier.platform.namespace import listing, watching
from atelier.platform.pod import Pod

__all__ = ["Api", "ClusterAway", "ClusterRefused", "LeaseLock", "Pod", "listing", "watching"]
