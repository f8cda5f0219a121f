"""Where claims keep their bytes: on the local cluster folders of its own, elsewhere its default."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

MINE = "atelier.dev/e2e"  # label of what is the cluster's, with the namespace that it is for


@dataclass(frozen=True)
class Volumes:
    """`folder` is None where the cluster makes volumes itself."""

    folder: Path | None = None

    def of(self, namespace: str, claim: str) -> list[Any]:
        """The volume for a claim that names no class, where one has to be made."""
        if self.folder is None:
            return []
        name = f"{namespace}-{claim}"
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o777)  # Kubernetes gives a host's folder to nobody
        meta = {"name": name, "labels": {MINE: namespace}}
        spec = {
            "capacity": {"storage": "5Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": str(place)},
        }
        return [{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec}]
