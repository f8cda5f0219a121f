"""A Kubernetes namespace as an environment: ConfigMaps are its releases, Leases its reports.

`watching` follows it and goes on with what was known when the API server is away; `listing` asks
anew each time, for what ends. The client package is imported when a connection is made.
"""

from atelier.platform.api import Api, ClusterAway, ClusterRefused
from atelier.platform.lease_lock import LeaseLock
from atelier.platform.namespace import listing, watching
from atelier.platform.pod import Pod

__all__ = ["Api", "ClusterAway", "ClusterRefused", "LeaseLock", "Pod", "listing", "watching"]
