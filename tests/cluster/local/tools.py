"""Build the cluster's programs from their Go modules, once per set of pinned versions."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.local.trouble import ClusterTroubleError, NotPossibleHereError

SOURCES = Path(__file__).resolve().parents[1] / "tools"
KUBERNETES = "v1.34.4"
HELM = "v4.3.1"


def cache() -> Path:
    """Return ATELIER_CLUSTER_CACHE, or a folder in the user's cache."""
    folder = os.environ.get("ATELIER_CLUSTER_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "atelier-cluster"


@dataclass(frozen=True)
class Family:
    """Programs that share one go.mod. `charts` are folders of `module` that are copied as well."""

    name: str
    programs: dict[str, str]  # package by program name
    stamps: dict[str, str] = field(
        default_factory=dict
    )  # value by the name of a string in the program
    module: str = ""
    charts: dict[str, str] = field(default_factory=dict)  # folder by chart name

    @property
    def folder(self) -> Path:
        """The folder of its go.mod."""
        return SOURCES / self.name

    @property
    def digest(self) -> str:
        """The digest of all inputs of the build except the compiler."""
        pinned = hashlib.sha256(repr(self).encode())
        for path in sorted(self.folder.iterdir()):
            pinned.update(path.name.encode() + b"\0" + path.read_bytes())
        return pinned.hexdigest()


CLUSTER = (
    Family(
        "helm",
        {"helm": "helm.sh/helm/v4/cmd/helm"},
        stamps={"helm.sh/helm/v4/internal/version.version": HELM},
    ),
    Family("pause", {"pause": "atelier.dev/cluster/pause"}),
    Family("probe", {"probe": "atelier.dev/cluster/probe"}),
    Family("registry", {"registry": "github.com/distribution/distribution/v3/cmd/registry"}),
    Family(
        "kubernetes",
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubectl",
                "kubelet",
            )
        },
        stamps={
            "k8s.io/component-base/version.gitVersion": KUBERNETES,
            "k8s.io/client-go/pkg/version.gitVersion": KUBERNETES,
        },
    ),
    Family("coredns", {"coredns": "github.com/coredns/coredns"}),
    Family(
        "kserve",
        {"kserve-controller": "github.com/kserve/kserve/cmd/manager"},
        module="github.com/kserve/kserve",
        charts={"kserve-crd": "charts/kserve-crd", "kserve-resources": "charts/kserve-resources"},
    ),
    Family(
        "kueue",
        {"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
        module="sigs.k8s.io/kueue",
        charts={"kueue": "charts/kueue"},
    ),
)
# Tools of other checks, which need no cluster.
CHECKS = (
    Family(
        "helm-unittest",
        {"helm-unittest": "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"},
    ),
    Family("actionlint", {"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"}),
    Family("act", {"act": "github.com/nektos/act"}),
    Family("kubeconform", {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}),
)
FAMILIES = (*CLUSTER, *CHECKS)


def program(name: str) -> Path:
    """Return the path of a built program."""
    return cache() / "bin" / name


def chart(name: str) -> Path:
    """Return the folder of a chart that a module contains."""
    return cache() / "charts" / name


def stale(families: tuple[Family, ...] = FAMILIES) -> list[Family]:
    """Return the families with missing or outdated programs."""
    return [family for family in families if not _is_built(family)]


def build(names: list[str]) -> None:
    """Build the stale families of those in `names`.

    Raises NotPossibleHereError without Go. A ClusterTroubleError names the log of a failed build.
    """
    wanted = [family for family in stale() if family.name in names]
    if wanted and not shutil.which("go"):
        raise NotPossibleHereError("The cluster's tools are built with Go 1.26; install it.")
    for family in wanted:
        with _locked():
            if not _is_built(family):  # another process may have built it meanwhile
                _build(family)


def _is_built(family: Family) -> bool:
    stamp = _stamp(family)
    return (
        stamp.is_file()
        and stamp.read_text() == family.digest
        and all(program(name).is_file() for name in family.programs)
        and all(chart(name).is_dir() for name in family.charts)
    )


def _stamp(family: Family) -> Path:
    return cache() / "pins" / family.name


def _build(family: Family) -> None:
    """Build a family. Each program is written atomically, and the stamp last."""
    started = time.monotonic()
    print(f"building {family.name} …", file=sys.stderr, flush=True)
    log = cache() / "log" / f"build-{family.name}.log"
    for path in (log, program("x"), chart("x"), _stamp(family)):
        path.parent.mkdir(parents=True, exist_ok=True)
    stamps = " ".join(f"-X {name}={value}" for name, value in family.stamps.items())
    flags = ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", f"-s -w {stamps}".strip()]
    with log.open("wb") as out:
        for name, package in family.programs.items():
            new = program(f".{name}.new")
            done = subprocess.run(
                ["nice", "-n", "19", "go", "build", *flags, "-o", str(new), package],
                cwd=family.folder,
                check=False,
                env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            if done.returncode:
                raise ClusterTroubleError(f"{name} could not be built: see {log}")
            new.replace(program(name))
    _copy_charts(family)
    _stamp(family).write_text(family.digest)
    print(f"built {family.name} in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _copy_charts(family: Family) -> None:
    if not family.charts:
        return
    command = ["go", "list", "-m", "-f", "{{.Dir}}", family.module]
    module = subprocess.run(
        command, cwd=family.folder, check=True, capture_output=True, text=True
    ).stdout.strip()
    for name, folder in family.charts.items():
        target = chart(name)
        shutil.rmtree(target, ignore_errors=True)
        # The files of the module cache are read-only, so their modes are not copied.
        shutil.copytree(Path(module, folder), target, copy_function=shutil.copyfile)
        for path in (target, *target.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


@contextmanager
def _locked() -> Iterator[None]:
    """Let only one build run at a time on this machine, because each uses all cores."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
