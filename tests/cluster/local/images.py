"""Build images of one static program from scratch, and push them to a registry.

No other tool is needed. The same program always results in the same image digest.
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
USER = "65532:65532"  # no privileges
DIRECT = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # the registry is on this machine


@dataclass(frozen=True)
class Image:
    """An OCI image of one layer, in memory."""

    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def digest(self) -> str:
        """The digest of the manifest, which names config and layer by digest."""
        return _digest(self.manifest)

    def at(self, registry: str, name: str) -> str:
        """Return the reference of the image in a registry."""
        return f"{registry}/{name}@{self.digest}"


def scratch(files: dict[str, Path], entrypoint: str) -> Image:
    """Return an image of `files` (file by path in the image) that runs `entrypoint` as USER."""
    layer = _tar(files)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [entrypoint], "User": USER, "WorkingDir": "/"},
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
    """Push the parts that the registry lacks; return the reference by digest.

    Raises ClusterTroubleError if the registry is unreachable or refuses the image.
    """
    base = f"http://{registry}/v2/{name}"
    try:
        for blob in (image.layer, image.config):
            _push_blob(base, blob)
        _send("PUT", f"{base}/manifests/{image.digest}", image.manifest, MANIFEST)
    except OSError as error:
        raise ClusterTroubleError(f"{registry}: pushing {name} failed: {error}") from error
    return image.at(registry, name)


def _push_blob(base: str, blob: bytes) -> None:
    digest = _digest(blob)
    try:
        _send("HEAD", f"{base}/blobs/{digest}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
    else:
        return
    upload = urljoin(base, _send("POST", f"{base}/blobs/uploads/")["Location"])
    joint = "&" if "?" in upload else "?"
    _send("PUT", upload + joint + urlencode({"digest": digest}), blob, "application/octet-stream")


def _send(method: str, url: str, body: bytes = b"", media_type: str | None = None) -> Any:
    """Send a request and return the headers of the response."""
    headers = {"Content-Type": media_type} if media_type else {}
    data = body if method in ("PUT", "POST") else None
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    with DIRECT.open(request, timeout=120) as answer:
        return answer.headers


def _tar(files: dict[str, Path]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for target, path in sorted(files.items()):
            entry = tarfile.TarInfo(target.lstrip("/"))
            entry.mode, entry.size = 0o755, path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(entry, content)
    return out.getvalue()


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
