"""safetensors, read as what a stranger sent: by content, with limits, before anything is trusted.

Read and written here rather than by the safetensors package for two reasons: its writer orders the
metadata at random, so equal adapters would have different digests, and its reader says only that a
header is wrong, not that the file is a pickle.

A file is mapped into memory, not read into it: whatever its size, checking it takes the memory of a
block, and using it that of one tensor.
"""

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from atelier.errors import AdapterRejected
from atelier.files import writing

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]

_BLOCK = 2**20  # elements that are checked at a time
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint)"),
    (b"\x80", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
    (b"<", "a web page"),
)
_FIX = "only whole safetensors files are accepted; save it again with safetensors"


@dataclass(frozen=True)
class Limits:
    """What an adapter file may cost before a tensor of it is read."""

    header_bytes: int = 16 * 2**20
    tensors: int = 65_536
    file_bytes: int = 8 * 2**30


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as the header describes it; offsets in bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header: its entries lie side by side and fill the file exactly."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a mapped file. Its values are read, as float32, by `numpy.asarray`."""

    dtype: str  # in the file
    shape: tuple[int, ...]
    data: Bytes  # of the map

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        values = _floats(self.data, self.dtype).reshape(self.shape)
        return values.astype(dtype or np.float32, copy=bool(copy))

    def blocks(self) -> Iterator[tuple[Bytes, Array]]:
        """The bytes in pieces of a bounded size, each with its values in float32."""
        step = _BLOCK * _WIDTHS[self.dtype]
        for start in range(0, len(self.data), step):
            block = self.data[start : start + step]
            yield block, _floats(block, self.dtype)


Tensor: TypeAlias = Array | StoredTensor


class TensorFile:
    """A safetensors file whose header has been checked, mapped into memory.

    It stays what it was when another file takes its place: the map is of the opened one.
    """

    def __init__(self, path: Path, limits: Limits = Limits()) -> None:
        """Raises AdapterRejected where the file is anything but whole safetensors."""
        self.path = path
        try:
            with path.open("rb") as file:
                header = _read_header(file, path, limits)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise AdapterRejected(f"{path}: cannot be read ({error.strerror})") from error
        self.metadata = header.metadata
        whole: Bytes = np.frombuffer(mapped, dtype=np.uint8)
        self._map, self._head = mapped, whole[: header.data_start]
        data = whole[header.data_start :]
        self.tensors: Mapping[str, StoredTensor] = {
            name: StoredTensor(entry.dtype, entry.shape, data[entry.start : entry.end])
            for name, entry in sorted(header.tensors.items(), key=lambda item: item[1].start)
        }

    def verify(self, digest: str | None = None) -> None:
        """Read the file once; AdapterRejected where it is not the one of `digest`, or not finite.

        Takes the memory of a block of a tensor, and keeps no page of the file.
        """
        sha256, not_finite = hashlib.sha256(self._head), []
        for name, tensor in self.tensors.items():  # side by side, and all that is in the file
            finite = True
            for block, values in tensor.blocks():
                sha256.update(block)
                finite = finite and bool(np.isfinite(values).all())
            if not finite:
                not_finite.append(name)
            self._forget_pages()
        found = f"sha256:{sha256.hexdigest()}"
        if digest not in (None, found):
            raise AdapterRejected(
                f"{self.path}: has digest {found} where its manifest says {digest}; it was changed "
                "or damaged: fetch the package again"
            )
        if not_finite:
            raise AdapterRejected(
                f"{self.path}: NaN or infinite values in {_some(not_finite)}; "
                "the training diverged: lower the learning rate, or train in fp32 or bf16"
            )

    def _forget_pages(self) -> None:
        """Let go of pages that were read; they are read again when they are needed."""
        if hasattr(mmap, "MADV_DONTNEED"):  # Linux
            self._map.madvise(mmap.MADV_DONTNEED)


def read_header(path: Path, limits: Limits = Limits()) -> Header:
    """The header of a safetensors file; AdapterRejected where the file is anything else."""
    try:
        with path.open("rb") as file:
            return _read_header(file, path, limits)
    except OSError as error:
        raise AdapterRejected(f"{path}: cannot be read ({error.strerror})") from error


