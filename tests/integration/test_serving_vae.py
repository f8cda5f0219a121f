"""What is judged is made by what serves: the same revision of the base, the same VAE."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.adapter.package import Package
from atelier.data.policy import Policy
from atelier.errors import Refused
from pipelines.delivery.local.promotion import promote
from pipelines.evaluate import Evaluation, evaluate
from services.engine import AdapterUse, Engine, ImageRequest, load_base
from tests.integration.stack import PATIENCE, Pixels, ServedStack
from tests.judged import tiny_scorers
from tests.tiny import tiny_adapter, tiny_base

HUB_ID, PINNED, NEWEST = "somebody/tiny-xl", "1" * 40, "2" * 40
ASKED = ImageRequest("a red cat", seed=3, steps=2)
TOLERANCE = 2  # of 255


def apart(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another base's: the same architecture, other weights."""
    return tiny_base(tmp_path_factory.mktemp("other") / "base", seed=1) / "vae"


@pytest.fixture(scope="module")
def judge(tiny_model: Path, vae: Path) -> Iterator[Engine]:
    engine = Engine(load_base(tiny_model, vae=vae))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def served(
    tiny_model: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedStack]:
    """On a revision of a hub's base that is no longer its newest, from the hub client's cache."""
    root = tmp_path_factory.mktemp("served")
    stored = root / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    shutil.copytree(tiny_model, stored / "snapshots" / PINNED)
    shutil.copytree(vae.parent, stored / "snapshots" / NEWEST)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(NEWEST)
    env = {"HF_HUB_CACHE": str(root / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    options = ("--revision", PINNED, "--vae", str(vae), "--no-gateway")
    stack = ServedStack(root, HUB_ID, *options, env=env)
    stack.start()
    yield stack
    assert stack.stop() == 0, stack.said()


def test_it_serves_that_revision_with_that_vae(
    served: ServedStack, judge: Engine, oracle: Engine
) -> None:
    picture = served.grpc(prompt=ASKED.prompt, seed=ASKED.seed, steps=ASKED.steps)
    assert picture.info["base"] == judge.base.digest == served.report().base
    assert served.report().vae == judge.base.vae_digest is not None
    assert picture.info["engine_digest"] == judge.digest != oracle.digest
    assert apart(picture.pixels, judge.generate(ASKED).images) <= TOLERANCE
    assert apart(picture.pixels, oracle.generate(ASKED).images) > 10 * TOLERANCE


def test_only_what_was_judged_with_that_vae_may_serve(
    served: ServedStack, tiny_model: Path, vae: Path, judge: Engine, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    policy = Policy.model_validate(
        {
            "scorers": tiny_scorers(tmp_path / "scorers", tiny_model / "tokenizer"),
            "seeds": {"first": 2, "most": 2},
            "steps": 2,
            "prompts": {"subject": ["{trigger} at night"], "unrelated": ["a red robot"]},
            "gates": {"effect": {"min": -9.0}},  # two pictures decide no limit near the value
        }
    )
    package = Package.open(tiny_adapter(tiny_model, tmp_path / "freya", name="freya"))
    pin = served.register(package.path)

    def judged(vae: Path | None) -> Evaluation:
        found = evaluate(
            package,
            policy,
            base=tiny_model,
            vae=str(vae) if vae else None,
            training_pictures=pictures,
            output=tmp_path / "evaluation",
        )
        document = found.to_json().encode()
        info = served.registry.version("freya", pin.version)
        served.registry.attest(info, "evaluation.json", document)
        return found

    def promoted() -> str:
        standing = promote(
            "freya",
            pin.version,
            registry=served.registry,
            home=served.home,
            policy=policy,
            wait=PATIENCE,
        )
        return standing.state

    assert judged(None).vae is None
    with pytest.raises(
        Refused, match=f"its own VAE, but local serves .*VAE {judge.base.vae_digest}"
    ):
        promoted()
    found = judged(vae)
    assert (found.vae, found.engine_digest) == (judge.base.vae_digest, judge.digest)
    assert promoted() == "serving"
    judge.adapters.add(package, pin.version)
    expected = judge.generate(
        ImageRequest("a cat", seed=5, steps=2, adapters=(AdapterUse("freya", pin.version),))
    )
    picture = served.grpc(prompt="a cat", seed=5, steps=2, adapters=[{"name": "freya"}])
    assert picture.digest == package.digest
    assert apart(picture.pixels, expected.images) <= TOLERANCE
