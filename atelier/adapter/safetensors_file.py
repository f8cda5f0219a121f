"""Reading and writing of safetensors files, including untrusted ones.

The header is checked against limits before any tensor is read. The safetensors package is not used,
for two reasons: its writer orders the metadata at random, so equal adapters would have different
digests, and its reader does not recognize other formats, such as a pickle.

A file is mapped into memory. Checking a file takes the memory of one block, and using a file takes
the memory of one tensor, whatever the size of the file. Format:
https://huggingface.co/docs/safetensors.
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

_BLOCK = 2**20  # elements checked at a time
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
_FIX = "only complete safetensors files are accepted; save the file again with safetensors"


@dataclass(frozen=True)
class Limits:
    """The largest accepted sizes of a file, checked before any tensor is read."""

    header_bytes: int = 16 * 2**20
    tensors: int = 65_536
    file_bytes: int = 8 * 2**30


@dataclass(frozen=True)
class TensorEntry:
    """The header's entry of one tensor; offsets are bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header: its entries are adjacent and fill the file exactly."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a mapped file. `numpy.asarray` reads its values as float32."""

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
        """Yield the bytes in blocks of bounded size, each with its values as float32."""
        step = _BLOCK * _WIDTHS[self.dtype]
        for start in range(0, len(self.data), step):
            block = self.data[start : start + step]
            yield block, _floats(block, self.dtype)


Tensor: TypeAlias = Array | StoredTensor


class TensorFile:
    """A safetensors file with a checked header, mapped into memory.

    The map stays valid if another file replaces this one on the disk.
    """

    def __init__(self, path: Path, limits: Limits = Limits()) -> None:
        """Open the file and map it into memory.

        Raises AdapterRejected if it is not a complete safetensors file.
        """
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
        """Check, in one reading, that the file has the digest `digest` and only finite values.

        Takes the memory of one block, because each page is released after it was read. Raises
        AdapterRejected for another digest, and if a value is NaN or infinite.
        """
        sha256, not_finite = hashlib.sha256(self._head), []
        for name, tensor in self.tensors.items():  # the entries are adjacent and fill the file
            finite = True
            for block, values in tensor.blocks():
                sha256.update(block)
                finite = finite and bool(np.isfinite(values).all())
            if not finite:
                not_finite.append(name)
            self._forget_pages()
        actual = f"sha256:{sha256.hexdigest()}"
        if digest not in (None, actual):
            raise AdapterRejected(
                f"{self.path}: has digest {actual}, but the manifest names {digest}: it was "
                "changed or damaged; fetch the package again"
            )
        if not_finite:
            raise AdapterRejected(
                f"{self.path}: NaN or infinite values in {_some(not_finite)}: the training "
                "diverged; lower the learning rate, or train in fp32 or bf16"
            )

    def _forget_pages(self) -> None:
        """Release the pages that were read; the system reads them again on access."""
        if hasattr(mmap, "MADV_DONTNEED"):  # Linux
            self._map.madvise(mmap.MADV_DONTNEED)


def read_header(path: Path, limits: Limits = Limits()) -> Header:
    """Return the header of a safetensors file. Raises AdapterRejected for any other file."""
    try:
        with path.open("rb") as file:
            return _read_header(file, path, limits)
    except OSError as error:
        raise AdapterRejected(f"{path}: cannot be read ({error.strerror})") from error


def read_tensors(path: Path, limits: Limits = Limits()) -> dict[str, Array]:
    """Return every tensor as float32. Raises AdapterRejected if some values are not finite."""
    file = TensorFile(path, limits)
    file.verify()
    return {name: np.array(tensor) for name, tensor in file.tensors.items()}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write float32, float16 or float64 tensors; equal content gives equal bytes.

    Tensors of other files are written as float32, one at a time. Raises ValueError for other
    dtypes.
    """
    dtypes = {name: _dtype(value) for name, value in tensors.items()}
    kinds = {np.dtype(np.float64): "F64", np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}
    wrong = [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in kinds]
    if wrong:
        raise ValueError(
            f"{path}: only floating-point tensors can be written, not {_some(wrong)}; convert them"
        )
    # The widest types first keep every tensor aligned, as in the safetensors package's writer.
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
    """Return the dtype of a tensor's values in memory."""
    return np.dtype(np.float32) if isinstance(tensor, StoredTensor) else tensor.dtype


