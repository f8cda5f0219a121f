"""Live scores from end to end: an engine, its samples, a registry, real scorers and the command."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from atelier.adapter.package import Package
from atelier.contract.info import UsedAdapter
from atelier.data.policy import Policy
from atelier.data.release import Canary, Pin, Release, ReleaseFolder
from atelier.home import Home
from atelier.stores.registry import Registry
from commands.main import app
from pipelines.evaluate.live import LiveReport, report_name
from services.agent.samples import SampleUploader
from services.engine import AdapterUse, Engine, EngineSettings, ImageRequest
from services.engine.sampler import Sampler
from services.engine.settings import SampleSettings
from tests.judged import policy, tiny_scorers
from tests.tiny import tiny_adapter

PROMPT = "a sks cat on the beach"


def serve(engine: Engine, home: Home, version: int, seeds: range) -> list[Image.Image]:
    """Ask a version for pictures, as Triton's model does, and return them."""
    sampler = Sampler(home.volume, SampleSettings(sample_share=1.0))
    engine.start()
    pictures = []
    for seed in seeds:  # one after another, so that the sampler drops none
        use = AdapterUse("tiny", version)
        request = ImageRequest(PROMPT, adapters=(use,), seed=seed, steps=2)
        future = engine.submit(request)
        sampler.watch(request, future)
        result = future.result(60)
        assert [type(one) for one in result.adapters] == [UsedAdapter]
        pictures.append(Image.fromarray(result.images[0]))
    sampler.close()
    assert sampler.dropped == 0
    return pictures


@pytest.fixture
def served(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Version 1 serves and 2 is its canary; their samples are in the registry."""
    home = Home(tmp_path / "home")
    monkeypatch.setenv("ATELIER_HOME", str(home.root))
    registry = Registry(home.tracking_uri)
    engine = Engine.load(tiny_model, settings=EngineSettings(max_rank=8))
    pins = []
    for seed in (1, 2):
        folder = tiny_adapter(tiny_model, tmp_path / f"{seed}", seed=seed, scale=0.5 * seed)
        package = Package.open(folder)
        version = registry.register(package, run_id=None)
        engine.adapters.add(package, version)
        pins.append(Pin(version=version, digest=package.digest))
    references = tmp_path / "references"
    references.mkdir()
    for index, picture in enumerate(serve(engine, home, 1, range(12))):
        if index < 3:
            picture.save(references / f"{index}.png")
    serve(engine, home, 2, range(12))
    engine.close()
    uploading = SampleUploader(home.volume, lambda: registry, "local")
    assert uploading.round() == 24
    release = Release(
        adapter="tiny",
        base=engine.base.digest,
        canary=Canary(**pins[1].model_dump(), percent=10),
        **pins[0].model_dump(),
    )
    ReleaseFolder(home.releases).put(release)
    return home


def test_a_canary_is_scored_and_taken_back(served: Home, tiny_model: Path, tmp_path: Path) -> None:
    """The references are pictures of version 1, so version 2 is less like them. Random networks
    tell the two apart a little only, so the intervals are narrow."""
    names = tiny_scorers(tmp_path / "scorers", tiny_model / "tokenizer")
    limits = {"subject": {"min_delta": 0.0}}
    live = {"min_pictures": 8, "limits": limits, "error": 0.45, "take_back": True}
    file = tmp_path / "policy.yaml"
    file.write_text(json.dumps(policy(scorers=names, live=live).model_dump(mode="json")))
    assert Policy.load(file).live is not None
    words = ["live", "tiny", "--policy", str(file), "--pictures", str(tmp_path / "references")]
    ended = CliRunner().invoke(app, [*words, "--take-back", "--json"])
    assert ended.exit_code == 1, ended.output
    told = json.loads(ended.stdout)
    (report,) = told["canaries"]
    assert report["verdict"]["decision"] == "falls behind"
    registry = Registry(served.tracking_uri)
    stored = registry.attestation(registry.version("tiny", 2), report_name("local"))
    assert stored is not None
    assert LiveReport.parse(stored, "").model_dump(mode="json") == report
    release = ReleaseFolder(served.releases).get("tiny")
    assert release is not None and release.canary is None
    assert release.reason.startswith("falls behind in live scores: subject fidelity (DINO)")
    assert len(told["taken_back"]) == 1

    again = CliRunner().invoke(app, [*words, "--json"])
    assert again.exit_code == 2 and "has no canary in local" in again.stdout
    nothing = CliRunner().invoke(app, ["live", "--policy", str(file)])
    assert (nothing.exit_code, nothing.stdout) == (0, "no adapter has a canary\n")
    default = CliRunner().invoke(app, ["live"])
    assert default.exit_code == 0 and "nothing is scored" in default.stdout