def read_tensors(path: Path, limits: Limits = Limits()) -> dict[str, Array]:
    """Every tensor as float32, finite; AdapterRejected names those that are not."""
    file = TensorFile(path, limits)
    file.verify()
    return {name: np.array(tensor) for name, tensor in file.tensors.items()}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write float32, float16 or float64 tensors; equal content gives equal bytes.

    Stored ones are written as float32, one after the other.
    """
    dtypes = {name: _dtype(value) for name, value in tensors.items()}
    kinds = {np.dtype(np.float64): "F64", np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}
    wrong = [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in kinds]
    if wrong:
        raise ValueError(f"{path}: only floating point tensors can be written, not {_some(wrong)}")
    # Widest types first keeps every tensor aligned, as the format's own writer does.
    names = sorted(tensors, key=lambda name: (-dtypes[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name in names:
        end = offset + tensors[name].size * dtypes[name].itemsize
        header[name] = {
            "dtype": kinds[dtypes[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with writing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(np.asarray(tensors[name]).tobytes())


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    """The dtype that a tensor's values have in memory."""
    return np.dtype(np.float32) if isinstance(tensor, StoredTensor) else tensor.dtype


def _read_header(file: BinaryIO, path: Path, limits: Limits) -> Header:
    size = file.seek(0, 2)
    file.seek(0)
    if size > limits.file_bytes:
        raise AdapterRejected(f"{path}: {size} bytes, more than the limit of {limits.file_bytes}")
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    text = file.read(min(length, limits.header_bytes))
    if not text.startswith(b"{"):
        seen = start + text[:16]
        kind = next((name for magic, name in _MAGIC if seen.startswith(magic)), None)
        what = f"is {kind}" if kind else "does not begin as a safetensors file does"
        raise AdapterRejected(f"{path}: {what}; {_FIX}")
    if length > limits.header_bytes:
        raise AdapterRejected(
            f"{path}: a header of {length} bytes, more than the limit of {limits.header_bytes}"
        )
    if len(text) < length:
        raise AdapterRejected(f"{path}: cut off within its header; fetch or save it again")
    return _check(_parse(text, path), 8 + length, size, path, limits)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        twice = (
            sorted({name for name in names if names.count(name) > 1})
            if (len(set(names)) < len(names))
            else []
        )
        if twice:
            raise AdapterRejected(f"{path}: its header names {_some(twice)} twice; {_FIX}")
        return dict(found)

    try:
        parsed = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise AdapterRejected(f"{path}: its header is not JSON ({error}); {_FIX}") from error
    if not isinstance(parsed, dict):
        raise AdapterRejected(f"{path}: its header is not a JSON object; {_FIX}")
    return parsed


def _check(
    parsed: dict[str, Any], data_start: int, size: int, path: Path, limits: Limits
) -> Header:
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise AdapterRejected(f"{path}: its header's metadata is not text; {_FIX}")
    if len(parsed) > limits.tensors:
        raise AdapterRejected(
            f"{path}: {len(parsed)} tensors, more than the limit of {limits.tensors}"
        )
    entries = {name: _entry(name, value, path) for name, value in parsed.items()}
    offset = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != offset:
            raise AdapterRejected(f"{path}: {name} leaves a gap or overlaps another; {_FIX}")
        offset = entry.end
    if data_start + offset != size:
        more = "more" if data_start + offset < size else "fewer"
        raise AdapterRejected(
            f"{path}: {more} bytes than its header says "
            f"({size} instead of {data_start + offset}); fetch or save it again"
        )
    return Header(entries, metadata, data_start)


def _entry(name: str, value: Any, path: Path) -> TensorEntry:
    """One entry of the header, with types and sizes checked."""
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if dtype not in _WIDTHS:
        raise AdapterRejected(
            f"{path}: {name} is {dtype}; adapters hold {', '.join(_WIDTHS)} and nothing else"
        )
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
        raise AdapterRejected(f"{path}: {name} has no valid shape and offsets; {_FIX}")
    elements = 1
    for length in shape:
        elements *= length
    if offsets[1] - offsets[0] != elements * _WIDTHS[dtype]:
        raise AdapterRejected(f"{path}: {name} has another size than its shape {shape}; {_FIX}")
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def _floats(data: Bytes, dtype: str) -> Array:
    """Bytes as float32, those that are float32 as they lie; bfloat16 is its upper half."""
    if dtype == "BF16":
        halves = np.frombuffer(data, dtype="<u2").astype(np.uint32)
        halves <<= 16
        return halves.view(np.float32)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite: refused later
        values = np.frombuffer(data, dtype=f"<f{_WIDTHS[dtype]}").astype(np.float32, copy=False)
    return np.require(values, requirements="A")  # a header may leave the data at an odd place


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
