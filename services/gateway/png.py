"""PNG files with their generation parameters, as JSON in an iTXt chunk named `atelier`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

CHUNK = "atelier"
# zlib level 3 encodes a 1024² image twice as fast as the default 6; the file is an eighth larger.
COMPRESSION = 3
PIECE = 3 * 2**16  # bytes sent at once; a multiple of 3, which base64 encodes without padding


def encode_png(pixels: NDArray[np.uint8], metadata: dict[str, Any]) -> bytes:
    """Encode one image, uint8 [height, width, 3], as a PNG with its metadata."""
    info = PngInfo()
    info.add_itxt(CHUNK, json.dumps(metadata, ensure_ascii=False), lang="", tkey="", zip=False)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info, compress_level=COMPRESSION)
    return buffer.getvalue()


def base64_pieces(data: bytes) -> Iterator[bytes]:
    """Yield the data as base64 (RFC 4648), piece by piece to save memory."""
    view = memoryview(data)
    for start in range(0, len(data), PIECE):
        yield base64.b64encode(view[start : start + PIECE])


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield the data in pieces of PIECE bytes."""
    return (data[start : start + PIECE] for start in range(0, len(data), PIECE))


def read_metadata(png: bytes) -> dict[str, Any] | None:
    """Return the metadata that `encode_png` wrote, or None if the PNG has no such metadata."""
    with Image.open(io.BytesIO(png)) as image:
        image.load()  # also reads the chunks after the pixels
        text = getattr(image, "text", {}).get(CHUNK)
    return json.loads(text) if text else None
