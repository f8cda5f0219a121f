"""The node: one process with its own network, mount and process namespaces."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.local.settings import Settings
from tests.cluster.local.shell import PATH, environment, run
from tests.cluster.local.tools import program
from tests.cluster.local.trouble import ClusterTroubleError

CGROUPS = Path("/sys/fs/cgroup")
# Unmount overlays of other processes (for example an image build), because the node would keep them
# mounted. The node has its own /run, and its own /var in its folder. Pods can share its mounts.
SETUP = """
mount --make-rprivate /
awk '$3 == "overlay" && $2 != "/" {{ print $2 }}' /proc/mounts | xargs -r -d '\\n' umount --lazy
mkdir -p {var}/lib/cni {var}/log {var}/tmp
ln -sfn /run {var}/run
mount --bind {var} /var
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/pids /run/lock
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
exec {pause} {home}
"""


def holder(settings: Settings) -> int | None:
    """Return the pid of the node's process, None if there is none.

    It is found by its command line, which contains the cluster's folder: a pid file could be stale.
    """
    home = os.fsencode(settings.home)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
                if command[1:] == [home] and command[0].endswith(b"/pause"):
                    return int(folder.name)
            except OSError:  # the process has just ended
                continue
    return None


def create(settings: Settings) -> int:
    """Create the node and its link to the machine, unless they exist; return the node's pid.

    Raises ClusterTroubleError if another cluster uses the addresses.
    """
    pid = holder(settings)
    if pid is None:
        if _link_is_there(settings):
            raise ClusterTroubleError(
                f"Another cluster has the addresses {settings.prefix}.0.0/16: stop it, "
                "or choose another prefix with ATELIER_CLUSTER_PREFIX."
            )
        _make_cgroups(settings.name)
        pid = _unshare(settings)
    if not _link_is_there(settings):
        _link(settings, pid)
    return pid


def destroy(settings: Settings) -> None:
    """Kill the node, and thereby every process, mount, link and rule in its namespaces."""
    pid = holder(settings)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)  # the kernel kills all processes in its namespace
        _until_gone(pid)
        for _ in range(100):  # the kernel removes the link with its other end
            if not _link_is_there(settings):
                break
            time.sleep(0.1)
    if not _link_is_there(settings):  # otherwise the cgroups belong to another cluster
        _remove_cgroups(settings.name)


def _link_is_there(settings: Settings) -> bool:
    return Path("/sys/class/net", settings.name).exists()


def inside(settings: Settings, command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` on the node.

    Raises ClusterTroubleError if the cluster is down.
    """
    pid = holder(settings)
    if pid is None:
        raise ClusterTroubleError("The cluster is down: run `make cluster`")
    return ["nsenter", "--target", str(pid), "--net", "--mount", "--pid", "--", *command]


def on_node(settings: Settings, command: Sequence[str], check: bool = True) -> str:
    """Run `command` on the node and return its output."""
    return run(inside(settings, command), check=check)


def _unshare(settings: Settings) -> int:
    # If these are kernel modules, they must be loaded before a container needs them.
    if shutil.which("modprobe", path=PATH):
        run(["modprobe", "-a", "br_netfilter", "overlay"], check=False)
    settings.log.mkdir(parents=True, exist_ok=True)
    settings.var.mkdir(parents=True, exist_ok=True)
    script = SETUP.format(
        var=shlex.quote(str(settings.var)),
        pause=shlex.quote(str(program("pause"))),
        home=shlex.quote(str(settings.home)),
    )
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--"]
    log = settings.log / "node.log"
    with log.open("ab") as out:
        started = subprocess.Popen(
            [*unshare, "sh", "-ec", script],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    for _ in range(300):
        pid = holder(settings)
        if pid is not None:
            return pid
        if started.poll() is not None:
            break
        time.sleep(0.1)
    raise ClusterTroubleError(f"The node's namespaces could not be created: see {log}")


def _link(settings: Settings, pid: int) -> None:
    """Create a pair of links, and the routes to pods and Services, which end with the pair."""
    name = settings.name

    def ip(*arguments: str) -> None:
        run(["ip", *arguments])

    ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    ip("address", "add", f"{settings.host}/24", "dev", name)
    ip("link", "set", name, "up")
    for arguments in (
        ["address", "add", f"{settings.node}/24", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["route", "add", "default", "via", settings.host],
    ):
        on_node(settings, ["ip", *arguments])
    for addresses in (settings.pods, settings.services):
        ip("route", "add", addresses, "via", settings.node, "dev", name)


def _until_gone(pid: int) -> None:
    for _ in range(600):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.1)
    raise ClusterTroubleError(f"Process {pid} did not end after SIGKILL.")


def _make_cgroups(name: str) -> None:
    """Create the kubelet's root cgroup, in every hierarchy of version 1 or in that of version 2."""
    shared = CGROUPS / "cgroup.subtree_control"
    if shared.exists():
        shared.write_text("+cpu +cpuset +memory +pids")
        (CGROUPS / name).mkdir(exist_ok=True)
        return
    for hierarchy in CGROUPS.iterdir():
        if hierarchy.is_dir() and not hierarchy.is_symlink():
            (hierarchy / name).mkdir(exist_ok=True)


def _remove_cgroups(name: str) -> None:
    """Remove the cgroups of every hierarchy, children first.

    A cgroup stays busy for a moment after its last process has ended.
    """
    for root in (*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")):
        for folder in sorted((root, *root.rglob("*")), key=lambda path: -len(path.parts)):
            for _ in range(50):
                try:
                    if folder.is_dir():
                        folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)
