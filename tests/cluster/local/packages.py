"""What the cluster takes from Debian rather than builds."""

import os
import shutil
import subprocess

from tests.cluster.local.shell import PATH, environment
from tests.cluster.local.trouble import NotPossibleHereError

PACKAGES = {  # the package, and a file or command by which to see it
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "etcd-server": "etcd",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "socat": "socat",
    "iproute2": "ip",
    "util-linux": "unshare",
    "buildah": "buildah",  # these two build the project's own images
    "debootstrap": "debootstrap",
}


def missing() -> list[str]:
    """The packages that are not installed."""
    return [name for name, probe in PACKAGES.items() if not shutil.which(probe, path=PATH)]


def advice(names: list[str]) -> str:
    """The command that installs `names`."""
    return f"apt-get install --no-install-recommends {' '.join(names)}"


def install() -> None:
    """Install what is missing. Needs root and apt; NotPossibleHereError without."""
    names = missing()
    if not names:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NotPossibleHereError(f"As root, once: {advice(names)}")
    apt = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *names]
    env = environment(DEBIAN_FRONTEND="noninteractive")
    if subprocess.run(apt, env=env, check=False).returncode:  # perhaps only its lists are old
        subprocess.run(["apt-get", "update", "--quiet"], env=env, check=True)
        subprocess.run(apt, env=env, check=True)
