"""Load a verified package into host weights that fit this engine."""

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
    """Load packages of one base and of at most `max_rank`, converted to `dtype`."""

    layout: Layout
    base_digest: str
    max_rank: int
    dtype: torch.dtype
    pin: bool = False  # to page-locked memory, for asynchronous copies to a GPU

    @property
    def terms(self) -> Mapping[str, object]:
        """The values that decide, for a given program version, whether a package can be loaded."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"base": self.base_digest, "max_rank": self.max_rank, "dtype": dtype}

    def open(self, source: Path, digest: str) -> HostWeights:
        """Load the package in a folder after checking its files against `digest`.

        Raises AdapterRejected if the package is damaged or does not fit.
        """
        return self.load(Package.open(source, digest=digest))

    def load(self, package: Package) -> HostWeights:
        """Load the weights of a verified package. Raises AdapterRejected if they do not fit."""
        manifest = package.manifest
        if manifest.kind != "lora":
            raise AdapterRejected(
                f"{package.path}: kind {manifest.kind} is not supported; only lora is"
            )
        if manifest.base.digest != self.base_digest:
            raise AdapterRejected(
                f"{package.path}: trained on base {manifest.base.id} ({manifest.base.digest}), but "
                f"this engine serves {self.base_digest}; train it on this base"
            )
        return self.pack(package.lora(), f"{package.path}")

    def pack(self, lora: Mapping[str, LoraWeights], place: str) -> HostWeights:
        """Stack low-rank pairs in the layout of the bank; `place` begins an error message.

        Raises AdapterRejected if they do not fit.
        """
        return pack(
            self.layout, lora, max_rank=self.max_rank, dtype=self.dtype, pin=self.pin, place=place
        )


def rank_of(source: Path, digest: str) -> int:
    """Return the rank in the manifest of a package.

    Raises AdapterRejected if the manifest cannot be read or does not have this digest.
    """
    file = source / MANIFEST
    try:
        return verified(file.read_bytes(), digest).rank
    except (OSError, ValueError) as error:
        raise AdapterRejected(f"{file}: {error}") from error
