"""The settings of a cluster: its folder, and its addresses within one /16."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.local.tools import cache
from tests.cluster.local.trouble import NotPossibleHereError

CHECKOUT = Path(__file__).resolve().parents[3]
NODE = "node1"
PRIVATE = (Path("/run"), Path("/var"))  # the node has its own folders there


@dataclass(frozen=True)
class Settings:
    """One cluster. Clusters with different `home` and `prefix` can run at the same time."""

    home: Path
    prefix: str  # the first half of every address of this cluster

    def __post_init__(self) -> None:
        """Raise NotPossibleHereError for an invalid prefix or a folder hidden from the node."""
        if not re.fullmatch(r"\d{1,3}\.\d{1,3}", self.prefix):
            raise NotPossibleHereError(
                f'ATELIER_CLUSTER_PREFIX: "{self.prefix}" is not half an address, like 10.99.'
            )
        home = self.home.resolve()
        if any(home.is_relative_to(path.resolve()) for path in PRIVATE):
            raise NotPossibleHereError("ATELIER_CLUSTER_HOME must not be below /run or /var.")

    @classmethod
    def of_environment(cls) -> "Settings":
        """Read the settings from ATELIER_CLUSTER_HOME and ATELIER_CLUSTER_PREFIX."""
        folder = os.environ.get("ATELIER_CLUSTER_HOME")
        home = Path(folder).absolute() if folder else CHECKOUT / ".cluster"
        return cls(home, os.environ.get("ATELIER_CLUSTER_PREFIX", "10.99"))

    @property
    def name(self) -> str:
        """The name of the machine's link to the node, and of the node's cgroups."""
        return f"atelier{self.prefix.rpartition('.')[2]}"

    @property
    def host(self) -> str:
        """The address of the machine, for the node and its pods."""
        return f"{self.prefix}.0.1"

    @property
    def node(self) -> str:
        """The address of the node, for the machine and the pods."""
        return f"{self.prefix}.0.2"

    @property
    def pods(self) -> str:
        """The address range of the pods."""
        return f"{self.prefix}.64.0/18"

    @property
    def services(self) -> str:
        """The address range of the Services."""
        return f"{self.prefix}.128.0/17"

    @property
    def api_service(self) -> str:
        """The first address of `services`, which Kubernetes assigns to its own API."""
        return f"{self.prefix}.128.1"

    @property
    def dns(self) -> str:
        """The address of CoreDNS's Service."""
        return f"{self.prefix}.128.10"

    @property
    def registry(self) -> str:
        """HOST:PORT of the OCI registry, for the machine and the node; plain HTTP."""
        return f"{self.node}:5000"

    @property
    def api(self) -> str:
        """The URL of the API server."""
        return f"https://{self.node}:6443"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.home / "kubeconfig"

    @property
    def pki(self) -> Path:
        """The folder of keys and certificates."""
        return self.home / "pki"

    @property
    def config(self) -> Path:
        """The folder of the programs' configuration."""
        return self.home / "config"

    @property
    def log(self) -> Path:
        """The folder of the programs' logs."""
        return self.home / "log"

    @property
    def var(self) -> Path:
        """The node's /var: containerd's images, the kubelet's volumes, pods' logs."""
        return self.home / "var"

    @property
    def blobs(self) -> Path:
        """The registry's store. `down` keeps it, so that images need not be pushed again."""
        return cache() / "registry"
