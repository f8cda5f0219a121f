"""Sample pictures of the serving versions for their live scores, without slowing a request.

The engine's thread only hashes prompt and seed, and hands a chosen picture to the sampler's thread,
which encodes and writes it. A picture is dropped while that thread is busy.
"""

from __future__ import annotations

import io
import logging
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atelier.contract.request import ImageRequest
from atelier.contract.sample import CHUNK, SUFFIX, Sample, folder_of, is_chosen, key_of
from atelier.files import write_atomic
from services.engine.result import ImageResult
from services.engine.settings import SampleSettings

log = logging.getLogger(__name__)

QUEUED: Final = 4  # pictures that wait to be written; of 1024² pixels, 3 MiB each
CLOSING: Final = 5.0  # seconds
COMPRESSION: Final = 3  # zlib's level, as for the gateway's pictures

Chosen = tuple[Sample, NDArray[np.uint8]]


class Sampler:
    """Writes a share of the pictures to the volume, up to `sample_keep` for each version."""

    def __init__(self, volume: Path, settings: SampleSettings) -> None:
        self._volume = volume
        self._share, self._keep = settings.sample_share, settings.sample_keep
        self._queue: queue.Queue[Chosen | None] = queue.Queue(maxsize=QUEUED)
        self._warned = False
        self.dropped = 0  # chosen pictures that were not written because the thread was busy
        self._thread: threading.Thread | None = None
        if self._share > 0:
            self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)
            self._thread.start()

    def watch(self, request: ImageRequest, future: Future[ImageResult]) -> None:
        """Sample the pictures of a request when it is done. Requests that fail are ignored."""
        if self._thread is None:
            return

        def done(ended: Future[ImageResult]) -> None:
            if not ended.cancelled() and ended.exception() is None:
                self.offer(request, ended.result())

        future.add_done_callback(done)

    def offer(self, request: ImageRequest, result: ImageResult) -> None:
        """Queue the chosen pictures of a result. Never waits; drops pictures if the queue is full.

        A picture is chosen only if exactly one adapter made it, with weight 1, as in an evaluation.
        """
        for chosen in _chosen(request, result, self._share):
            try:
                self._queue.put_nowait(chosen)
            except queue.Full:
                self.dropped += 1

    def close(self) -> None:
        """Write the queued pictures and end the thread, but do not wait for a disk that hangs."""
        if self._thread is not None:
            with suppress(queue.Full):
                self._queue.put(None, timeout=CLOSING)
            self._thread.join(CLOSING)

    def _work(self) -> None:
        while (chosen := self._queue.get()) is not None:
            try:
                self._write(*chosen)
                self._warned = False
            except OSError as error:
                if not self._warned:  # a full disk would fill the log, too
                    log.warning("samples: cannot be written to %s: %s", self._volume, error)
                self._warned = True
            except Exception:
                log.exception("samples: a picture could not be written")

    def _write(self, sample: Sample, pixels: NDArray[np.uint8]) -> None:
        folder = folder_of(self._volume, sample.adapter, sample.version)
        file = folder / f"{key_of(sample.prompt, sample.seed)}{SUFFIX}"
        write_atomic(file, encode(sample, pixels))
        present = sorted(folder.glob(f"[!.]*{SUFFIX}"), key=_age)
        for old in present[: -self._keep]:
            old.unlink(missing_ok=True)


def encode(sample: Sample, pixels: NDArray[np.uint8]) -> bytes:
    """Encode a picture, [height, width, 3], as a PNG with the data of its request."""
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt(CHUNK, sample.model_dump_json(), lang="", tkey="", zip=False)
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info, compress_level=COMPRESSION)
    return buffer.getvalue()


def _chosen(request: ImageRequest, result: ImageResult, share: float) -> Iterator[Chosen]:
    if len(result.adapters) != 1:
        return
    used = result.adapters[0]
    if not used.version or used.weight != 1:
        return
    for seed, pixels in zip(result.seeds, result.images, strict=True):
        if not is_chosen(key_of(request.prompt, seed), share):
            continue
        sample = Sample(
            adapter=used.name,
            version=used.version,
            digest=used.digest,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=seed,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            scheduler=request.scheduler,
            width=pixels.shape[1],
            height=pixels.shape[0],
            time=time.time(),
        )
        yield sample, pixels


def _age(file: Path) -> tuple[int, str]:
    """Return the key that sorts samples from oldest to newest. A removed one is the oldest."""
    try:
        return file.stat().st_mtime_ns, file.name
    except FileNotFoundError:
        return 0, file.name
