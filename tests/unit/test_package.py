"""A package is accepted whole, byte for byte what its digest says, or refused with the reason."""

import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.adapter.low_rank import METADATA_KEY, pair_up
from atelier.adapter.package import ADAPTER, EMBEDDINGS, MANIFEST, Package, write_package
from atelier.adapter.safetensors_file import TensorFile, read_tensors, write_tensors
from atelier.adapter.safetensors_header import read_header
from atelier.adapter.single_file import read_single, tensors_of, write_kohya
from atelier.data.manifest import BaseRef, Manifest
from atelier.errors import AdapterRejected
from atelier.files import digest_folder, sha256_bytes, sha256_file

BASE = BaseRef(id="models/miniature", digest="sha256:" + "0" * 64)
Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
V = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_v"
TE = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
TE2 = "text_encoder_2.text_model.encoder.layers.1.self_attn.v_proj"


def factors(ranks: dict[str, int], seed: int = 0, width: int = 6) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    tensors = {}
    for module, rank in ranks.items():
        tensors[f"{module}.lora_A.weight"] = draw.normal(size=(rank, width)).astype(np.float32)
        tensors[f"{module}.lora_B.weight"] = draw.normal(size=(width, rank)).astype(np.float32)
    return tensors


def write(folder: Path, **changes: Any) -> Package:
    fields: dict[str, Any] = {"tensors": factors({Q: 4, V: 4}), "name": "cat", "base": BASE}
    fields |= {"alpha": 8, "targets": ("attn",), "trigger": "sks cat", "styles": {"a": "{prompt}"}}
    fields |= {"recipe": "sha256:" + "1" * 64, "dataset": "sha256:" + "2" * 64} | changes
    return write_package(folder, fields.pop("tensors"), **fields)


def reseal(folder: Path, **changes: Any) -> None:
    """Write the manifest anew, as somebody who wants a changed package accepted would."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    digests = {name: sha256_file(folder / name) for name in manifest.files}
    sealed = manifest.model_copy(update={"files": digests, **changes})
    (folder / MANIFEST).write_bytes(sealed.canonical())


def refused(folder: Path, **arguments: Any) -> str:
    with pytest.raises(AdapterRejected) as caught:
        Package.open(folder, **arguments)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def allocated(work: Callable[[], object]) -> int:
    """The most memory that Python and numpy held at once during `work`, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def many(dtype: type, pairs: int = 24, width: int = 8192, rank: int = 16) -> dict[str, Any]:
    """Factors of `pairs` projections, each of the same size."""
    draw = np.random.default_rng(0)
    tensors = {}
    for number in range(pairs):
        module = f"unet.mid_block.attentions.{number}.proj_in"
        for part, shape in (("lora_A", (rank, width)), ("lora_B", (width, rank))):
            tensors[f"{module}.{part}.weight"] = draw.normal(size=shape).astype(dtype)
    return tensors


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_opening_takes_the_memory_of_a_tensor_whatever_the_file_has(
    tmp_path: Path, dtype: type
) -> None:
    tensors = many(dtype)
    one = max(value.size for value in tensors.values()) * 4
    package = write(tmp_path / "p", tensors=tensors)
    size = (package.path / ADAPTER).stat().st_size
    assert size > 20 * one * np.dtype(dtype).itemsize / 4
    assert allocated(lambda: Package.open(package.path)) < 3 * one
    # and a pair at a time to those that use it
    lora = package.lora()
    assert allocated(lambda: [float(pair.B[0] @ pair.A[:, 0]) for pair in lora.values()]) < 3 * one
    assert allocated(lambda: write(tmp_path / "copy", tensors=tensors_of(lora), alpha=None)) < (
        4 * one
    )


def test_one_huge_tensor_is_checked_block_by_block(tmp_path: Path) -> None:
    tensors = many(np.float32, pairs=1, width=2**17, rank=64)  # two of 32 MiB
    package = write(tmp_path / "p", tensors=tensors)
    assert allocated(lambda: Package.open(package.path)) < 2**23


