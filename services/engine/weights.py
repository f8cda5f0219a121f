"""Load a verified package into host memory: check it against the base, and stack its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atelier.adapter.low_rank import LoraWeights
from atelier.adapter.package import MANIFEST, Package
from atelier.errors import AdapterRejected
from atelier.stores.environment import verified
from services.engine.layout import Layout

NAMED = 8  # keys listed in an error


@dataclass(frozen=True)
class HostWeights:
    """The weights of one adapter, stacked as in the bank. `B` includes the factor alpha/rank.

    `A[group]` is [layer, rank, in] and `B[group]` is [layer, rank, out], in the bank's dtype.
    Groups in which the adapter changes no projection are absent. `mask` has the bits of the
    projections that the adapter changes.
    """

    A: Mapping[int, Tensor]
    B: Mapping[int, Tensor]
    rank: int
    mask: int

    @property
    def nbytes(self) -> int:
        """Host memory in bytes."""
        return sum(tensor.nbytes for side in (self.A, self.B) for tensor in side.values())


@dataclass(frozen=True)
class PackageLoader:
    """Load packages of one base and of at most `max_rank`, converted to `dtype`."""

    layout: Layout
    base_digest: str
    max_rank: int
    dtype: torch.dtype
    pin: bool = False  # load to page-locked memory, for asynchronous copies to a GPU

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
                f"{package.path}: kind {manifest.kind} is not supported; use a package of kind lora"
            )
        if manifest.base.digest != self.base_digest:
            raise AdapterRejected(
                f"{package.path}: the adapter was trained on base {manifest.base.id} "
                f"({manifest.base.digest}), but this engine serves base {self.base_digest}; use an "
                "engine with the base of the adapter, or train the adapter on the base of this "
                "engine"
            )
        return self.pack(package.lora(), f"{package.path}")

    def pack(self, lora: Mapping[str, LoraWeights], place: str) -> HostWeights:
        """Stack low-rank pairs in the layout of the bank. Error messages begin with `place`.

        Raises AdapterRejected if they do not fit.
        """
        return pack(
            self.layout, lora, max_rank=self.max_rank, dtype=self.dtype, pin=self.pin, place=place
        )


def rank_of(source: Path, digest: str) -> int:
    """Return the rank in the manifest of a package.

    Raises AdapterRejected if the manifest cannot be read or has another digest.
    """
    file = source / MANIFEST
    try:
        return verified(file.read_bytes(), digest).rank
    except (OSError, ValueError) as error:
        raise AdapterRejected(f"{file}: {error}") from error


def pack(
    layout: Layout,
    lora: Mapping[str, LoraWeights],
    *,
    max_rank: int,
    dtype: torch.dtype,
    pin: bool = False,
    place: str = "adapter",
) -> HostWeights:
    """Stack the low-rank pairs `lora`, by canonical path. Error messages begin with `place`.

    Raises AdapterRejected if keys do not fit the base, if a rank exceeds `max_rank`, or if a value
    overflows in `dtype`.
    """
    _check(layout, lora, max_rank, place)
    rank = max((pair.rank for pair in lora.values()), default=0)
    A: dict[int, Tensor] = {}
    B: dict[int, Tensor] = {}
    mask = 0
    for path, pair in lora.items():
        projection = layout.by_path[path]
        group = layout.groups[projection.group]
        if projection.group not in A:
            A[projection.group] = torch.zeros(group.layers, rank, group.in_features, dtype=dtype)
            B[projection.group] = torch.zeros(group.layers, rank, group.out_features, dtype=dtype)
        # A pair of a stored adapter is read from its file here, one at a time.
        ranks = slice(pair.rank)
        up = pair.B.astype(np.float32).T * pair.scale
        A[projection.group][projection.layer, ranks] = torch.from_numpy(pair.A).to(dtype)
        B[projection.group][projection.layer, ranks] = torch.from_numpy(up).to(dtype)
        mask |= 1 << projection.bit
    if pin:
        A, B = ({group: tensor.pin_memory() for group, tensor in side.items()} for side in (A, B))
    _check_finite(A, B, dtype, place)
    return HostWeights(A, B, rank, mask)


def _check(layout: Layout, lora: Mapping[str, LoraWeights], max_rank: int, place: str) -> None:
    unknown, misfits = [], []
    for path, pair in lora.items():
        projection = layout.by_path.get(path)
        if projection is None:
            unknown.append(path)
            continue
        group = layout.groups[projection.group]
        shape = (pair.out_features, pair.in_features)
        required = (group.out_features, group.in_features)
        if shape != required:
            misfits.append(
                f"{path} is {shape[0]}×{shape[1]}, but the base has {required[0]}×{required[1]}"
            )
    if unknown:
        raise AdapterRejected(
            f"{place}: the base has no such projections: {_some(unknown)}; the adapter was trained "
            "on another base, or changes layers that the engine does not support"
        )
    if misfits:
        raise AdapterRejected(
            f"{place}: the adapter was trained on another base: {_some(misfits)}; use an engine "
            "with the base of the adapter"
        )
    too_high = [pair.rank for pair in lora.values() if pair.rank > max_rank]
    if too_high:
        raise AdapterRejected(
            f"{place}: rank {max(too_high)} exceeds the max_rank of this engine, {max_rank}; "
            "raise max_rank, or train an adapter of a lower rank"
        )


def _check_finite(
    A: Mapping[int, Tensor], B: Mapping[int, Tensor], dtype: torch.dtype, place: str
) -> None:
    if not all(torch.isfinite(tensor).all() for side in (A, B) for tensor in side.values()):
        raise AdapterRejected(
            f"{place}: has values outside the range of {dtype}; set ATELIER_PRECISION to a format "
            "with a larger range"
        )


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + rest
