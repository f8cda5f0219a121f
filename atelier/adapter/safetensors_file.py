"""Reading and writing of safetensors files, including untrusted ones.

The header is checked against limits before any tensor is read (`safetensors_header.py`). The
safetensors package is not used: its writer orders the metadata at random, so equal adapters would
have different digests.

A file is mapped into memory. Checking a file takes the memory of one block, and using a file takes
the memory of one tensor, whatever the size of the file. Format:
https://huggingface.co/docs/safetensors.
"""

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from atelier.adapter.safetensors_header import (
    ADAPTER_LIMITS,
    WIDTHS,
    Limits,
    open_file,
    read_open_header,
    some,
)
from atelier.errors import AdapterRejected
from atelier.files import writing

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]

_BLOCK = 2**20  # elements checked at a time


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
        step = _BLOCK * WIDTHS[self.dtype]
        for start in range(0, len(self.data), step):
            block = self.data[start : start + step]
            yield block, _floats(block, self.dtype)


Tensor: TypeAlias = Array | StoredTensor


class TensorFile:
    """A safetensors file with a checked header, mapped into memory.

    The map stays valid if another file replaces this one on the disk.
    """

    def __init__(self, path: Path, limits: Limits = ADAPTER_LIMITS) -> None:
        """Open the file and map it into memory.

        Raises AdapterRejected if it is not a complete safetensors file.
        """
        self.path = path
        try:
            with open_file(path) as file:
                header = read_open_header(file, path, limits)
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
                f"{self.path}: NaN or infinite values in {some(not_finite)}: the training "
                "diverged; lower the learning rate, or train in fp32 or bf16"
            )

    def _forget_pages(self) -> None:
        """Release the pages that were read; the system reads them again on access."""
        if hasattr(mmap, "MADV_DONTNEED"):  # Linux
            self._map.madvise(mmap.MADV_DONTNEED)


def read_tensors(path: Path, limits: Limits = ADAPTER_LIMITS) -> dict[str, Array]:
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
            f"{path}: only floating-point tensors can be written, not {some(wrong)}; convert them"
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


def _floats(data: Bytes, dtype: str) -> Array:
    """Return values as float32, without a copy if possible.

    A bfloat16 is the upper half of a float32.
    """
    if dtype == "BF16":
        halves = np.frombuffer(data, dtype="<u2").astype(np.uint32)
        halves <<= 16
        return halves.view(np.float32)
    with np.errstate(over="ignore"):  # overflow gives infinity, refused later
        values = np.frombuffer(data, dtype=f"<f{WIDTHS[dtype]}").astype(np.float32, copy=False)
    return np.require(values, requirements="A")  # the header's length may leave the data unaligned
