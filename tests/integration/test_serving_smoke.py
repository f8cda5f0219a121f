"""What the gateway draws is what was judged, to the pixel: a verdict's engine, then the served way.

`pipelines.delivery.smoke` asks, as the hook has it do before an alias moves.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.adapter.package import Package
from atelier.data.policy import Policy
from atelier.data.release import Pin
from atelier.errors import Refused
from pipelines.delivery.smoke import gateway_smoke, require_similar
from pipelines.evaluate import attest, evaluate
from pipelines.evaluate.attestations import samples
from services.engine import Engine
from services.gateway.keys import KeyStore
from services.gateway.png import encode_png
from tests.integration.stack import ServedStack
from tests.judged import tiny_scorers
from tests.tiny import tiny_adapter

NAME = "loki"


@pytest.fixture(scope="module")
def policy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Two prompts, so that two pictures are compared."""
    return Policy.model_validate(
        {
            "scorers": tiny_scorers(tmp_path_factory.mktemp("scorers"), tiny_model / "tokenizer"),
            "seeds": {"first": 2, "most": 2},
            "steps": 4,
            "scheduler": "ddim",
            "guidance_scale": 3.0,
            "prompts": {
                "subject": ["{trigger} on a red roof", "{trigger} at night"],
                "unrelated": ["a robot"],
            },
            "gates": {"effect": {"min": -9.0}},
        }
    )


def test_the_judged_picture_comes_out_and_no_other_passes_for_it(
    stack: ServedStack, oracle: Engine, policy: Policy, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (64, 64), (90, 60, 30)).save(tmp_path / "pictures/1.png")
    pins, judged = [], []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        path = tiny_adapter(tiny_model, folder / "package", name=NAME, seed=seed, scale=1.0)
        pin = stack.register(path)
        found = evaluate(
            Package.open(path),
            policy,
            base=tiny_model,
            training_pictures=tmp_path / "pictures",
            output=folder / "evaluation",
            engine=oracle,
        )
        info = stack.registry.version(NAME, pin.version)
        attest(stack.registry, info, found, folder / "evaluation")
        pins.append(pin)
        judged.append(samples(stack.registry, NAME, pin, base=found.base, vae=found.vae))
    (first, second), (ours, theirs) = pins, judged
    assert [one.prompt for one in ours] == [
        f"{found.trigger} on a red roof",
        f"{found.trigger} at night",
    ]
    wrong = Pin(version=first.version, digest=second.digest)
    assert samples(stack.registry, NAME, wrong, base=found.base, vae=found.vae) == ()
    assert samples(stack.registry, NAME, first, base=found.base, vae="sha256:0") == ()

    key = KeyStore(f"sqlite:///{stack.home.root / 'gateway.db'}").create(NAME)[0]
    smoke = gateway_smoke(stack.addresses["gateway"], key)
    stack.release(NAME, first)
    release = stack.releases.get(NAME)
    assert release is not None
    stack.wait_for(lambda: _routed(stack, key), "the gateway to route")
    said = smoke(release, first, ours)
    assert (
        f"{NAME}@{first.version} generates the evaluated images: distance 0.00 of 255 levels"
        in said
    )
    assert "on the engine of the evaluation" in said
    assert "no evaluation with its base and VAE" in smoke(release, first, ())
    with pytest.raises(
        Refused, match=r"not generate the evaluated image: '.* on a red roof', seed 0"
    ):
        smoke(
            release, first, theirs
        )  # as if the second version's release drew with the first's weights
    with pytest.raises(Refused, match=r"generated with sha256:\w+ instead of sha256:"):
        smoke(release, second.model_copy(update={"version": first.version}), ours)

    one = ours[0]
    asked = {"prompt": one.prompt, "seed": one.seed, **one.sampling.model_dump()}
    base = stack.gateway(key, **asked).pixels[0]
    for engine in (one.engine_digest, "another"):
        with pytest.raises(Refused, match="does not generate the evaluated image"):
            require_similar(encode_png(base, {"engine_digest": engine}), one, NAME)
    assert np.abs(base.astype(int) - np.asarray(one.image)).mean() == pytest.approx(
        255 * one.effect, abs=0.05
    )


def _routed(stack: ServedStack, key: str) -> bool:
    try:
        stack.gateway(key, prompt="a", seed=0, steps=1, adapter=NAME)
    except OSError:  # 404 and 503 among them
        return False
    return True
