"""The application as a client meets it, in process: answers, charges, and every kind of problem."""

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.contract.problems import CATALOGUE
from atelier.contract.request import AdapterUse
from atelier.data.release import ReleaseFolder
from services.gateway import triton_client
from services.gateway.budget import BYTES_PER_PIXEL, PROCESS_BYTES, PixelBudget
from services.gateway.database import DatabaseAway
from services.gateway.keys import KeyStore, utc_now
from services.gateway.png import read_metadata
from services.gateway.routes.images import warnings_header
from services.gateway.schemas import GeneratedImages
from tests.gateway import BASE, ONE, TWO, Client, manifest_of, serving


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with serving(tmp_path) as client:
        yield client


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One for all calls that are refused: they leave no trace."""
    with serving(tmp_path_factory.mktemp("refusing")) as client:
        yield client
        assert client.engine.calls == []
        assert (client.usage()["images"], client.usage()["in_progress"]) == (0, 0)


def problem(response: Any, slug: str) -> dict[str, Any]:
    """The problem document, checked for what every one has."""
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:atelier:problem:{slug}", body
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == body["status"] == CATALOGUE[slug][0]
    assert body["title"] and body["detail"]
    assert body["instance"] == f"urn:atelier:request:{response.headers['x-request-id']}"
    assert "Traceback" not in response.text and "site-packages" not in response.text
    return body


def test_pictures_with_everything_that_made_them(client: Client) -> None:
    response = client.make(adapter="thor-cat", style="portrait", images=2, steps=3)
    assert response.status_code == 200
    answer = response.json()
    assert answer["prompt"] == "a sks cat on the beach, close-up"
    assert answer["adapters"] == [
        {"name": "thor-cat", "version": 1, "digest": ONE.digest, "weight": 1.0}
    ]
    assert [image["seed"] for image in answer["images"]] == [7, 8]
    assert answer["warnings"] == [] and answer["timings"]["gateway"] > 0
    png = base64.b64decode(answer["images"][1]["png"])
    told = read_metadata(png)
    assert told is not None and (told["seed"], told["base"]) == (8, BASE)
    assert told["prompt"] == answer["prompt"]
    assert np.asarray(Image.open(io.BytesIO(png)))[0, 0].tolist() == [1, 1, 1]
    assert client.usage() | {"images": 2, "in_progress": 0, "remaining": 8} == client.usage()


def test_one_picture_as_png(client: Client) -> None:
    body = {"prompt": "雪", "seed": 7, "adapter": "thor-cat@1"}
    response = client.post(body, Accept="image/png")
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-atelier-seed"] == "7"
    assert json.loads(response.headers["x-atelier-adapters"])[0]["digest"] == ONE.digest
    told = read_metadata(response.content)
    assert told is not None and (told["seed"], told["prompt"]) == (7, "sks cat, 雪")


def test_base_alone_gets_no_trigger(client: Client) -> None:
    answer = client.make().json()
    assert (answer["prompt"], answer["adapters"]) == ("a cat on the beach", [])


def test_a_seed_left_out_is_drawn_and_told(client: Client) -> None:
    seeds = {client.make(seed=None).json()["images"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3 and all(0 <= seed < 2**32 for seed in seeds)


def test_warnings_of_the_engine_reach_the_client(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint = client.engine.paint
    cut = "prompt: 12 words beyond the 77 tokens were left out: on the far side"

    def warn(call: triton_client.ImageCall) -> triton_client.ImageAnswer:
        answer = paint(call)
        info = answer.info.model_copy(update={"warnings": (cut,)})
        return triton_client.ImageAnswer(answer.pixels, info)

    monkeypatch.setattr(client.engine, "paint", warn)
    assert client.make().json()["warnings"] == [cut]
    png = client.post({"prompt": "x"}, Accept="image/png")
    assert json.loads(png.headers["x-atelier-warnings"]) == [cut]


@pytest.mark.parametrize(
    "warnings",
    [
        ["short"],
        ["é雪🦊" * 500],
        [f"prompt: {number} words were left out: {'x' * 290}" for number in range(100)],
        ["x" * 100_000, "y"],
        ['"\\\n' * 2000],
        ["\ud800" * 400],
    ],
)
def test_warnings_in_a_header_are_bounded_and_say_that_they_were_cut(warnings: list[str]) -> None:
    header = warnings_header(warnings)
    assert header.isascii() and header.isprintable() and len(header) <= 2048
    shown = json.loads(header)
    if len(json.dumps(warnings)) <= 2048:
        assert shown == warnings
    else:
        *kept, note = shown
        assert note.startswith(f"truncated: {len(warnings)} warnings exceed the header")
        assert kept and all(one == two for one, two in zip(kept[:-1], warnings, strict=False))
        assert warnings[len(kept) - 1].startswith(kept[-1])
        assert len(header) > 2048 - 12  # as much as there is room for


def test_long_warnings_reach_a_client_of_png(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint = client.engine.paint
    told = tuple(f"prompt: {'雪' * 300} {number}" for number in range(30))

    def warn(call: triton_client.ImageCall) -> triton_client.ImageAnswer:
        answer = paint(call)
        return triton_client.ImageAnswer(
            answer.pixels, answer.info.model_copy(update={"warnings": told})
        )

    monkeypatch.setattr(client.engine, "paint", warn)
    assert client.make().json()["warnings"] == list(told)
    png = client.post({"prompt": "x"}, Accept="image/png")
    assert sum(len(name) + len(value) for name, value in png.headers.raw) < 4096
    assert "accept application/json" in json.loads(png.headers["x-atelier-warnings"])[-1]


@pytest.mark.parametrize("images", [1, 3])
def test_an_answer_of_many_pieces_is_what_its_schema_says(client: Client, images: int) -> None:
    """512² noise is more than one piece, and no multiple of three bytes."""
    noise = np.random.default_rng(1).integers(0, 256, (images, 512, 512, 3), np.uint8)

    def paint(call: triton_client.ImageCall) -> triton_client.ImageAnswer:
        return triton_client.ImageAnswer(noise, painted(call).info)

    painted = client.engine.paint
    client.engine.paint = paint  # type: ignore[method-assign]
    response = client.make(adapter="thor-cat", images=images)
    assert int(response.headers["content-length"]) == len(response.content)
    answer = GeneratedImages.model_validate_json(response.content)
    assert json.loads(answer.model_dump_json()) == response.json()
    for index, one in enumerate(answer.images):
        png = base64.b64decode(one.png, validate=True)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), noise[index])
        assert one.seed == 7 + index
    if images == 1:
        png = client.post({"prompt": "x"}, Accept="image/png")
        assert int(png.headers["content-length"]) == len(png.content)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.content))), noise[0])


def test_every_call_names_its_version(client: Client) -> None:
    client.make(adapters=[{"name": "thor-cat", "weight": 0.4}])
    assert client.engine.calls[-1].adapters == (AdapterUse("thor-cat", 1, 0.4),)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x\0y"}, "prompt"),
        ({"prompt": "é" * 251}, "prompt"),
        ({"prompt": "x", "negative_prompt": "é" * 251}, "negative_prompt"),
        ({"prompt": "x", "steps": 0}, "steps"),
        ({"prompt": "x", "steps": 151}, "steps"),
        ({"prompt": "x", "steps": 2.5}, "steps"),
        ({"prompt": "x", "steps": "3"}, "steps"),
        ({"prompt": "x", "steps": True}, "steps"),
        ({"prompt": "x", "width": 100}, "width"),
        ({"prompt": "x", "height": 8}, "height"),
        ({"prompt": "x", "height": 4096}, "height"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "seed": 2**64}, "seed"),
        ({"prompt": "x", "images": 5}, "images"),  # the operator's limit
        ({"prompt": "x", "images": 9}, "images"),  # the engine's
        ({"prompt": "x", "guidance_scale": 51}, "guidance_scale"),
        ({"prompt": "x", "adapter": "cat@x"}, "adapter"),
        ({"prompt": "x", "adapters": [{"name": "Cat!"}]}, "adapters[0].name"),
        ({"prompt": "x", "adapters": [{"name": "cat", "weight": 99}]}, "adapters[0].weight"),
        ({"prompt": "x", "adapters": [{"name": "a"}] * 2}, ""),
        ({"prompt": "x", "adapter": "a", "adapters": []}, ""),
        ({"prompt": "{trigger}"}, "prompt"),
        ([], ""),
    ],
)
def test_a_bad_field_is_named_and_costs_nothing(refusing: Client, body: Any, field: str) -> None:
    said = problem(refusing.post(body), "invalid-request")
    assert [error["field"] for error in said["errors"]] == [field]


def test_every_bad_field_is_named_at_once_with_a_hint(refusing: Client) -> None:
    said = problem(refusing.post({"promt": "x", "steps": 0}), "invalid-request")
    assert {error["field"] for error in said["errors"]} == {"prompt", "promt", "steps"}
    assert "promt: unknown key; did you mean prompt?" in said["detail"]


@pytest.mark.parametrize("text", ["", "{", '{"prompt": "x"', "nonsense"])
def test_a_body_that_is_no_json(refusing: Client, text: str) -> None:
    headers = {"X-API-Key": refusing.key, "Content-Type": "application/json"}
    response = refusing.http.post("/generate_image", content=text, headers=headers)
    problem(response, "malformed-json" if text else "invalid-request")


@pytest.mark.parametrize("text", ["[" * 2000, '{"prompt": "x", "seed": ' + "1" * 1900 + "}"])
def test_a_body_made_to_hurt_the_parser(refusing: Client, text: str) -> None:
    headers = {"X-API-Key": refusing.key, "Content-Type": "application/json"}
    response = refusing.http.post("/generate_image", content=text, headers=headers)
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_not_a_number_is_no_guidance(refusing: Client) -> None:
    headers = {"X-API-Key": refusing.key, "Content-Type": "application/json"}
    text = '{"prompt": "x", "guidance_scale": NaN}'
    said = problem(
        refusing.http.post("/generate_image", content=text, headers=headers), "invalid-request"
    )
    assert said["errors"][0]["field"] == "guidance_scale"


def test_half_a_character_is_no_prompt(refusing: Client) -> None:
    headers = {"X-API-Key": refusing.key, "Content-Type": "application/json"}
    text = '{"prompt": "\\ud800"}'
    response = refusing.http.post("/generate_image", content=text, headers=headers)
    assert problem(response, "invalid-request")["errors"][0]["field"] == "prompt"


def test_a_form_is_told_to_be_json(refusing: Client) -> None:
    response = refusing.http.post(
        "/generate_image", data={"prompt": "x"}, headers={"X-API-Key": refusing.key}
    )
    problem(response, "unsupported-media-type")


def test_a_body_over_the_limit(refusing: Client) -> None:
    said = problem(refusing.post({"prompt": "x" * 4000}), "body-too-large")
    assert said["limit"] == 2048


def test_an_answer_that_cannot_be_given(refusing: Client) -> None:
    problem(refusing.post({"prompt": "x"}, Accept="text/html"), "not-acceptable")
    said = problem(
        refusing.post({"prompt": "x", "images": 2}, Accept="image/png"), "invalid-request"
    )
    assert said["errors"][0]["field"] == "images"


def test_addresses_and_methods_that_are_not_there(refusing: Client) -> None:
    problem(refusing.http.get("/nothing"), "not-found")
    response = refusing.http.get("/generate_image")
    problem(response, "method-not-allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Basic x"}, {"Authorization": "Bearer"}, {"X-API-Key": ""}]
)
@pytest.mark.parametrize("path", ["/generate_image", "/api_key_usage", "/v1/models"])
def test_no_key(refusing: Client, path: str, headers: dict[str, str]) -> None:
    method = "POST" if path == "/generate_image" else "GET"
    response = refusing.http.request(method, path, json={"prompt": "x"}, headers=headers)
    problem(response, "key-missing")
    assert response.headers["www-authenticate"] == 'Bearer realm="atelier"'


def test_a_wrong_a_revoked_and_an_expired_key(client: Client) -> None:
    def with_key(key: str) -> Any:
        return client.http.get("/api_key_usage", headers={"X-API-Key": key})

    response = with_key("atl_abcdefgh_wrong")
    problem(response, "key-wrong")
    assert 'error="invalid_token"' in response.headers["www-authenticate"]
    store = client.http.app.state.parts.keys  # type: ignore[attr-defined]
    key, record = store.create("short")
    assert with_key(key).status_code == 200
    store.revoke(record.id)
    problem(with_key(key), "key-revoked")
    old = KeyStore(store._database, clock=lambda: utc_now().replace(year=2020))
    expired, _ = old.create("old", expires=utc_now().replace(year=2021))
    problem(with_key(expired), "key-expired")


def test_the_quota_ends(client: Client) -> None:
    for _ in range(5):
        assert client.make(images=2).status_code == 200
    said = problem(client.make(), "quota-exceeded")
    assert (said["quota"], said["images"], said["in_progress"]) == (10, 10, 0)
    assert client.metric("quota_rejections_total") == 1


def test_unknown_adapter_version_and_style(refusing: Client) -> None:
    assert problem(refusing.make(adapter="nobody"), "unknown-adapter")["known"] == ["thor-cat"]
    assert problem(refusing.make(adapter="thor-cat@9"), "unknown-adapter")["known"] == [
        "thor-cat@1"
    ]
    problem(refusing.make(adapter="thor-cat", style="sketch"), "unknown-style")


@pytest.mark.parametrize(
    ("error", "slug", "retry"),
    [
        (
            triton_client.RequestRefused("scheduler: 'x' is not one of euler"),
            "invalid-request",
            None,
        ),
        (triton_client.EngineBusy("32 requests wait", retry_after=2.2), "engine-busy", "3"),
        (triton_client.EngineAway("no answer", retry_after=1.0), "engine-away", "1"),
        (triton_client.TimedOut("too late"), "timed-out", None),
        (triton_client.EngineFailed("secret /path broke"), "engine-failed", None),
        (ZeroDivisionError("secret /path"), "internal-error", None),
        (DatabaseAway("secret", retry_after=1.0), "database-away", "1"),
    ],
)
def test_what_goes_wrong_behind_is_told_and_not_charged(
    client: Client, error: Exception, slug: str, retry: str | None
) -> None:
    client.engine.errors = [error]
    response = client.make(adapter="thor-cat")
    said = problem(response, slug)
    assert "secret" not in response.text
    assert response.headers.get("retry-after") == retry
    if slug == "invalid-request":
        assert said["errors"] == [{"field": "scheduler", "message": "'x' is not one of euler"}]
    assert (client.usage()["images"], client.usage()["in_progress"]) == (0, 0)
    assert client.metric("queue_rejections_total") == (1 if slug == "engine-busy" else 0)
    failed = client.metric("adapter_failures_total", adapter="thor-cat", version="1")
    assert failed == (1 if slug in ("timed-out", "engine-failed") else 0)


def budget_of(client: Client) -> PixelBudget:
    parts = client.http.app.state.parts  # type: ignore[attr-defined]
    found: PixelBudget = parts.generation.budget
    return found


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 200), (triton_client.EngineFailed("broke"), 502), (ZeroDivisionError("a bug"), 500)],
)
def test_a_call_reserves_its_pixels_until_it_is_answered(
    client: Client, error: Exception | None, status: int
) -> None:
    budget = budget_of(client)
    free: list[int] = []
    client.engine.before = lambda: free.append(budget.free)
    client.engine.errors = [error] if error else []
    assert client.make(images=2, width=64, height=32).status_code == status
    assert free == [budget.pixels - 2 * 64 * 32] and budget.free == budget.pixels
    assert client.metric("pixels") == client.metric("calls_waiting") == 0
    client.make()  # the base's own size, taken for SDXL's
    assert free[1:] == [budget.pixels - 1024 * 1024]


def test_calls_beyond_the_memory_wait_and_are_then_told_to_come_back(tmp_path: Path) -> None:
    """There is memory for one call of four pictures."""
    memory = PROCESS_BYTES + BYTES_PER_PIXEL * 4 * 1024 * 1024
    with serving(tmp_path, memory=memory, max_side=64, picture_wait=0.1) as client:
        began, ended = threading.Event(), threading.Event()
        generate = client.engine.generate

        async def hold(call: triton_client.ImageCall, **given: Any) -> triton_client.ImageAnswer:
            began.set()
            while not ended.is_set():
                await asyncio.sleep(0.01)
            return await generate(call, **given)

        client.engine.generate = hold  # type: ignore[method-assign]
        with ThreadPoolExecutor(1) as thread:
            first = thread.submit(client.make, images=4)
            try:
                assert began.wait(20)
                refused = client.make()
                assert "within 0.1 s" in problem(refused, "gateway-busy")["detail"]
                assert refused.headers["retry-after"] == "5"
                assert client.usage()["in_progress"] == 4  # of the one that is under way
                assert client.metric("memory_rejections_total") == 1
            finally:
                ended.set()
            assert first.result().status_code == 200
        assert client.make().status_code == 200
        assert client.usage()["images"] == 5
        assert budget_of(client).free == budget_of(client).pixels


def test_a_picture_of_other_weights_is_not_delivered(client: Client) -> None:
    client.engine._digests = lambda: {("thor-cat", 1): TWO.digest}
    problem(client.make(adapter="thor-cat"), "engine-failed")
    assert client.usage()["images"] == 0


def test_a_version_dropped_between_look_and_call_is_looked_up_once_more(client: Client) -> None:
    """The release moves to version 2 and 1 is pruned just before the engine is asked."""

    def move() -> None:
        client.engine.before = lambda: None
        client.stage.load(TWO, 2)
        client.stage.release(TWO, 2)
        client.stage.drop("thor-cat", 1)
        client.engine.errors = [triton_client.AdapterGone("thor-cat: no version 1")]

    client.engine.before = move
    answer = client.make(adapter="thor-cat").json()
    assert [one["version"] for one in answer["adapters"]] == [2]
    assert [call.adapters[0].version for call in client.engine.calls] == [1, 2]
    assert len({call.seed for call in client.engine.calls}) == 1
    assert client.usage()["images"] == 1


def test_a_version_that_stays_gone_is_a_503_and_a_pinned_one_a_404(client: Client) -> None:
    client.engine.errors = [triton_client.AdapterGone("no version 1")] * 2
    response = client.make(adapter="thor-cat")
    problem(response, "adapter-loading")
    assert response.headers["retry-after"] == "1"
    client.engine.before = lambda: client.stage.drop("thor-cat", 1)
    client.engine.errors = [triton_client.AdapterGone("no version 1")]
    problem(client.make(adapter="thor-cat@1"), "unknown-adapter")
    assert client.usage()["in_progress"] == 0


def test_models_in_openais_shape(client: Client) -> None:
    listed = client.http.get("/v1/models", headers={"X-API-Key": client.key}).json()
    assert listed["object"] == "list"
    base, cat = listed["data"]
    assert (base["id"], base["digest"]) == ("base", BASE)
    assert (cat["id"], cat["version"], cat["digest"]) == ("thor-cat", 1, ONE.digest)
    assert (cat["trigger"], set(cat["styles"])) == ("sks cat", {"portrait", "frozen"})
    assert cat["object"] == "model" and cat["created"] > 0 and cat["ready"]


def test_models_say_what_waits(client: Client) -> None:
    other = manifest_of(3, name="thumbs-up")
    client.stage.release(other, 3)
    client.http.app.state.parts.releases.look()  # type: ignore[attr-defined]
    listed = client.http.get("/v1/models", headers={"X-API-Key": client.key}).json()["data"]
    waiting = next(one for one in listed if one["id"] == "thumbs-up")
    assert not waiting["ready"] and "not loaded yet" in waiting["trouble"]
    ReleaseFolder(client.stage.home.releases).remove("thumbs-up")


def test_health_and_readiness(client: Client) -> None:
    assert client.http.get("/healthz").json()["status"] == "ok"
    assert client.http.get("/readyz").status_code == 200
    client.engine.up = False
    response = client.http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"] == {"engine": False, "database": True}


def test_metrics_count_by_known_labels_only(client: Client) -> None:
    client.make(adapter="thor-cat", images=2)
    client.http.get("/nothing/of/that/kind")
    client.http.request("BREW", "/generate_image")
    assert client.metric("images_total") == 2
    assert client.metric("adapter_images_total", adapter="thor-cat", version="1") == 2
    labels = {"method": "POST", "route": "/generate_image", "status": "200"}
    assert client.metric("requests_total", **labels) == 1
    text = client.http.get("/metrics").text
    assert 'route="unmatched",status="404"' in text and 'method="other"' in text
    assert "of/that/kind" not in text and "BREW" not in text and "beach" not in text


def test_documentation_has_examples_and_every_problem(client: Client) -> None:
    assert client.http.get("/docs").status_code == 200
    schema = client.http.get("/openapi.json").json()
    post = schema["paths"]["/generate_image"]["post"]
    assert set(post["requestBody"]["content"]["application/json"]["examples"]) >= {"base", "two"}
    documents = post["responses"]["401"]["content"]["application/problem+json"]
    assert set(documents["examples"]) == {"key-missing", "key-wrong", "key-expired", "key-revoked"}
    name = documents["schema"]["$ref"].rpartition("/")[2]
    assert {"type", "title", "status"} <= set(schema["components"]["schemas"][name]["properties"])
    for path, operations in schema["paths"].items():
        if path not in ("/healthz", "/readyz"):
            assert all(one["security"] for one in operations.values()), path
