"""The steps of the demo: train, evaluate and serve two versions of an adapter, and roll back."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from atelier.home import Home
from atelier.stores.registry import Registry
from commands.demo.clock import Clock, TimedStep
from commands.demo.images import ImageClient, require_different, require_same
from commands.demo.prompts import FRESH, SHEET, TRAFFIC
from commands.demo.results import Results, write_results
from commands.demo.server import Served, served
from commands.demo.swap import swap_under_traffic
from commands.demo.versions import RegisteredVersion, VersionBuilder
from commands.serve.gateway_client import GatewayClient
from commands.terminal import hide_library_bars
from pipelines.delivery.local.promotion import promote, rollback
from pipelines.delivery.smoke import local_smoke
from services.gateway.keys import KeyStore

STEPS: Final = 14
PATIENCE: Final = 300.0  # seconds to wait until a version is ready; enough for a slow machine
RECIPES: Final = ("recipe.yaml", "version-2.yaml")


@dataclass
class Demo:
    """One run of the demo. `folder` gets its output; `example` has the recipes and pictures."""

    folder: Path
    example: Path
    policy: Policy = field(default_factory=Policy.load)
    port: int = 0

    def __post_init__(self) -> None:
        self.home = Home((self.folder / "home").absolute())
        self.clock = Clock(STEPS)
        self.recipes = [Recipe.load(self.example / name) for name in RECIPES]
        self._stack = ExitStack()

    def run(self) -> tuple[Served, str]:
        """Run every step, and return the addresses and a key of the gateway.

        The gateway runs until `close`. Raises Refused if a version or a check fails.
        """
        hide_library_bars()
        recipes = self.recipes
        registry, step = Registry(self.home.tracking_uri), self.clock.step
        builder = VersionBuilder(self.folder, self.home, registry, self.policy, self.clock)
        first = builder.build(recipes[0], 1)
        with step("start Triton, the agent and the gateway") as now:
            running = self._stack.enter_context(served(self.home, recipes[0].base, self.port))
            now.notes.append(f"gateway {running.gateway}, Triton {running.triton}")
        with step(f"promote version {first.version}") as now:
            self._promote(registry, first, now)
        with step("create a key, then generate over HTTP: the base and version 1"):
            key, _ = KeyStore(self.home.database_url).create("demo")
            client, name = GatewayClient(running.gateway, key), first.recipe.adapter
            images = ImageClient(client, first.recipe.trigger)
            base, before = images.generate(SHEET, None), images.generate(SHEET, name)
        second = builder.build(recipes[1], 2)
        with step("swap to version 2 while clients send requests") as now:
            requests = [(images.prompt(prompt), prompt.seed) for prompt in TRAFFIC]
            swap = swap_under_traffic(
                client, requests, first, second, lambda: self._promote(registry, second, now)
            )
            now.notes += [str(swap), running.require_unrestarted()]
        with step("generate over HTTP: version 2, the same seeds") as now:
            middle = images.generate(SHEET, name)
            fresh_first = images.generate(FRESH, f"{name}@{first.version}")
            fresh_second = images.generate(FRESH, name)
            now.notes.append(require_different(before, middle, "compared with version 1"))
        with step("roll back to version 1") as back:
            status = rollback(name, registry=registry, home=self.home, smoke=local_smoke(self.home))
            back.notes += [status.message, running.require_unrestarted()]
        with step("generate the same seeds again, and new prompts") as now:
            after, again = images.generate(SHEET, name), images.generate(FRESH, name)
            now.notes.append(require_same(before, after, "the same seeds as version 1"))
            now.notes.append(require_same(fresh_first, again, "new prompts"))
            now.notes.append(require_different(fresh_second, again, "compared with version 2"))
        with step("contact sheet, loss plot and report") as now:
            results = Results(
                versions=(first, second),
                same=(base, before, middle, after),
                fresh=(fresh_first, fresh_second, again),
                swap=swap,
                rollback_seconds=back.seconds,
                usage=client.usage(),
            )
            now.notes += write_results(results, self.folder, self.clock, images)
        return running, key

    @property
    def adapter(self) -> str:
        """The name of the adapter."""
        return self.recipes[0].adapter

    def close(self) -> None:
        """Stop the servers."""
        self._stack.close()

    def _promote(self, registry: Registry, version: RegisteredVersion, now: TimedStep) -> None:
        status = promote(
            version.recipe.adapter,
            version.version,
            registry=registry,
            home=self.home,
            policy=self.policy,
            smoke=local_smoke(self.home),
            wait=PATIENCE,
        )
        now.notes.append(status.message)
