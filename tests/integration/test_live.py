"""Live scores from end to end: `atelier serve` samples and stores, `atelier live` decides."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from atelier.data.release import Canary, Pin
from commands.main import app
from pipelines.evaluate.live import LiveReport, report_name
from pipelines.evaluate.live_samples import live_samples
from tests.integration.stack import ServedStack
from tests.judged import policy, tiny_scorers
from tests.tiny import tiny_adapter

PROMPT, SEEDS = "a sks cat on the beach", range(12)


@pytest.fixture
def sampling(tiny_model: Path, tmp_path: Path) -> Iterator[ServedStack]:
    """A replica that samples every picture."""
    env = {"ATELIER_SAMPLE_SHARE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    served = ServedStack(tmp_path / "stack", tiny_model, env=env)
    served.start()
    yield served
    assert served.stop() == 0, served.said()


def canary_beside_version_1(stack: ServedStack, base: Path, folder: Path) -> tuple[Pin, Pin]:
    one, two = (
        stack.register(tiny_adapter(base, folder / str(seed), seed=seed, scale=0.5 * seed))
        for seed in (1, 2)
    )
    stack.release("tiny", one)
    release = stack.releases.get("tiny")
    assert release is not None
    stack.releases.put(release.with_canary(Canary(**two.model_dump(), percent=10), "try"))
    stack.wait_for(
        lambda: (held := stack.report().holds("tiny", two.digest)) and held.state == "ready",
        "the canary",
    )
    return one, two


def sampled(stack: ServedStack, pin: Pin) -> list[Image.Image]:
    """Ask a version for pictures, wait until they are in the registry, and return them."""
    use = [{"name": "tiny", "version": pin.version}]
    pictures = {
        seed: stack.http(prompt=PROMPT, seed=seed, steps=2, adapters=use).pixels[0]
        for seed in SEEDS
    }
    info = stack.registry.version("tiny", pin.version)

    def stored() -> dict[int, Image.Image]:
        """By seed; without the picture of the smoke test, which has one step."""
        found, _ = live_samples(stack.registry, info, "local")
        return {one.sample.seed: one.image for one in found if one.sample.steps == 2}

    stack.wait_for(lambda: stored().keys() == pictures.keys(), "all samples")
    for seed, image in stored().items():
        assert np.array_equal(np.asarray(image), pictures[seed])
    return [Image.fromarray(pixels) for pixels in pictures.values()]


def test_a_canary_is_sampled_scored_and_taken_back(
    sampling: ServedStack, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The references are pictures of version 1, so version 2 is less like them. Random networks
    tell the two apart a little only, so the intervals are narrow."""
    one, two = canary_beside_version_1(sampling, tiny_model, tmp_path)
    references = tmp_path / "references"
    references.mkdir()
    for index, picture in enumerate(sampled(sampling, one)[:3]):
        picture.save(references / f"{index}.png")
    sampled(sampling, two)

    names = tiny_scorers(tmp_path / "scorers", tiny_model / "tokenizer")
    limits = {"subject": {"min_delta": 0.0}}
    live = {"min_pictures": 8, "limits": limits, "error": 0.45, "take_back": True}
    file = tmp_path / "policy.yaml"
    file.write_text(json.dumps(policy(scorers=names, live=live).model_dump(mode="json")))
    monkeypatch.setenv("ATELIER_HOME", str(sampling.home.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sampling.tracking_uri)
    words = ["live", "tiny", "--policy", str(file), "--pictures", str(references)]
    ended = CliRunner().invoke(app, [*words, "--take-back", "--json"])
    assert ended.exit_code == 1, ended.output
    told = json.loads(ended.stdout)
    (report,) = told["canaries"]
    assert report["verdict"]["decision"] == "falls behind"
    stored = sampling.registry.attestation(
        sampling.registry.version("tiny", 2), report_name("local")
    )
    assert stored is not None
    assert LiveReport.parse(stored, "").model_dump(mode="json") == report
    release = sampling.releases.get("tiny")
    assert release is not None and (release.pin, release.canary) == (one, None)
    assert release.reason.startswith("falls behind in live scores: subject fidelity (DINO)")
    assert "version 1 is released" in told["taken_back"][0]

    again = CliRunner().invoke(app, [*words, "--json"])
    assert again.exit_code == 2 and "has no canary in local" in again.stdout
    nothing = CliRunner().invoke(app, ["live", "--policy", str(file)])
    assert (nothing.exit_code, nothing.stdout) == (0, "no adapter has a canary\n")
    default = CliRunner().invoke(app, ["live"])
    assert default.exit_code == 0 and "nothing is scored" in default.stdout
