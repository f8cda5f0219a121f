"""The expected errors of the local cluster."""


class ClusterTroubleError(Exception):
    """The cluster cannot be built, started or used; the message names the fix or the log."""


class NotPossibleHereError(ClusterTroubleError):
    """This machine or user cannot run the cluster (no root, a missing package)."""
