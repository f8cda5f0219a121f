"""For tests of promotion: an adapter in a real registry, and what its replica is to report."""

import time
from copy import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atelier.adapter.package import Package, write_package
from atelier.contract.replica import HeldAdapter, Replica, ReplicaFolder
from atelier.data.manifest import BaseRef
from atelier.data.release import ReleaseFolder
from atelier.home import Home
from atelier.stores.registry import Registry
from pipelines.delivery.local.journal import PromotionJournal
from pipelines.delivery.local.promotion import promote
from pipelines.delivery.local.reconciler import PromotionStatus
from tests.judged import DIGEST as BASE
from tests.judged import evaluation, policy

MODULE = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"

State = Literal["ready", "loading", "failed"]


def package(folder: Path, name: str, seed: int) -> Package:
    draw = np.random.default_rng(seed)
    tensors = {
        f"{MODULE}.lora_A.weight": draw.normal(size=(2, 4)).astype(np.float32),
        f"{MODULE}.lora_B.weight": draw.normal(size=(4, 2)).astype(np.float32),
    }
    return write_package(folder, tensors, name=name, base=BaseRef(id="m", digest=BASE), alpha=2)


class Adapter:
    """One adapter with two registered and accepted versions, and what its replica reports.

    Registering takes its time, so the tests share it; each has a home of its own.
    """

    def __init__(self, registry: Registry, folder: Path):
        self.name = "thor-cat"
        self.registry = registry
        self.folder = folder
        self.home = Home(folder / "home")
        self.digests: dict[int, str] = {}
        for seed in (1, 2):
            self.add(seed)

    def at(self, home: Home) -> "Adapter":
        """The same adapter, not served yet, in another home."""
        fresh = copy(self)
        fresh.home = home
        if fresh.alias is not None:
            self.registry.remove_alias(self.name, "local")
        return fresh

    def add(self, seed: int, **changes: Any) -> int:
        """Register a version, judged by good numbers unless `changes` says otherwise."""
        made = package(self.folder / f"{seed}", self.name, seed)
        version = self.registry.register(made, run_id=None)
        self.digests[version] = made.digest
        self.judge(version, **changes)
        return version

    def judge(self, version: int, **changes: Any) -> None:
        """Attest a verdict in place of the last one."""
        said = {"adapter": self.name, "digest": self.digests[version]} | changes
        document = evaluation(policy(), **said).to_json().encode()
        info = self.registry.version(self.name, version)
        self.registry.attest(info, "evaluation.json", document)

    def report(
        self,
        *,
        base: str = BASE,
        vae: str | None = None,
        engine: str = "engine",  # that of tests/judged.py
        default: int | None = None,
        **states: State,
    ) -> None:
        """A live replica that holds versions as told: `report(v1="ready")`.

        It answers by the `default` version; without it, by whichever ready one is released next.
        """
        held = tuple(
            HeldAdapter(
                name=self.name,
                version=int(v[1:]),
                digest=self.digests[int(v[1:])],
                state=state,
                default=state == "ready" and default in (None, int(v[1:])),
                error="shapes do not fit" if state == "failed" else None,
            )
            for v, state in states.items()
        )
        replica = Replica(
            replica="r0",
            base=base,
            vae=vae,
            backend="torch",
            engine_digest=engine,
            heartbeat=time.time() + 3600,  # alive for as long as the test runs
            adapters=held,
        )
        ReplicaFolder(self.home.replicas).put(replica)

    def promote(self, version: int, **options: Any) -> PromotionStatus:
        options = {"wait": 0.3, "policy": policy()} | options
        return promote(self.name, version, registry=self.registry, home=self.home, **options)

    @property
    def released(self) -> int | None:
        release = ReleaseFolder(self.home.releases).get(self.name)
        return release.version if release else None

    @property
    def alias(self) -> int | None:
        found = self.registry.aliased(self.name, "local")
        return found.version if found else None

    @property
    def under_way(self) -> bool:
        return PromotionJournal(self.home).get(self.name) is not None
