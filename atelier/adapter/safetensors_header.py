"""The header of a safetensors file, checked against limits before any tensor is read.

The safetensors package is not used: its reader does not recognise other formats, such as a pickle.
Format: https://huggingface.co/docs/safetensors.
"""

import json
import math
import stat
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from atelier.errors import AdapterRejected

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of the types that are read
# Types that a base may contain beside them. Older transformers saved `position_ids` as I64.
_OTHER_WIDTHS = {"U64": 8, "I64": 8, "U32": 4, "I32": 4, "U16": 2, "I16": 2, "U8": 1, "I8": 1}
_OTHER_WIDTHS |= {"F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1}
_DIMENSIONS = 16  # of a tensor
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
    """The largest accepted sizes of a file, and its types, checked before any tensor is read."""

    header_bytes: int = 16 * 2**20
    tensors: int = 65_536
    file_bytes: int = 8 * 2**30
    widths: Mapping[str, int] = field(default_factory=lambda: WIDTHS)  # bytes, by type
    wanted: str = "a LoRA file"  # for errors


ADAPTER_LIMITS = Limits()
# For headers alone: the values of these files are read by other programs.
BASE_LIMITS = Limits(
    header_bytes=64 * 2**20,
    file_bytes=64 * 2**30,
    widths=WIDTHS | _OTHER_WIDTHS,
    wanted="a file of a base",
)


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


def read_header(path: Path, limits: Limits = ADAPTER_LIMITS) -> Header:
    """Return the header of a safetensors file. Raises AdapterRejected for any other file."""
    try:
        with open_file(path) as file:
            return read_open_header(file, path, limits)
    except OSError as error:
        raise AdapterRejected(f"{path}: cannot be read ({error.strerror})") from error


def open_file(path: Path) -> BinaryIO:
    """Open a regular file. Raises AdapterRejected for others: opening a named pipe would hang."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise AdapterRejected(f"{path}: is not a regular file; give the path of a file")
    return path.open("rb")


def read_open_header(file: BinaryIO, path: Path, limits: Limits) -> Header:
    size = file.seek(0, 2)
    file.seek(0)
    if size > limits.file_bytes:
        raise AdapterRejected(
            f"{path}: has {size} bytes, more than the limit of {limits.file_bytes}; give "
            f"{limits.wanted}"
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
        if len(found := dict(items)) == len(items):
            return found
        counts = Counter(name for name, _ in items)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise AdapterRejected(f"{path}: the header names {some(twice)} twice; {_FIX}")
        return found

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
            f"{path}: has {len(parsed)} tensors, more than the limit of {limits.tensors}; give "
            f"{limits.wanted}"
        )
    entries = {name: _entry(name, value, path, limits.widths) for name, value in parsed.items()}
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


def _entry(name: str, value: Any, path: Path, widths: Mapping[str, int]) -> TensorEntry:
    """Parse one entry of the header, and check types and sizes."""
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in widths:
        raise AdapterRejected(
            f"{path}: {name} has the type {dtype!s:.40}; convert it to one of {', '.join(widths)}"
        )
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and _possible(shape)):
        raise AdapterRejected(f"{path}: {name} has no valid shape and offsets; {_FIX}")
    elements = math.prod(shape)
    if offsets[1] - offsets[0] != elements * widths[dtype]:
        raise AdapterRejected(
            f"{path}: the size of {name} does not match its shape {shape!s:.80}; {_FIX}"
        )
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _possible(shape: Sequence[int]) -> bool:
    """Return whether numpy can hold the shape: it limits dimensions of empty tensors, too."""
    return len(shape) <= _DIMENSIONS and math.prod(max(1, length) for length in shape) < 2**48


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def some(names: Sequence[str], most: int = 5) -> str:
    """Join the first `most` names, and count the rest."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