def test_a_package_is_what_was_verified_even_when_its_folder_goes(tmp_path: Path) -> None:
    package = write(tmp_path / "p")
    expected = {module: one.A.copy() for module, one in package.lora().items()}
    write(tmp_path / "p", tensors=factors({Q: 4, V: 4}, seed=1))
    assert all(np.array_equal(one.A, expected[module]) for module, one in package.lora().items())


def test_a_package_is_read_once_to_be_written_and_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    verify = TensorFile.verify

    def counting(self: TensorFile, digest: str | None = None) -> None:
        read.append(self.path)
        verify(self, digest)

    monkeypatch.setattr(TensorFile, "verify", counting)
    made = write(tmp_path / "p")
    moved = made.publish(tmp_path / "q")
    assert (moved.path, moved.digest, list(moved.lora())) == (tmp_path / "q", made.digest, [Q, V])
    assert len(read) == 1


def test_what_is_written_is_opened(tmp_path: Path) -> None:
    tensors = factors({Q: 4, V: 2, TE: 3, TE2: 1})
    written = write(tmp_path / "p", tensors=tensors)
    opened = Package.open(tmp_path / "p", digest=written.digest)
    assert opened == written
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["p"]
    lora = opened.lora()
    assert list(lora) == sorted([Q, V, TE, TE2])
    for module, one in lora.items():
        assert np.array_equal(one.A, tensors[f"{module}.lora_A.weight"])
        assert np.array_equal(one.B, tensors[f"{module}.lora_B.weight"])
        assert (one.alpha, one.scale) == (8.0, 8.0 / one.rank)
    manifest = opened.manifest
    assert (manifest.rank, manifest.alpha, manifest.trigger) == (4, 8.0, "sks cat")
    assert manifest.files == {ADAPTER: sha256_file(tmp_path / "p" / ADAPTER)}


def test_the_digest_is_that_of_the_manifest_file(tmp_path: Path) -> None:
    package = write(tmp_path / "p")
    assert package.digest == sha256_file(tmp_path / "p" / MANIFEST)


def of_version_1(folder: Path, **changes: Any) -> bytes:
    """A package as it was written before manifests had a class; the bytes of its manifest."""
    write(folder)
    value = json.loads((folder / MANIFEST).read_text())
    del value["class"], value["held_back"]
    value |= {"schema_version": 1, "class_prompt": "a photo of a cat"} | changes
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text)
    return text.encode()


def test_packages_of_version_1_keep_their_digest(tmp_path: Path) -> None:
    before = of_version_1(tmp_path / "p")
    package = Package.open(tmp_path / "p", digest=sha256_bytes(before))
    assert package.manifest.canonical() == before
    assert (package.manifest.class_, package.manifest.held_back) == (None, ())


@pytest.mark.parametrize(
    ("trigger", "prompt", "noun"),
    [
        ("sks cat", "a photo of a cat", "cat"),
        ("sks garden gnome", "a photo of a garden gnome", "garden gnome"),
        ("sks cat", "a photo of a boat", ""),
        ("sks", "a photo of a cat", ""),
        ("sks cat", None, ""),
    ],
)
def test_the_class_of_version_1_is_in_trigger_and_prior(
    tmp_path: Path, trigger: str, prompt: str | None, noun: str
) -> None:
    of_version_1(tmp_path / "p", trigger=trigger, class_prompt=prompt)
    assert Package.open(tmp_path / "p").manifest.noun == noun


def test_the_class_is_in_the_manifest(tmp_path: Path) -> None:
    package = write(tmp_path / "p", noun="cat", held_back=["sha256:" + "3" * 64])
    value = json.loads((tmp_path / "p" / MANIFEST).read_text())
    assert (value["class"], value["held_back"]) == ("cat", ["sha256:" + "3" * 64])
    assert value["schema_version"] == 2 and "class_prompt" not in value
    assert package.manifest.noun == "cat"
    assert write(tmp_path / "q").manifest.noun == ""
    with pytest.raises(AdapterRejected, match="must end with the class 'dog'"):
        write(tmp_path / "r", noun="dog")


