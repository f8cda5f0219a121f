"""Images of one static program: built from nothing, and pushed to a registry, both without a tool.

The same program always makes the same image, so its digest says what runs.
"""

import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin

from tests.cluster.local.trouble import ClusterTroubleError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
NOBODY = "65532:65532"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine


@dataclass(frozen=True)
class Image:
    """An OCI image of one layer, in memory."""

    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def digest(self) -> str:
        """Of the manifest, which names everything else by digest."""
        return _digest(self.manifest)

    def at(self, registry: str, name: str) -> str:
        """What it is pulled by, from there."""
        return f"{registry}/{name}@{self.digest}"


def scratch(files: dict[str, Path], entrypoint: str) -> Image:
    """An image of `files` (their place in it: the file), which runs `entrypoint` as nobody."""
    layer = _tar(files)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [entrypoint], "User": NOBODY, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(CONFIG, config),
        "layers": [_descriptor(LAYER, layer)],
    }
    return Image(_json(manifest), config, layer)


def push(image: Image, registry: str, name: str) -> str:
    """Send what the registry lacks; returns the reference by digest.

    ClusterTroubleError when the registry cannot be reached or refuses.
    """
    base = f"http://{registry}/v2/{name}"
    try:
        for blob in (image.layer, image.config):
            _push_blob(base, blob)
        _ask("PUT", f"{base}/manifests/{image.digest}", image.manifest, MANIFEST)
    except OSError as error:
        raise ClusterTroubleError(f"{registry} does not take {name}: {error}") from error
    return image.at(registry, name)


def _push_blob(base: str, blob: bytes) -> None:
    digest = _digest(blob)
    try:
        _ask("HEAD", f"{base}/blobs/{digest}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
    else:
        return
    place = urljoin(base, _ask("POST", f"{base}/blobs/uploads/")["Location"])
    joint = "&" if "?" in place else "?"
    _ask("PUT", place + joint + urlencode({"digest": digest}), blob, "application/octet-stream")


def _ask(method: str, url: str, body: bytes = b"", kind: str | None = None) -> Any:
    headers = {"Content-Type": kind} if kind else {}
    data = body if method in ("PUT", "POST") else None
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    with DIRECT.open(request, timeout=120) as answer:
        return answer.headers


def _tar(files: dict[str, Path]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for place, path in sorted(files.items()):
            entry = tarfile.TarInfo(place.lstrip("/"))
            entry.mode, entry.size = 0o755, path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(entry, content)
    return out.getvalue()


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
