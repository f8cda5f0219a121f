"""Who a process on a cluster is, by the downward API's variables."""

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
        """Read POD_NAME, POD_NAMESPACE, POD_UID and POD_IP; BadInput names those that are not
        set."""
        variables = ("POD_NAME", "POD_NAMESPACE", "POD_UID", "POD_IP")
        if missing := [variable for variable in variables if not environment.get(variable)]:
            raise BadInput(
                f"{', '.join(missing)}: not set; on a cluster the downward API gives them"
            )
        return cls(*(environment[variable] for variable in variables))

    def owner(self) -> dict[str, str]:
        """An ownerReference: what it owns goes when the pod goes."""
        return {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid}
