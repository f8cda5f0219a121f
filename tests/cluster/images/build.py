"""What each image is made of, and how the whole set of them is made and pushed."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.cluster.images import rootfs
from tests.cluster.images.store import Layer, Store

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
SBOM = "opt/atelier/sbom.json"  # in the image
BASE = "localhost/atelier-base"
# The product's, and what of their Dockerfiles' defaults does not fit our base.
PRODUCT: dict[str, dict[str, str]] = {
    "atelier-train": {},
    "atelier-serve": {"TRITONSERVER": ""},  # no server of the system's: the wheel's
}
NAMES = ("atelier-postgres", *PRODUCT)  # what a cluster pulls
SOURCES = (
    "atelier",
    "pipelines",
    "services",
    "commands",
    "requirements",
    "pyproject.toml",
    "Dockerfile.*",
)
# No GPU, so no compiler of its programs and no solver on it: 1.3 GB. torch's other CUDA libraries
# are linked into it and must be there, GPU or not.
WITHOUT = ("triton", "nvidia-cusolver")


@dataclass(frozen=True)
class Built:
    """An image in the store."""

    name: str
    digest: str  # of its configuration
    layers: tuple[Layer, ...]  # from the base up
    labels: dict[str, str]
    sbom: Path | None

    @property
    def size(self) -> int:
        """Bytes, uncompressed."""
        return sum(layer.size for layer in self.layers)


def folder() -> Path:
    """Where images and what they are made from are kept between runs."""
    cache = os.environ.get("ATELIER_CLUSTER_CACHE") or "~/.cache/atelier-cluster"
    return Path(cache).expanduser() / "images"


def store() -> Store:
    """The store of `folder()`."""
    return Store(folder())


def missing() -> str | None:
    """Why no image can be built here; None if one can."""
    if os.geteuid() != 0:
        return "building images needs root (buildah --isolation chroot, debootstrap)"
    absent = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    return f"not installed: {' '.join(absent)} (apt-get install)" if absent else None


def build(*, gpu: bool = False, source: str | None = None) -> dict[str, Built]:
    """Make every image whose inputs have changed; what there is now, by name.

    `gpu` leaves nothing out. `source` is the address of the sources, for the images' label.
    """
    images = store()
    images.folder.mkdir(parents=True, exist_ok=True)
    with _alone(images.folder):
        images.sweep()
        _build_base(images)
        images.build(
            "localhost/atelier-postgres",
            HERE / "Dockerfile.postgres",
            HERE,
            created=0,
            arguments={"BASE_IMAGE": BASE},
        )
        created, origin = _origin()
        for name, arguments in PRODUCT.items():
            images.build(
                f"localhost/{name}",
                ROOT / f"Dockerfile.{name.removeprefix('atelier-')}",
                ROOT,
                created=created,
                arguments={
                    "BASE_IMAGE": BASE,
                    "WITHOUT": "" if gpu else " ".join(WITHOUT),
                    **arguments,
                    **origin,
                },
                labels={"org.opencontainers.image.source": source} if source else {},
            )
            _keep_sbom(images, name)
        return built()


def push(registry: str) -> dict[str, str]:
    """Push every image to `host:port`; by name, what to pull: `host:port/name@sha256:…`."""
    images = store()
    with _alone(images.folder):
        pushed = {
            name: images.push(f"localhost/{name}", f"{registry}/{name}:latest") for name in NAMES
        }
    return {name: f"{registry}/{name}@{digest}" for name, digest in pushed.items()}


def built() -> dict[str, Built]:
    """What the last build left, by name; empty if there was none."""
    images = store()
    if not (images.folder / "storage").exists():
        return {}
    return {name: _built(images, name) for name in NAMES if images.has(f"localhost/{name}:latest")}


def _build_base(images: Store) -> None:
    tag = f"{BASE}:{rootfs.key()}"
    if not images.has(tag):
        with tempfile.TemporaryDirectory(dir=images.folder) as context:
            rootfs.make(Path(context) / "rootfs.tar")
            images.build(tag, HERE / "Dockerfile.base", Path(context), created=0)
    images.buildah("tag", tag, BASE)


def _built(images: Store, name: str) -> Built:
    tag = f"localhost/{name}"
    sbom = images.folder / f"{name}.cdx.json"
    return Built(
        name=name,
        digest=images.digest(tag),
        layers=images.layers(tag),
        labels=images.configuration(tag)["config"].get("Labels") or {},
        sbom=sbom if sbom.exists() else None,
    )


def _keep_sbom(images: Store, name: str) -> None:
    """Beside the image, for whoever audits it without running it."""
    with images.mounted(f"localhost/{name}") as root:
        shutil.copyfile(root / SBOM, images.folder / f"{name}.cdx.json")


def _origin() -> tuple[int, dict[str, str]]:
    """When the commit was made (seconds since 1970), and the build arguments that name it."""

    def git(*words: str) -> str:
        command = ("git", "-C", str(ROOT), *words)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    revision = git("rev-parse", "HEAD") or "unknown"
    if git("status", "--porcelain", "--", *SOURCES):
        revision += "-dirty"
    created = int(git("log", "-1", "--format=%ct") or 0)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    when = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return created, {"VERSION": project["version"], "REVISION": revision, "CREATED": when}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One build or push at a time: a second one waits."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
