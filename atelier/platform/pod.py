"""The identity of a process on a cluster, from variables of the downward API."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from atelier.errors import BadInput


@dataclass(frozen=True)
class Pod:
    """The pod that this process runs in."""

    name: str
    namespace: str
    uid: str
    ip: str

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> "Pod":
        """Read POD_NAME, POD_NAMESPACE, POD_UID and POD_IP. Raises BadInput if one is missing."""
        variables = ("POD_NAME", "POD_NAMESPACE", "POD_UID", "POD_IP")
        if missing := [variable for variable in variables if not environment.get(variable)]:
            raise BadInput(
                f"{', '.join(missing)}: not set; on a cluster, set these variables from the "
                "downward API"
            )
        return cls(*(environment[variable] for variable in variables))

    def owner(self) -> dict[str, str]:
        """Return an ownerReference; owned objects are deleted with the pod."""
        return {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}
