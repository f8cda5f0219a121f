"""The smoke test: its verdict on pixels, and on responses that are not an image."""

import numpy as np
import pytest
from PIL import Image

from atelier.data.release import Release
from atelier.errors import AtelierError, Refused, Unavailable
from pipelines.delivery import smoke
from pipelines.delivery.smoke import ImageMismatch, _refusal, require_similar
from pipelines.evaluate.attestations import JudgedImage
from services.gateway.png import encode_png
from services.gateway.problems import Problem, invalid, problem_of
from services.gateway.usage import QuotaExceeded, Usage
from tests.judged import evaluation, policy

DIGEST = "sha256:" + "d" * 64
GREY = np.full((64, 64, 3), 100, dtype=np.uint8)


def judged(effect: float | None = 0.2) -> JudgedImage:
    return JudgedImage(
        prompt="sks cat",
        seed=1,
        sampling=evaluation(policy()).sampling,
        engine_digest="judge",
        effect=effect,
        image=Image.fromarray(GREY),
    )


@pytest.mark.parametrize(
    ("moved", "engine", "tolerance", "effect", "told"),
    [
        (0, "judge", 4.0, 0.2, "distance 0.00 of 255 levels on the engine of the evaluation"),
        (1, "judge", 4.0, 0.2, None),  # every pixel: rounding moves single ones
        (1, "judge", 8.0, 0.2, "1.00 of 255 levels"),
        (1, "judge", 4.0, None, None),
        (4, "gpu", 4.0, 0.2, "distance 4.00 of 255 levels on another engine than"),
        (5, "gpu", 4.0, 0.2, None),
        (5, "gpu", 6.0, 0.2, "5.00 of 255 levels"),
        (3, "gpu", 4.0, None, "3.00 of 255 levels"),
        (3, "gpu", 4.0, 0.02, None),  # an adapter of small effect: it may be the base's own
    ],
)
def test_how_near_a_picture_has_to_come(
    moved: int, engine: str, tolerance: float, effect: float | None, told: str | None
) -> None:
    png = encode_png(GREY + np.uint8(moved), {"engine_digest": engine})
    if told is not None:
        assert told in require_similar(png, judged(effect), "thor-cat@2", tolerance)
        return
    with pytest.raises(
        ImageMismatch, match="thor-cat@2 does not generate the evaluated image: 'sks cat', seed 1"
    ):
        require_similar(png, judged(effect), "thor-cat@2", tolerance)


def test_kernels_of_another_cpu_are_forgiven_the_engine_that_judged() -> None:
    rounded = GREY + np.random.default_rng(0).choice([0, 1], GREY.shape, p=[0.9, 0.1])
    png = encode_png(rounded.astype(np.uint8), {"engine_digest": "judge"})
    assert "on the engine of the evaluation" in require_similar(png, judged(), "thor-cat@2")


def test_fine_detail_is_forgiven_and_another_picture_is_not() -> None:
    noisy = GREY + np.random.default_rng(0).integers(-16, 17, GREY.shape)
    assert "on another engine" in require_similar(
        encode_png(noisy.astype(np.uint8), {"engine_digest": "gpu"}), judged(), "thor-cat@2"
    )
    other = GREY.copy()
    other[16:48, 16:48] += 60  # brighter in a quarter of the picture
    with pytest.raises(ImageMismatch, match=r"raise the platform's smoke\.tolerance"):
        require_similar(encode_png(other, {"engine_digest": "judge"}), judged(), "thor-cat@2")
    with pytest.raises(ImageMismatch, match="generates 64x32 pixels, but was evaluated at 64x64"):
        require_similar(encode_png(GREY[:32], {"engine_digest": "judge"}), judged(), "thor-cat@2")


def refusal(problem: Problem) -> AtelierError:
    body = bytes(problem.response({}).body).decode()
    return _refusal(problem.status_code, body, "the picture of thor-cat@2")


def test_a_quota_that_is_used_up_is_not_waited_for() -> None:
    ended = refusal(problem_of(QuotaExceeded(1, Usage(quota=5, used=5, reserved=0))))
    assert isinstance(ended, Refused) and "used its quota of 5 images" in str(ended)
    assert "smoke.secret" in str(ended)
    held = refusal(problem_of(QuotaExceeded(1, Usage(quota=5, used=4, reserved=1))))
    assert isinstance(held, Unavailable)  # what is being made may yet fail and come back
    assert isinstance(_refusal(429, "<html>slow down</html>", "it"), Unavailable)


def test_steps_beyond_the_gateway_s_limit_name_both_settings() -> None:
    ended = refusal(invalid([("steps", "60 exceeds the limit of this gateway, 50")]))
    assert isinstance(ended, Refused)
    for part in ("60 exceeds the limit", "gateway.settings.MAX_STEPS", "policy.yaml"):
        assert part in str(ended)
    assert "the gateway returned 422" in str(refusal(invalid([("seed", "is too large")])))


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"adapters": [], "images": []},
        {"adapters": [{"name": "thor-cat"}], "images": [{"png": "AA=="}]},
        {"adapters": [{"digest": DIGEST}], "images": [{}]},
        {"adapters": [{"digest": DIGEST}], "images": [{"png": "not base64!"}]},
        {"adapters": [{"digest": DIGEST}], "images": [{"png": None}]},
        {"adapters": 5, "images": 5},
    ],
)
def test_another_server_s_success_is_refused_in_words(
    answer: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a proxy or of another service must not end the hook with a stack trace."""
    monkeypatch.setattr(smoke, "_post", lambda *_: answer)
    release = Release(adapter="thor-cat", base=DIGEST, version=2, digest=DIGEST)
    with pytest.raises(Refused, match=r"http://here did not return a gateway's response"):
        smoke.gateway_smoke("http://here", "key")(release, release.pin, ())


@pytest.mark.parametrize("metadata", [None, {"seed": 1}])
def test_an_image_that_a_proxy_changed_is_refused_in_words(metadata: dict | None) -> None:
    png = b"GIF89a" if metadata is None else encode_png(GREY, metadata)
    with pytest.raises(Refused, match="is not a PNG with the gateway's metadata"):
        require_similar(png, judged(), "thor-cat@2")
