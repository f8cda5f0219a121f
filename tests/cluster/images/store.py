"""One buildah store of our own: nothing of the machine's other images is seen or touched."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The building machine's own: a proxy's certificate authority is known there, and to no image.
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# The building machine's package indexes: shown to a build step, in no layer.
SECRETS = {
    "pip": ("~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf"),
    "uv": ("~/.config/uv/uv.toml", "/etc/uv/uv.toml"),
}


class ImageError(RuntimeError):
    """A build, or what it needs, failed; the text has the command and the end of its output."""


def run(*command: str | Path) -> str:
    """What the command prints, at a low priority; ImageError with what it complains of."""
    words = ["nice", "-n", "10", *map(str, command)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise ImageError(f"{' '.join(words)}: exit code {done.returncode}\n{end}")
    return done.stdout


@dataclass(frozen=True)
class Layer:
    """One layer as it lies in the store, uncompressed."""

    digest: str
    size: int


class Store:
    """Images below `folder`; what must not outlive a boot lies in /run."""

    def __init__(self, folder: Path):
        self.folder = folder
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        self._options = (
            *("--root", str(folder / "storage")),
            *("--runroot", f"/run/atelier-images/{name}"),
            *("--storage-driver", "overlay"),
        )

    def buildah(self, verb: str, *arguments: str | Path) -> str:
        """The output of `buildah verb …` on this store."""
        return run("buildah", *self._options, verb, *arguments)

    def build(
        self,
        name: str,
        dockerfile: Path,
        context: Path,
        *,
        created: int,
        arguments: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Build and tag; steps whose inputs are as before are taken from the store.

        `created` (seconds since 1970) is the time of the image and of every file in new layers, so
        that the same inputs give the same digests. What it says goes to `build.log` meanwhile.
        """
        volumes = [f"{AUTHORITIES}:{AUTHORITIES}:ro"] if AUTHORITIES.exists() else []
        self.buildah(
            "build",
            *("--isolation", "chroot", "--layers", "--pull=never", "--format", "oci"),
            *("--timestamp", str(created), "--identity-label=false"),
            *(f"--volume={volume}" for volume in volumes),
            *(f"--secret=id={one},src={path}" for one, path in _secrets()),
            *(f"--build-arg={key}={value}" for key, value in (arguments or {}).items()),
            *(f"--label={key}={value}" for key, value in (labels or {}).items()),
            *("--logfile", self.folder / "build.log", "--file", dockerfile, "--tag", name, context),
        )

    def has(self, name: str) -> bool:
        """Whether an image of that name is here."""
        names = json.loads(self.buildah("images", "--json"))
        return any(name in (image.get("names") or ()) for image in names)

    def configuration(self, name: str) -> dict[str, Any]:
        """The image's OCI configuration."""
        found: dict[str, Any] = self._inspect(name)["OCIv1"]
        return found

    def digest(self, name: str) -> str:
        """The digest of the image's configuration: the same for every registry and compression."""
        return f"sha256:{self._inspect(name)['FromImageID']}"

    def layers(self, name: str) -> tuple[Layer, ...]:
        """From the base up."""
        manifest = json.loads(self._inspect(name)["Manifest"])
        return tuple(Layer(one["digest"], one["size"]) for one in manifest["layers"])

    def push(self, name: str, target: str) -> str:
        """Push to `registry/repository:tag`, by plain HTTP; the manifest's digest there."""
        file = self.folder / "pushed"
        self.buildah(
            "push",
            *("--tls-verify=false", "--compression-format=zstd", "--compression-level=1"),
            *("--digestfile", file, name, f"docker://{target}"),
        )
        return file.read_text().strip()

    @contextmanager
    def mounted(self, name: str) -> Iterator[Path]:
        """The image's files, read-only by agreement: nothing written there is kept."""
        container = self.buildah("from", "--pull-never", name).strip()
        try:
            yield Path(self.buildah("mount", container).strip())
        finally:
            self.buildah("rm", container)

    def sweep(self) -> None:
        """Remove the working containers of builds that were interrupted."""
        self.buildah("rm", "--all")

    def clear(self) -> None:
        """Remove every image, and the folder."""
        if (self.folder / "storage").exists():
            self.sweep()
            self.buildah("rmi", "--all", "--force")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", name))
        return found


def _secrets() -> Iterator[tuple[str, Path]]:
    for name, places in SECRETS.items():
        chosen = os.environ.get({"pip": "PIP_CONFIG_FILE", "uv": "UV_CONFIG_FILE"}[name])
        found = [Path(place).expanduser() for place in ([chosen] if chosen else places)]
        if path := next((path for path in found if path.is_file()), None):
            yield name, path
