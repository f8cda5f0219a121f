"""From samples beside a version to a refused promotion and an ended canary, in a real registry."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from atelier.adapter.package import write_package
from atelier.contract.sample import Sample, attested_name, key_of
from atelier.data.manifest import BaseRef
from atelier.data.names import ArtifactRef
from atelier.data.policy import Policy
from atelier.data.release import Canary, Pin, Release, ReleaseFolder
from atelier.errors import BadInput, PolicyError, Refused
from atelier.files import digest_files
from atelier.home import Home
from atelier.platform.jobs import TrainingSpec
from atelier.platform.jobs.training import PICTURES_TAG
from atelier.stores.artifacts import Artifacts
from atelier.stores.registry import Registry
from pipelines.dataset import open_folder
from pipelines.delivery.approval import CanaryTrial, require_live_scores
from pipelines.delivery.local.promotion import end_canary, promote
from pipelines.evaluate.live import LiveReport, report_name
from pipelines.evaluate.scorers import Scorers
from pipelines.live_scores import LiveScorer, score_all
from services.engine.sampler import encode
from tests.judged import DIGEST as BASE
from tests.judged import evaluation
from tests.judged import policy as judged_policy
from tests.promoted import MODULE

LIVE = {"min_pictures": 12, "limits": {"subject": {"min_delta": -0.05}}}


class Colours:
    """Features are the mean colour; every text is red. It stands in for the two networks."""

    names: ClassVar = {"clip": "scorers/clip", "dino": "scorers/dino"}
    digests: ClassVar = {"clip": BASE, "dino": BASE}

    def dino(self, images: Sequence[Image.Image]) -> np.ndarray:
        rows = np.stack([np.asarray(image, dtype=float).mean(axis=(0, 1)) for image in images])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    clip_images = dino

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        assert all("sks" not in text for text in texts)
        return np.array([(1.0, 0.0, 0.0) for _ in texts])


def policy(**changes: object) -> Policy:
    return judged_policy(live=LIVE | changes)


class Studio:
    """An adapter trained on red pictures: version 1 serves, and 2 is its canary."""

    name = "thor-cat"

    def __init__(self, root: Path):
        self.home = Home(root / "home")
        self.registry = Registry(self.home.tracking_uri)
        self.pictures = root / "images"
        self.pictures.mkdir(parents=True)
        for index, shade in enumerate((250, 240, 230)):
            Image.new("RGB", (16, 16), (shade, 0, 0)).save(self.pictures / f"{index}.png")
        files = [picture.path for picture in open_folder(self.pictures).pictures]
        self.stored = digest_files(self.pictures, files)
        artifacts = Artifacts(self.home.tracking_uri)
        artifacts.put(ArtifactRef.of("datasets", self.stored), self.pictures, files)
        self.pins = [self._register(root, seed) for seed in (1, 2)]
        canary = Canary(**self.pins[1].model_dump(), percent=10)
        self.release = Release(
            adapter=self.name, base=BASE, canary=canary, **self.pins[0].model_dump()
        )
        ReleaseFolder(self.home.releases).put(self.release)

    def _register(self, root: Path, seed: int) -> Pin:
        draw = np.random.default_rng(seed)
        made = write_package(
            root / f"package{seed}",
            {
                f"{MODULE}.lora_A.weight": draw.normal(size=(2, 4)).astype(np.float32),
                f"{MODULE}.lora_B.weight": draw.normal(size=(4, 2)).astype(np.float32),
            },
            name=self.name,
            base=BaseRef(id="m", digest=BASE),
            trigger="sks cat",
            noun="cat",
            dataset=open_folder(self.pictures).digest,
        )
        tags = {PICTURES_TAG: self.stored} if seed < 3 else {}  # an older Job has set none
        version = self.registry.register(made, run_id=None, tags=tags)
        document = evaluation(judged_policy(), adapter=self.name, digest=made.digest).to_json()
        info = self.registry.version(self.name, version)
        self.registry.attest(info, "evaluation.json", document.encode())
        return Pin(version=version, digest=made.digest)

    def sample(self, which: int, count: int, *, grey: int, environment: str = "local") -> None:
        """Samples beside a version; the greyer, the less like the references."""
        pin, draw = self.pins[which], np.random.default_rng(which)
        info = self.registry.version(self.name, pin.version)
        slots: set[str] = set()
        seed = -1
        while len(slots) < count:
            seed += 1
            prompt = "a sks cat on the beach"
            name = attested_name(environment, key_of(prompt, seed))
            if name in slots:
                continue
            slots.add(name)
            self.registry.attest(info, name, self.drawn(pin, prompt, seed, grey, draw))

    def drawn(
        self, pin: Pin, prompt: str, seed: int, grey: int, draw: np.random.Generator
    ) -> bytes:
        pixels = np.full((8, 8, 3), grey, dtype=np.uint8) + draw.integers(0, 30, 3, dtype=np.uint8)
        pixels[..., 0] = 250
        sample = Sample(
            adapter=self.name,
            version=pin.version,
            digest=pin.digest,
            prompt=prompt,
            seed=seed,
            steps=20,
            guidance_scale=5.0,
            scheduler="euler",
            width=8,
            height=8,
            time=0.0,
        )
        return encode(sample, pixels)

    def score(self, environment: str = "local") -> LiveReport:
        scorer = LiveScorer(self.registry, self.home, policy(), environment)
        return scorer.score(self.release, scorers())

    def promote(self, under: Policy) -> str:
        return promote(
            self.name, 2, registry=self.registry, home=self.home, policy=under, wait=0.2
        ).message


def scorers() -> Scorers:
    colours: Scorers = Colours()  # type: ignore[assignment]
    return colours


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"))


def refused(studio: Studio, under: Policy) -> str:
    with pytest.raises(Refused) as caught:
        studio.promote(under)
    assert ReleaseFolder(studio.home.releases).get(studio.name) == studio.release
    return str(caught.value)


def test_from_no_scores_to_a_canary_that_is_taken_back(studio: Studio) -> None:
    """One test, because each state follows from the last one in the registry."""
    assert "there are none; 12 sampled pictures of each version are missing" in refused(
        studio, policy()
    )
    studio.sample(0, 20, grey=0)
    studio.sample(1, 5, grey=180)
    few = studio.score()
    assert few.verdict.decision == "not enough evidence"
    assert (len(few.stable.pictures), len(few.canary.pictures)) == (20, 5)
    assert "version 2 has 5 sampled pictures; 7 are missing of 12" in refused(studio, policy())

    studio.sample(1, 20, grey=180)
    behind = studio.score()
    assert behind.verdict.decision == "falls behind"
    told = refused(studio, policy())
    assert "falls behind" in told and "attestations/2/live/local/" in told
    loose = policy(limits={"subject": {"min_delta": -0.9}})
    info = studio.registry.version(studio.name, 2)
    trial = CanaryTrial.of(studio.release, info.digest, "local")
    assert trial is not None
    require_live_scores(studio.registry, info, loose, trial)  # decided again, from the values

    with pytest.raises(Refused, match="no longer the canary"):
        ended(studio, studio.pins[0].digest)
    ended(studio, studio.pins[1].digest)
    release = ReleaseFolder(studio.home.releases).get(studio.name)
    assert release is not None
    assert (release.version, release.canary, release.reason) == (1, None, "falls behind")


def ended(studio: Studio, digest: str) -> None:
    end_canary(
        studio.name,
        digest,
        registry=studio.registry,
        home=studio.home,
        reason="falls behind",
        wait=0.1,
    )


def test_a_good_canary_may_serve_everybody_in_its_environment_only(studio: Studio) -> None:
    for which in (0, 1):
        studio.sample(which, 24, grey=10, environment="staging")
    report = studio.score("staging")
    assert report.verdict.decision == "keeps up"
    info = studio.registry.version(studio.name, 2)
    stored = studio.registry.attestation(info, report_name("staging"))
    assert stored is not None and LiveReport.parse(stored, "") == report
    assert b"beach" not in stored  # prompts are the users'
    trial = CanaryTrial("staging", studio.pins[0])
    require_live_scores(studio.registry, info, policy(), trial)
    with pytest.raises(Refused, match="run `atelier live thor-cat --environment production`"):
        require_live_scores(
            studio.registry, info, policy(), CanaryTrial("production", studio.pins[0])
        )
    with pytest.raises(Refused, match="compare it with version 1, but version 2 serves"):
        require_live_scores(studio.registry, info, policy(), CanaryTrial("staging", studio.pins[1]))


def test_samples_of_another_package_or_without_the_trigger_are_skipped(studio: Studio) -> None:
    place, draw = "production", np.random.default_rng(0)
    info = studio.registry.version(studio.name, 1)
    one, two = studio.pins
    stored = {
        "sks cat": studio.drawn(one, "a SKS cat at sea", 1, 0, draw),
        "no trigger": studio.drawn(one, "a boat at sea", 2, 0, draw),
        "another package": studio.drawn(two, "a sks cat at sea", 3, 0, draw),
        "no sample": b"\x89PNG broken",
    }
    for slot, data in enumerate(stored.values()):
        studio.registry.attest(info, f"live/{place}/{slot:03}.png", data)
    side = studio.score(place).stable
    assert [one.picture for one in side.pictures] == ["attestations/1/live/production/000.png"]
    assert side.skipped == 3
    assert side.pictures[0].values["subject"] > 0.99


def test_a_version_whose_pictures_nobody_names_needs_them_given(
    studio: Studio, tmp_path: Path
) -> None:
    third = studio._register(tmp_path, 3)  # without the tag
    canary = Canary(**third.model_dump(), percent=10)
    release = studio.release.with_canary(canary, "try")
    scorer = LiveScorer(studio.registry, studio.home, policy(), "local")
    with pytest.raises(BadInput, match=r"thor-cat@3: .* give them with --pictures"):
        scorer.score(release, scorers())
    given = LiveScorer(studio.registry, studio.home, policy(), "local", pictures=studio.pictures)
    assert (
        given.score(release, scorers()).canary.references
        == given.score(release, scorers()).stable.references
    )


def test_what_cannot_be_scored_is_told(studio: Studio) -> None:
    scorer = LiveScorer(studio.registry, studio.home, judged_policy(), "local")
    with pytest.raises(PolicyError, match="no section `live`"):
        scorer.score(studio.release, scorers())
    scorer = LiveScorer(studio.registry, studio.home, policy(), "local")
    with pytest.raises(BadInput, match="has no canary in local"):
        scorer.score(studio.release.with_canary(None, ""), scorers())
    assert score_all(scorer, [studio.release.with_canary(None, "")]) == []


def test_a_training_job_names_its_pictures() -> None:
    spec = TrainingSpec(adapter="a", recipe=BASE, base=BASE, datasets=(BASE, "sha256:" + "c" * 64))
    assert spec.tags[PICTURES_TAG] == "sha256:" + "c" * 64
