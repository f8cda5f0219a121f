"""Where one cluster lives: its folder, and its addresses out of one /16."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.local.tools import cache
from tests.cluster.local.trouble import NotPossibleHereError

CHECKOUT = Path(__file__).resolve().parents[3]
NODE = "node1"
PRIVATE = (Path("/run"), Path("/var"))  # the node has its own


@dataclass(frozen=True)
class Settings:
    """A cluster. Two with different `home` and `prefix` can run at the same time."""

    home: Path
    prefix: str  # the first half of every address of this cluster

    def __post_init__(self) -> None:
        """NotPossibleHereError for no such prefix, and a folder that the node cannot see."""
        if not re.fullmatch(r"\d{1,3}\.\d{1,3}", self.prefix):
            raise NotPossibleHereError(f'"{self.prefix}" is not half an address, like 10.99.')
        home = self.home.resolve()
        if any(home.is_relative_to(path.resolve()) for path in PRIVATE):
            raise NotPossibleHereError("The cluster's folder cannot be under /run or /var.")

    @classmethod
    def of_environment(cls) -> "Settings":
        """ATELIER_CLUSTER_HOME, or a folder of the checkout; ATELIER_CLUSTER_PREFIX."""
        named = os.environ.get("ATELIER_CLUSTER_HOME")
        home = Path(named).absolute() if named else CHECKOUT / ".cluster"
        return cls(home, os.environ.get("ATELIER_CLUSTER_PREFIX", "10.99"))

    @property
    def name(self) -> str:
        """Of the machine's link to the node, and of the node's cgroups."""
        return f"atelier{self.prefix.rpartition('.')[2]}"

    @property
    def host(self) -> str:
        """The machine, as the node and its pods see it."""
        return f"{self.prefix}.0.1"

    @property
    def node(self) -> str:
        """The node, as the machine and the pods see it."""
        return f"{self.prefix}.0.2"

    @property
    def pods(self) -> str:
        """The pods' addresses."""
        return f"{self.prefix}.64.0/18"

    @property
    def services(self) -> str:
        """The Services' addresses."""
        return f"{self.prefix}.128.0/17"

    @property
    def api_service(self) -> str:
        """The first of `services`: Kubernetes gives it to its own API."""
        return f"{self.prefix}.128.1"

    @property
    def dns(self) -> str:
        """CoreDNS's Service."""
        return f"{self.prefix}.128.10"

    @property
    def registry(self) -> str:
        """The OCI registry, at one address for machine and node; plain HTTP."""
        return f"{self.node}:5000"

    @property
    def api(self) -> str:
        """The API server."""
        return f"https://{self.node}:6443"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.home / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.home / "pki"

    @property
    def config(self) -> Path:
        """What the programs read."""
        return self.home / "config"

    @property
    def log(self) -> Path:
        """What they write."""
        return self.home / "log"

    @property
    def var(self) -> Path:
        """The node's /var: containerd's images, the kubelet's volumes, pods' logs."""
        return self.home / "var"

    @property
    def blobs(self) -> Path:
        """The registry's store. It outlives the cluster: what is there need not be pushed again."""
        return cache() / "registry"
