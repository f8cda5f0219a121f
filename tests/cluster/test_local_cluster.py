"""The local cluster itself: it comes up, comes up again, mends itself, and leaves nothing behind.

A second cluster, with addresses of its own, so that one in use is not disturbed.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.local import cluster, namespaces
from tests.cluster.local.kubectl import kubectl
from tests.cluster.local.processes import stop
from tests.cluster.local.settings import CHECKOUT, Settings
from tests.cluster.local.shell import environment, run
from tests.cluster.local.tools import cache
from tests.cluster.local.trouble import ClusterTroubleError

REASON = cluster.obstacle()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
PREFIX = "10.98"
# Where such programs put things when nobody stops them.
PLACES = (
    *("/etc/cni", "/etc/containerd", "/etc/kubernetes", "/opt/cni", "/opt/containerd"),
    *("/run/containerd", "/run/flannel", "/run/netns", "/run/xtables.lock", "/run/kubernetes"),
    *("/usr/libexec/kubernetes", "/var/lib/cni", "/var/lib/containerd", "/var/lib/kubelet"),
    *("/var/log/containers", "/var/log/pods", "/var/lib/etcd", "/var/lib/kube-proxy"),
)


@dataclass(frozen=True)
class Machine:
    """What of this machine a cluster could change."""

    mounts: frozenset[str]
    links: frozenset[str]
    routes: frozenset[str]
    rules: frozenset[str]
    places: frozenset[str]

    @classmethod
    def now(cls) -> "Machine":
        # Images may be built meanwhile, which is another matter.
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        rules = "".join(run([tool]) for tool in ("iptables-save", "ip6tables-save"))
        return cls(
            mounts=frozenset(one for one in mounts if str(cache() / "images") not in one),
            links=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
            routes=frozenset(run(["ip", "route", "show", "table", "all"]).splitlines()),
            rules=frozenset(one for one in rules.splitlines() if not one.startswith("#")),
            places=frozenset(_contents()),
        )

    def more_than(self, before: "Machine") -> dict[str, set[str]]:
        """What is new since `before`."""
        new = {name: set(mine) - set(vars(before)[name]) for name, mine in vars(self).items()}
        return {name: found for name, found in new.items() if found}


def _contents() -> Iterator[str]:
    for place in map(Path, PLACES):
        if place.exists():
            yield str(place)
        if place.is_dir():
            yield from map(str, place.iterdir())


def _inhabitants(spaces: set[str], settings: Settings) -> list[str]:
    """The processes that are in one of the node's namespaces or cgroups, or name its folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            groups = (folder / "cgroup").read_text()
            theirs = {str((folder / "ns" / kind).readlink()) for kind in ("net", "mnt", "pid")}
        except OSError:
            continue
        if theirs & spaces or f"/{settings.name}/" in groups or str(settings.home) in words:
            found.append(f"{folder.name} {words}")
    return found


def _spaces(settings: Settings) -> set[str]:
    pid = namespaces.holder(settings)
    assert pid is not None
    return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "mnt", "pid")}


def _assert_nothing_is_left(settings: Settings, before: Machine, spaces: set[str]) -> None:
    assert Machine.now().more_than(before) == {}
    assert _inhabitants(spaces, settings) == []
    assert not settings.home.exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{settings.name}"))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A cluster of this test's own, which is down at its end, however it ends."""
    made = Settings(tmp_path / "cluster", PREFIX)
    yield made
    cluster.down(made)


def test_nothing_is_left_of_a_cluster(settings: Settings) -> None:
    """Up, up again, mended, down; and down again, which is no error."""
    before = Machine.now()
    cluster.up(settings, ("dns",))
    spaces = _spaces(settings)
    during = Machine.now().more_than(before)
    assert during["links"] == {settings.name}
    assert during.keys() == {"links", "routes"}  # the rules and mounts are the node's alone
    pods = ["get", "pods", "-n", "kube-system", "-o", "name"]
    first = kubectl(settings.kubeconfig, *pods)
    assert "coredns" in first
    assert all(cluster.status(settings).values())

    other = Settings(settings.home.with_name("other"), PREFIX)
    with pytest.raises(ClusterTroubleError, match=r"Another cluster has the addresses 10\.98"):
        cluster.up(other, ())
    cluster.down(other)
    assert all(cluster.status(settings).values())

    started = time.monotonic()
    cluster.up(settings, ("dns",))
    print(f"the second up took {time.monotonic() - started:.1f} s")
    assert kubectl(settings.kubeconfig, *pods) == first

    etcd, kubelet = (
        one for one in cluster.all_programs(settings) if one.name in ("etcd", "kubelet")
    )
    stop(settings, etcd, signal.SIGKILL)
    stop(settings, kubelet, signal.SIGKILL)
    running = cluster.status(settings)
    # A controller manager that was still starting gives up without a store.
    assert {name for name, runs in running.items() if not runs} >= {"etcd", "kubelet"}
    cluster.up(settings, ("dns",))
    assert all(cluster.status(settings).values())
    assert kubectl(settings.kubeconfig, *pods) == first

    cluster.down(settings)
    _assert_nothing_is_left(settings, before, spaces)
    cluster.down(settings)


def test_an_interrupted_up_can_be_taken_down(tmp_path: Path) -> None:
    """Ctrl-C in the middle, as a shell sends it."""
    before = Machine.now()
    settings = Settings(tmp_path / "cluster", PREFIX)
    code = (  # a shell's background jobs ignore it, and so would their children
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from pathlib import Path; from tests.cluster.local import cluster;"
        "from tests.cluster.local.settings import Settings;"
        f"cluster.up(Settings(Path({str(settings.home)!r}), {settings.prefix!r}))"
    )
    up = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT, stderr=subprocess.DEVNULL)
    try:
        while namespaces.holder(settings) is None and up.poll() is None:
            time.sleep(0.1)
        time.sleep(3)
        spaces = _spaces(settings)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) != 0
        assert _inhabitants(spaces, settings)  # there was something to take down
    finally:
        up.kill()
        cluster.down(settings)
    _assert_nothing_is_left(settings, before, spaces)


def test_without_root_it_says_so_and_does_nothing(tmp_path: Path) -> None:
    """Exit code 2, one sentence."""
    home = tmp_path / "cluster"
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--no-new-privs"]
    done = subprocess.run(
        [*nobody, sys.executable, "-m", "tests.cluster.local", "up"],
        cwd=CHECKOUT,
        env=environment(ATELIER_CLUSTER_HOME=str(home)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "needs root" in done.stderr
    assert not home.exists()