def test_equal_adapters_have_equal_digests(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert first.digest == second.digest
    assert digest_folder(first.path) == digest_folder(second.path)
    for number, changes in enumerate(
        ({"alpha": 4}, {"trigger": "other"}, {"tensors": factors({Q: 4, V: 4}, seed=1)})
    ):
        assert write(tmp_path / str(number), **changes).digest != first.digest


def test_a_package_in_place_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "p", trigger="old")
    new = write(tmp_path / "p", trigger="new")
    assert Package.open(tmp_path / "p") == new
    assert [entry.name for entry in tmp_path.iterdir()] == ["p"]


def test_nothing_is_left_of_a_package_that_cannot_be_written(tmp_path: Path) -> None:
    tensors = factors({Q: 4})
    tensors[f"{Q}.lora_A.weight"][0, 0] = np.nan
    with pytest.raises(AdapterRejected, match="NaN"):
        write(tmp_path / "p", tensors=tensors)
    with pytest.raises(AdapterRejected, match="not an adapter name"):
        write(tmp_path / "p", name="Not A Name")
    assert list(tmp_path.iterdir()) == []


def test_the_header_tells_diffusers_every_scale(tmp_path: Path) -> None:
    tensors = factors({Q: 4, V: 2, TE: 3})
    tensors[f"{V}.alpha"] = np.array(6.0, np.float32)
    package = write(tmp_path / "p", tensors=tensors, alpha=None)
    config = json.loads(read_header(package.path / ADAPTER).metadata[METADATA_KEY])
    inner = Q.removeprefix("unet."), V.removeprefix("unet.")
    assert (config["unet.r"], config["unet.lora_alpha"]) == (4, 4.0)
    assert config["unet.target_modules"] == list(inner)
    assert config["unet.rank_pattern"] == {inner[1]: 2}
    assert config["unet.alpha_pattern"] == {inner[1]: 6.0}
    # without `text_model.`, so that PEFT finds it in either generation of transformers
    assert config["text_encoder.target_modules"] == ["encoder.layers.0.self_attn.q_proj"]
    assert not any(name.endswith(".alpha") for name in read_header(package.path / ADAPTER).tensors)
    assert {module: one.scale for module, one in package.lora().items()} == {Q: 1, V: 3, TE: 1}


RANKS = st.dictionaries(st.sampled_from([Q, V, TE, TE2]), st.integers(1, 5), min_size=1)
ALPHAS = st.floats(0.25, 64, width=32)


@settings(max_examples=25, deadline=None)
@given(RANKS, st.data(), st.booleans())
def test_any_ranks_and_alphas_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ranks: dict[str, int], data: Any, halves: bool
) -> None:
    """Through a package, and from there through a kohya file and back into an equal package."""
    folder = tmp_path_factory.mktemp("any")
    tensors = factors(ranks)
    if halves:
        tensors = {name: value.astype(np.float16) for name, value in tensors.items()}
    alphas = {module: data.draw(ALPHAS) for module in ranks}
    tensors |= {f"{module}.alpha": np.array(value) for module, value in alphas.items()}
    package = write(folder / "p", tensors=tensors, alpha=None)
    lora = package.lora()
    assert {module: one.alpha for module, one in lora.items()} == alphas
    for module, one in lora.items():
        assert np.array_equal(one.A, tensors[f"{module}.lora_A.weight"].astype(np.float32))

    write_kohya(folder / "kohya.safetensors", lora, package.manifest)
    back = read_single(folder / "kohya.safetensors", [Q, V, TE, TE2])
    again = write(folder / "again", tensors=tensors_of(back), alpha=None)
    assert again.digest == write(folder / "first", tensors=tensors_of(lora), alpha=None).digest


def test_kohya_files_say_what_they_are_for(tmp_path: Path) -> None:
    package = write(tmp_path / "p")
    write_kohya(tmp_path / "k.safetensors", package.lora(), package.manifest)
    header = read_header(tmp_path / "k.safetensors")
    assert header.metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert (header.metadata["ss_network_dim"], header.metadata["ss_network_alpha"]) == ("4", "8")
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    assert float(read_tensors(tmp_path / "k.safetensors")[f"{name}.alpha"]) == 8.0


