"""The gateway before the real Triton: what it fills in is what is drawn, charged and written down.

Swaps under traffic are in `test_serving.py`; here it is what a client sees of one adapter.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from atelier.adapter.package import ADAPTER, Package, write_package
from atelier.adapter.safetensors_file import read_tensors
from atelier.data.release import Pin
from services.engine import AdapterUse, Engine, ImageRequest
from services.gateway.keys import KeyStore
from services.gateway.png import read_metadata
from tests.integration.stack import ServedStack
from tests.tiny import tiny_adapter

NAME = "gateway-cat"
TOLERANCE = 2  # of 255: float sums in another order, at most
LONG = "a cat " + " ".join(f"word{number}" for number in range(100)) + " umbrella"


@dataclass(frozen=True)
class Client:
    """A client of the served gateway."""

    http: httpx.Client
    key: str

    def make(self, **body: Any) -> httpx.Response:
        given = {"prompt": "a cat on the beach", "seed": 3, "steps": 2, **body}
        return self.http.post("/generate_image", json=given)

    def images(self) -> int:
        return int(self.http.get("/api_key_usage").json()["images"])


@pytest.fixture(scope="module")
def cat(
    stack: ServedStack, oracle: Engine, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pin:
    """An adapter with trigger, class and styles, released and served."""
    folder = tmp_path_factory.mktemp("gateway-cat")
    plain = Package.open(tiny_adapter(tiny_model, folder / "plain", name=NAME, seed=5, scale=1.0))
    package = write_package(
        folder / "package",
        read_tensors(plain.path / ADAPTER),
        name=NAME,
        base=plain.manifest.base,
        targets=plain.manifest.targets,
        trigger="sks cat",
        noun="cat",
        styles={"portrait": "{prompt}, close-up"},
    )
    pin = stack.register(package.path)
    stack.release(NAME, pin)
    oracle.adapters.add(package, pin.version)
    return pin


@pytest.fixture(scope="module")
def client(stack: ServedStack, cat: Pin) -> Iterator[Client]:
    key, _ = KeyStore(f"sqlite:///{stack.home.root / 'gateway.db'}").create("tests")
    limits = httpx.Limits(max_connections=128)
    headers = {"X-API-Key": key}
    with httpx.Client(
        base_url=stack.addresses["gateway"], headers=headers, timeout=300, limits=limits
    ) as http:
        stack.wait_for(lambda: routed(http) == cat.version, "the gateway to route")
        yield Client(http, key)


def routed(http: httpx.Client) -> int | None:
    """The version that calls go to; an adapter is listed before any of it is ready."""
    listed = http.get("/v1/models").json()["data"]
    return next((one["version"] for one in listed if one["id"] == NAME), None)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def rejections(client: Client) -> float:
    """What the gateway counts as refused by a full queue."""
    lines = client.http.get("/metrics").text.splitlines()
    (line,) = (one for one in lines if one.startswith("atelier_gateway_queue_rejections_total "))
    return float(line.split()[1])


def test_the_filled_in_prompt_is_what_is_drawn(client: Client, oracle: Engine, cat: Pin) -> None:
    before = client.images()
    response = client.make(adapter=NAME, style="portrait", images=2)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["prompt"] == "a sks cat on the beach, close-up"
    assert answer["adapters"] == [
        {"name": NAME, "version": cat.version, "digest": cat.digest, "weight": 1.0}
    ]
    expected = oracle.generate(
        ImageRequest(
            answer["prompt"], seed=3, steps=2, images=2, adapters=(AdapterUse(NAME, cat.version),)
        )
    )
    plain = oracle.generate(ImageRequest("a cat on the beach", seed=3, steps=2))
    for index, image in enumerate(answer["images"]):
        png = base64.b64decode(image["png"])
        assert np.abs(pixels(png) - expected.images[index]).max() <= TOLERANCE
        told = read_metadata(png)
        assert told is not None
        assert (told["prompt"], told["seed"]) == (answer["prompt"], 3 + index)
        assert (told["base"], told["engine_digest"]) == (oracle.base.digest, oracle.digest)
        assert told["adapters"][0]["digest"] == cat.digest
    first = pixels(base64.b64decode(answer["images"][0]["png"]))
    assert np.abs(first - plain.images[0]).mean() > 5  # the adapter is plainly there
    assert client.images() == before + 2


def test_the_same_call_gives_the_same_picture_again(client: Client) -> None:
    one, two = (client.make(adapter=NAME, seed=2**64 - 1).json() for _ in range(2))
    assert one["images"] == two["images"]
    assert one["images"][0]["seed"] == 2**64 - 1


def test_words_beyond_the_77_tokens_are_told(client: Client) -> None:
    answer = client.make(prompt=LONG).json()
    assert len(answer["warnings"]) >= 1
    assert "umbrella" in answer["warnings"][0]


@pytest.mark.parametrize(
    ("body", "status", "kind", "said"),
    [
        ({"scheduler": "magic"}, 422, "invalid-request", "scheduler"),
        ({"width": 100}, 422, "invalid-request", "width"),
        ({"steps": 0}, 422, "invalid-request", "steps"),
        ({"seed": 2**64}, 422, "invalid-request", "seed"),
        ({"adapter": "nobody"}, 404, "unknown-adapter", NAME),
        ({"adapter": f"{NAME}@99"}, 404, "unknown-adapter", "99"),
        ({"adapter": NAME, "style": "oil"}, 422, "unknown-style", "portrait"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name_and_not_charged(
    client: Client, body: dict[str, Any], status: int, kind: str, said: str
) -> None:
    before = client.images()
    response = client.make(**body)
    assert response.status_code == status
    problem = response.json()
    assert problem["type"] == f"urn:atelier:problem:{kind}"
    assert said in problem["detail"]
    assert client.images() == before


def test_a_full_queue_is_a_503_that_says_when_to_come_back(client: Client) -> None:
    """The stack's queue takes 24; what it takes is delivered and charged, the rest is refused."""
    before, rejected = client.images(), rejections(client)
    with ThreadPoolExecutor(64) as threads:
        answers = list(threads.map(lambda seed: client.make(seed=seed, steps=12), range(64)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503}, [a.text for a in answers if a.status_code not in (200, 503)]
    assert statuses[200] >= 24 and statuses[503] >= 1
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["type"] == "urn:atelier:problem:engine-busy"
            assert int(answer.headers["retry-after"]) >= 1
    assert client.images() == before + statuses[200]
    assert rejections(client) == rejected + statuses[503]


def test_a_weight_reaches_the_engine(client: Client, oracle: Engine, cat: Pin) -> None:
    answer = client.make(adapters=[{"name": NAME, "weight": 0.5}]).json()
    use = AdapterUse(NAME, cat.version, 0.5)
    expected = oracle.generate(ImageRequest(answer["prompt"], seed=3, steps=2, adapters=(use,)))
    png = base64.b64decode(answer["images"][0]["png"])
    assert np.abs(pixels(png) - expected.images[0]).max() <= TOLERANCE


def test_a_weight_of_nothing_is_the_base(client: Client, oracle: Engine) -> None:
    response = client.make(adapters=[{"name": NAME, "weight": 0.0}], fill_trigger=False)
    assert response.status_code == 200, response.text
    expected = oracle.generate(ImageRequest("a cat on the beach", seed=3, steps=2))
    png = base64.b64decode(response.json()["images"][0]["png"])
    assert np.abs(pixels(png) - expected.images[0]).max() <= TOLERANCE
