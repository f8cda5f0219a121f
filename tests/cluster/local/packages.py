"""The Debian packages that the cluster needs."""

import os
import shutil
import subprocess

from tests.cluster.local.shell import PATH, environment
from tests.cluster.local.trouble import NotPossibleHereError

PACKAGES = {  # the package, and a file or command that it installs
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "etcd-server": "etcd",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "socat": "socat",
    "iproute2": "ip",
    "util-linux": "unshare",
    "buildah": "buildah",  # buildah and debootstrap build the project's images
    "debootstrap": "debootstrap",
}


def missing() -> list[str]:
    """Return the packages that are not installed."""
    return [name for name, probe in PACKAGES.items() if not shutil.which(probe, path=PATH)]


def advice(names: list[str]) -> str:
    """Return the command that installs the packages."""
    return f"apt-get install --no-install-recommends {' '.join(names)}"


def install() -> None:
    """Install the missing packages. Raises NotPossibleHereError without root or apt."""
    names = missing()
    if not names:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NotPossibleHereError(f"Packages are missing; run once as root: {advice(names)}")
    apt = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *names]
    env = environment(DEBIAN_FRONTEND="noninteractive")
    if subprocess.run(apt, env=env, check=False).returncode:  # the package lists may be outdated
        subprocess.run(["apt-get", "update", "--quiet"], env=env, check=True)
        subprocess.run(apt, env=env, check=True)
