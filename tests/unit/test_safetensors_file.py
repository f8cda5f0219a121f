"""safetensors from strangers: what is whole comes back exactly, all else is refused by name."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from atelier.adapter.safetensors_file import TensorFile, read_tensors, write_tensors
from atelier.adapter.safetensors_header import BASE_LIMITS, Limits, read_header
from atelier.errors import AdapterRejected


def raw(header: Any, data: bytes = b"") -> bytes:
    """A file from a header (JSON or bytes) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def refused(tmp_path: Path, data: bytes, limits: Limits | None = None) -> str:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(data)
    with pytest.raises(AdapterRejected) as caught:
        read_tensors(path, limits or Limits())
    assert str(path) in str(caught.value)
    return str(caught.value)


ARRAYS = st.dictionaries(
    st.text("abc.é0", min_size=1, max_size=8),
    st.tuples(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.lists(st.integers(0, 3), max_size=3),
        st.integers(0, 2**16),
    ).map(lambda one: np.random.default_rng(one[2]).normal(size=one[1]).astype(one[0])),
    max_size=5,
)


@settings(max_examples=50, deadline=None)
@given(ARRAYS, st.dictionaries(st.text("xyz", min_size=1, max_size=4), st.text(max_size=8)))
def test_round_trip_agrees_with_the_formats_own_reader(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("round") / "x.safetensors"
    write_tensors(path, arrays, metadata)
    mine, theirs = read_tensors(path), load_file(path)
    assert set(mine) == set(theirs) == set(arrays)
    for name, value in arrays.items():
        assert np.array_equal(theirs[name], value)
        assert theirs[name].dtype == value.dtype
        assert mine[name].dtype == np.float32
        assert np.array_equal(mine[name], value.astype(np.float32))
    with safe_open(path, "np") as opened:
        assert opened.metadata() == {"format": "pt", **metadata}
    assert read_header(path).metadata == {"format": "pt", **metadata}


def test_what_others_write_is_read(tmp_path: Path) -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_file({"a": value, "b": value.astype(np.float16)}, tmp_path / "x", {"k": "v"})
    read = read_tensors(tmp_path / "x")
    assert np.array_equal(read["a"], value)
    assert np.array_equal(read["b"], value)


def test_bfloat16_is_read(tmp_path: Path) -> None:
    halves = np.array([0x3F80, 0xC000, 0x0000], dtype="<u2").tobytes()  # 1, -2, 0
    (tmp_path / "x").write_bytes(raw({"a": entry("BF16", [3], 0, 6)}, halves))
    assert read_tensors(tmp_path / "x")["a"].tolist() == [1.0, -2.0, 0.0]


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    arrays = {name: np.ones(3, np.float32) for name in "cab"}
    metadata = {name: name for name in "zyx"}
    write_tensors(tmp_path / "a", arrays, metadata)
    write_tensors(tmp_path / "b", dict(reversed(arrays.items())), metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_integers_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a \(int64\)"):
        write_tensors(tmp_path / "x", {"a": np.ones(1, np.int64)})


def test_pickles_and_zips_are_known_by_content(tmp_path: Path) -> None:
    assert "is a pickle" in refused(tmp_path, pickle.dumps({"a": 1}))
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("data.pkl", b"x")
    assert "a zip archive (a PyTorch checkpoint)" in refused(
        tmp_path, (tmp_path / "zip").read_bytes()
    )
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    assert "git lfs pull" in refused(tmp_path, pointer)
    assert "a web page" in refused(tmp_path, b"<!DOCTYPE html><html></html>")


@pytest.mark.parametrize("data", [b"", b"\0", b"\0" * 8, b"\xff" * 64, b"hello, this is no tensor"])
def test_nonsense_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "does not begin like a safetensors file" in refused(tmp_path, data)


def test_cut_off_files_are_refused_wherever_the_cut(tmp_path: Path) -> None:
    write_tensors(tmp_path / "whole", {"a": np.ones((2, 2), np.float32)})
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole)):
        refused(tmp_path, whole[:length])
    assert "more bytes than its header requires" in refused(tmp_path, whole + b"x")
    assert "fewer bytes than its header requires" in refused(tmp_path, whole[:-1])
    assert "ends within its header" in refused(tmp_path, whole[:20])


