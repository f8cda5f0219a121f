"""From a verified package to weights that fit this engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from atelier.adapter.low_rank import LoraWeights
from atelier.adapter.package import MANIFEST, Package
from atelier.errors import AdapterRejected
from atelier.stores.environment import verified
from services.engine.layout import Layout
from services.engine.weights import HostWeights, pack


@dataclass(frozen=True)
class PackageLoader:
    """Loads packages for one base, at most of `max_rank`, as `dtype`."""

    layout: Layout
    base_digest: str
    max_rank: int
    dtype: torch.dtype
    pin: bool = False

    @property
    def terms(self) -> Mapping[str, object]:
        """What decides, beside the program, whether a package can be loaded."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"base": self.base_digest, "max_rank": self.max_rank, "dtype": dtype}

    def open(self, source: Path, digest: str) -> HostWeights:
        """The weights of a package's folder, its bytes checked against its digest."""
        return self.load(Package.open(source, digest=digest))

    def load(self, package: Package) -> HostWeights:
        """The weights of a verified package; AdapterRejected where it does not fit."""
        manifest = package.manifest
        if manifest.kind != "lora":
            raise AdapterRejected(
                f"{package.path}: kind {manifest.kind} cannot be served yet; only lora can"
            )
        if manifest.base.digest != self.base_digest:
            raise AdapterRejected(
                f"{package.path}: made for base {manifest.base.id} ({manifest.base.digest}), this "
                f"engine serves {self.base_digest}; train it on this base"
            )
        return self.pack(package.lora(), f"{package.path}")

    def pack(self, lora: Mapping[str, LoraWeights], place: str) -> HostWeights:
        """Weights laid out as the bank wants them; AdapterRejected where they do not fit."""
        return pack(
            self.layout, lora, max_rank=self.max_rank, dtype=self.dtype, pin=self.pin, place=place
        )


def rank_of(source: Path, digest: str) -> int:
    """The rank that a package's manifest states; AdapterRejected where it is another's."""
    file = source / MANIFEST
    try:
        return verified(file.read_bytes(), digest).rank
    except (OSError, ValueError) as error:
        raise AdapterRejected(f"{file}: {error}") from error
