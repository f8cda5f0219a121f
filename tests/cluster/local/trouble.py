"""The errors a person can do something about."""


class ClusterTroubleError(Exception):
    """The cluster cannot be built, brought up or used; the message says what to do."""


class NotPossibleHereError(ClusterTroubleError):
    """This machine or user cannot run the cluster at all (no root, a missing package)."""