def test_embeddings_travel_with_their_kind(tmp_path: Path) -> None:
    rows = {"clip_l": np.ones((2, 4), np.float32), "clip_g": np.ones((2, 6), np.float32)}
    both = write(tmp_path / "both", kind="pivotal", embeddings=rows)
    assert set(both.manifest.files) == {ADAPTER, EMBEDDINGS}
    assert both.embeddings()["clip_g"].shape == (2, 6)
    alone = write(tmp_path / "alone", kind="textual_inversion", tensors={}, embeddings=rows)
    assert (alone.lora(), alone.manifest.rank) == ({}, 0)
    with pytest.raises(AdapterRejected, match=r"a package of kind lora has adapter\.safetensors"):
        write(tmp_path / "x", embeddings=rows)
    uneven = {**rows, "clip_g": np.ones((3, 6), np.float32)}
    with pytest.raises(AdapterRejected, match="the same number of rows"):
        write(tmp_path / "x", kind="pivotal", embeddings=uneven)


def _pickle(folder: Path) -> None:
    (folder / ADAPTER).write_bytes(pickle.dumps({"weights": [1.0]}))
    reseal(folder)


def _cut(folder: Path) -> None:
    (folder / ADAPTER).write_bytes((folder / ADAPTER).read_bytes()[:-3])
    reseal(folder)


def _flip(folder: Path) -> None:
    data = bytearray((folder / ADAPTER).read_bytes())
    data[-1] ^= 1
    (folder / ADAPTER).write_bytes(bytes(data))


def _nan(folder: Path) -> None:
    tensors = read_tensors(folder / ADAPTER)
    tensors[f"{Q}.lora_B.weight"][1, 1] = np.inf
    write_tensors(folder / ADAPTER, tensors, read_header(folder / ADAPTER).metadata)
    reseal(folder)


def _link(folder: Path) -> None:
    (folder / ADAPTER).rename(folder.parent / "elsewhere")
    (folder / ADAPTER).symlink_to(folder.parent / "elsewhere")


def _link_manifest(folder: Path) -> None:
    (folder / MANIFEST).rename(folder.parent / "elsewhere")
    (folder / MANIFEST).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_pickle, "is a pickle; only complete safetensors files are accepted"),
        (_cut, "fewer bytes than its header requires"),
        (_flip, "it was changed or damaged; fetch the package again"),
        (_nan, f"infinite values in {Q}.lora_B.weight"),
        (_link, "missing, or not a plain file"),
        (_link_manifest, "manifest.json: is a link"),
        (lambda f: (f / ADAPTER).unlink(), "missing, or not a plain file"),
        (lambda f: (f / "run.py").write_text("x"), "contains run.py, which manifest.json does not"),
        (lambda f: (f / ".hidden").write_text("x"), "contains .hidden"),
        (lambda f: (f / MANIFEST).unlink(), "manifest.json cannot be read"),
        (lambda f: (f / MANIFEST).write_text("{"), "Invalid JSON"),
        (lambda f: (f / MANIFEST).write_text('{"name": "x"}'), "base: missing"),
        (lambda f: (f / MANIFEST).write_bytes(b" " * 2**21), "larger than 1048576 bytes"),
        (
            lambda f: (f / MANIFEST).write_text((f / MANIFEST).read_text() + " "),
            "was changed after it was written",
        ),
        (lambda f: of_version_1(f, schema_version=2), "class_prompt does not exist in schema ver"),
        (lambda f: of_version_1(f, **{"class": "cat"}), "class does not exist in schema version 1"),
        (lambda f: reseal(f, rank=8), "gives rank 8 and alpha 8, but the tensors have 4 and 8"),
        (lambda f: reseal(f, alpha=2.0), "gives rank 4 and alpha 2"),
        (lambda f: reseal(f, kind="pivotal"), "a package of kind pivotal has adapter.safetensors"),
        (lambda f: reseal(f, files={"../x": "sha256:" + "0" * 64}), "files"),
    ],
)
def test_damage_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    write(tmp_path / "p")
    damage(tmp_path / "p")
    assert told in refused(tmp_path / "p")