def test_limits(tmp_path: Path) -> None:
    huge = struct.pack("<Q", 2**40) + b"{" + b" " * 100
    assert "a header of 1099511627776 bytes" in refused(tmp_path, huge)
    many = {str(i): entry("F32", [0], 0, 0) for i in range(9)}
    assert "9 tensors, more than the limit of 8" in refused(tmp_path, raw(many), Limits(tensors=8))
    assert "more than the limit of 10" in refused(tmp_path, b"x" * 11, Limits(file_bytes=10))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"{not json}", "not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]}", "not JSON"),
        (b"{" + b" " * 8 + b"\xff}", "not JSON"),
        ({"a": 1}, "a has the type None"),
        ({"a": entry("I64", [1], 0, 8)}, "a has the type I64; convert it to one of"),
        ({"a": entry("F32", [-1], 0, 4)}, "no valid shape"),
        ({"a": entry("F32", [True], 0, 4)}, "no valid shape"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, "no valid shape"),
        ({"a": entry("F32", [2], 0, 4)}, "size of a does not match its shape"),
        ({"a": entry("F32", [2**40, 3], 0, 4)}, "size of a does not match its shape"),
        ({"a": entry("F32", [2**62, 2**62], 0, 4)}, "no valid shape"),
        ({"a": entry("F32", [0, 2**62, 2**62], 0, 0)}, "no valid shape"),
        ({"a": entry("F32", [1] * 100_000, 0, 4)}, "no valid shape"),
        ({"a": entry("F32", [10**4000], 0, 4)}, "no valid shape"),
        ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, "has the type ['F32']"),
        ({"a": {"dtype": {}, "shape": [1], "data_offsets": [0, 4]}}, "has the type {}"),
        ({"a": entry("F32", [1], 4, 8)}, "leaves a gap or overlaps"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, "leaves a gap or overlaps"),
        ({"__metadata__": {"a": 1}}, "the metadata in the header is not text"),
        ({"__metadata__": []}, "the metadata in the header is not text"),
    ],
)
def test_lying_headers_are_refused(tmp_path: Path, header: Any, text: str) -> None:
    assert text in refused(tmp_path, raw(header, b"\0" * 8))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    twice = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    twice += b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    assert "names a twice" in refused(tmp_path, raw(twice, b"\0" * 4))


def test_many_names_given_twice_are_found_without_comparing_all_pairs(tmp_path: Path) -> None:
    """Quadratic time would be minutes for these."""
    one = '"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    names = [one.format(number) for number in range(60_000)]
    twice = "{" + ",".join([*names, *names]) + "}"
    assert "names 0, 1, 10" in refused(tmp_path, raw(twice.encode(), b""))


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_header, TensorFile):
        with pytest.raises(AdapterRejected, match="pipe: is not a regular file"):
            read(tmp_path / "pipe")


def test_the_files_of_a_base_may_have_integers(tmp_path: Path) -> None:
    """Older transformers saved `position_ids`."""
    data = raw({"a.position_ids": entry("I64", [1, 77], 0, 616)}, b"\0" * 616)
    (tmp_path / "model.safetensors").write_bytes(data)
    header = read_header(tmp_path / "model.safetensors", BASE_LIMITS)
    assert header.tensors["a.position_ids"].shape == (1, 77)
    with pytest.raises(AdapterRejected, match="type I64"):
        read_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_values_must_be_finite(tmp_path: Path, value: float, dtype: type) -> None:
    arrays = {"good": np.ones(3, dtype), "bad": np.array([1, value, 1], dtype)}
    write_tensors(tmp_path / "x", arrays)
    text = refused(tmp_path, (tmp_path / "x").read_bytes())
    assert "infinite values in bad" in text
    assert "learning rate" in text


def test_a_float64_too_large_for_float32_is_not_finite(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"bad": np.array([1e300])})
    assert "bad" in refused(tmp_path, (tmp_path / "x").read_bytes())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterRejected, match=r"none: cannot be read \(No such file"):
        read_header(tmp_path / "none")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 200), st.integers(0, 255))
def test_any_changed_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    """Never another exception than AdapterRejected, whatever the byte."""
    path = tmp_path_factory.mktemp("bytes") / "x"
    write_tensors(path, {"unet.a": np.ones((2, 2), np.float32), "b": np.ones(1, np.float16)})
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(bytes(data))
    try:
        read_tensors(path)
    except AdapterRejected as error:
        assert str(path) in str(error)