def _read_header(file: BinaryIO, path: Path, limits: Limits) -> Header:
    size = file.seek(0, 2)
    file.seek(0)
    if size > limits.file_bytes:
        raise AdapterRejected(
            f"{path}: has {size} bytes, more than the limit of {limits.file_bytes}; give a LoRA "
            "file"
        )
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    text = file.read(min(length, limits.header_bytes))
    if not text.startswith(b"{"):
        beginning = start + text[:16]
        kind = next((name for magic, name in _MAGIC if beginning.startswith(magic)), None)
        problem = f"is {kind}" if kind else "does not begin like a safetensors file"
        raise AdapterRejected(f"{path}: {problem}; {_FIX}")
    if length > limits.header_bytes:
        raise AdapterRejected(
            f"{path}: has a header of {length} bytes, more than the limit of "
            f"{limits.header_bytes}; {_FIX}"
        )
    if len(text) < length:
        raise AdapterRejected(f"{path}: ends within its header; fetch or save it again")
    return _check(_parse(text, path), 8 + length, size, path, limits)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        twice = (
            sorted({name for name in names if names.count(name) > 1})
            if (len(set(names)) < len(names))
            else []
        )
        if twice:
            raise AdapterRejected(f"{path}: the header names {_some(twice)} twice; {_FIX}")
        return dict(items)

    try:
        parsed = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise AdapterRejected(f"{path}: the header is not JSON ({error}); {_FIX}") from error
    if not isinstance(parsed, dict):
        raise AdapterRejected(f"{path}: the header is not a JSON object; {_FIX}")
    return parsed


def _check(
    parsed: dict[str, Any], data_start: int, size: int, path: Path, limits: Limits
) -> Header:
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise AdapterRejected(f"{path}: the metadata in the header is not text; {_FIX}")
    if len(parsed) > limits.tensors:
        raise AdapterRejected(
            f"{path}: has {len(parsed)} tensors, more than the limit of {limits.tensors}; give a "
            "LoRA file"
        )
    entries = {name: _entry(name, value, path) for name, value in parsed.items()}
    offset = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != offset:
            raise AdapterRejected(f"{path}: {name} leaves a gap or overlaps another tensor; {_FIX}")
        offset = entry.end
    if data_start + offset != size:
        more = "more" if data_start + offset < size else "fewer"
        raise AdapterRejected(
            f"{path}: has {more} bytes than its header requires "
            f"({size} instead of {data_start + offset}); fetch or save it again"
        )
    return Header(entries, metadata, data_start)


def _entry(name: str, value: Any, path: Path) -> TensorEntry:
    """Parse one entry of the header, and check types and sizes."""
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if dtype not in _WIDTHS:
        raise AdapterRejected(
            f"{path}: {name} has the type {dtype}; convert it to one of {', '.join(_WIDTHS)}"
        )
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
        raise AdapterRejected(f"{path}: {name} has no valid shape and offsets; {_FIX}")
    elements = 1
    for length in shape:
        elements *= length
    if offsets[1] - offsets[0] != elements * _WIDTHS[dtype]:
        raise AdapterRejected(
            f"{path}: the size of {name} does not match its shape {shape}; {_FIX}"
        )
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _floats(data: Bytes, dtype: str) -> Array:
    """Return values as float32, without a copy if possible.

    A bfloat16 is the upper half of a float32.
    """
    if dtype == "BF16":
        halves = np.frombuffer(data, dtype="<u2").astype(np.uint32)
        halves <<= 16
        return halves.view(np.float32)
    with np.errstate(over="ignore"):  # overflow gives infinity, refused later
        values = np.frombuffer(data, dtype=f"<f{_WIDTHS[dtype]}").astype(np.float32, copy=False)
    return np.require(values, requirements="A")  # the header's length may leave the data unaligned


def _some(names: Sequence[str], most: int = 5) -> str:
    """Join the first `most` names, and count the rest."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