def test_another_package_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    package = write(tmp_path / "p")
    pinned = "sha256:" + "9" * 64
    assert f"contains package {package.digest} instead of {pinned}" in refused(
        tmp_path / "p", digest=pinned
    )
    assert "no such folder" in refused(tmp_path / "none")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([MANIFEST, ADAPTER]), st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_goes_unseen(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("byte") / "p"
    package = write(folder)
    data = bytearray((folder / name).read_bytes())
    data[place % len(data)] ^= change
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(AdapterRejected):
        Package.open(folder, digest=package.digest)


def pairs(tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> Any:
    return pair_up(tensors, metadata or {}, place="file")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({f"{Q}.lora_magnitude_vector": np.ones(6)}, r"1 keys cannot be served \(DoRA\): unet.mid"),
        ({"lora_unet_x.hada_w1_a": np.ones((2, 2))}, r"\(LoHa\): lora_unet_x"),
        ({"strange": np.ones(1)}, "1 keys cannot be served: strange"),
        ({f"{Q}.lora_B.weight": None}, rf"{Q} \(only lora_A.weight\)"),
        ({f"{Q}.lora_B.weight": np.ones((6, 3))}, "do not multiply"),
        ({f"{Q}.lora_A.weight": np.ones((4, 6, 1, 1))}, "convolution LoRA, 4 dimensions"),
        ({f"{Q}.lora_A.weight": np.ones((0, 6)), f"{Q}.lora_B.weight": np.ones((6, 0))}, "do not"),
        ({f"{Q}.lora.down.weight": np.ones((4, 6))}, "under another name: unet.mid_block"),
        ({f"{Q}.alpha": np.ones(2)}, "alpha has 2 values"),
    ],
)
def test_what_cannot_be_served_is_named(change: dict[str, Any], told: str) -> None:
    tensors = factors({Q: 4}) | change
    with pytest.raises(AdapterRejected, match=told):
        pairs({name: value for name, value in tensors.items() if value is not None})


def header(**fields: Any) -> dict[str, str]:
    return {METADATA_KEY: json.dumps({f"unet.{name}": value for name, value in fields.items()})}


def test_scales_of_files_from_elsewhere() -> None:
    tensors = factors({Q: 4})
    inner = Q.removeprefix("unet.")
    assert pairs(tensors)[Q].scale == 1.0
    assert pairs(tensors, header(r=4, lora_alpha=8))[Q].scale == 2.0
    pattern = header(r=4, lora_alpha=8, alpha_pattern={inner: 2})
    assert pairs(tensors, pattern)[Q].scale == 0.5
    ending = header(r=4, lora_alpha=8, alpha_pattern={"^.*attn1.to_q": 2, "attn1.to_q": 12})
    assert pairs(tensors, ending)[Q].scale == 3.0
    assert pairs(tensors, header(r=4, lora_alpha=8, use_rslora=True))[Q].scale == 4.0
    assert pairs(tensors | {f"{Q}.alpha": np.array([2.0])})[Q].scale == 0.5


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        (header(use_dora=True), "unet uses DoRA"),
        (header(lora_bias=True), "LoRA with biases"),
        (header(lora_alpha="8"), "alpha '8' of unet"),
        (header(lora_alpha=True), "alpha True of unet"),
        (header(lora_alpha=10**400), "alpha 1000"),
        (header(lora_alpha=float("inf")), "alpha inf of unet"),
        ({METADATA_KEY: "[" * 100_000}, "is not JSON"),
        ({METADATA_KEY: "{"}, "is not JSON"),
        ({METADATA_KEY: "[]"}, "is not a JSON object"),
    ],
)
def test_headers_that_change_the_meaning_are_refused(metadata: dict[str, str], told: str) -> None:
    with pytest.raises(AdapterRejected, match=told):
        pairs(factors({Q: 4}), metadata)


def test_two_alphas_must_agree() -> None:
    tensors = factors({Q: 4}) | {f"{Q}.alpha": np.array(2.0)}
    assert pairs(tensors, header(lora_alpha=2))[Q].alpha == 2.0
    with pytest.raises(AdapterRejected, match="alpha 2 in its key, but 4 in the header"):
        pairs(tensors, header(lora_alpha=4))
