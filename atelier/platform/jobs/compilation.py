"""The Job that compiles the UNet of a base, for any adapters."""

from typing import Literal

from pydantic import PositiveInt

from atelier.data.names import Digest, hex_of
from atelier.platform.jobs.job_manifest import Work
from atelier.platform.jobs.spec import Spec


class CompilationSpec(Spec):
    """The inputs of a compiled engine that are known before its pod runs.

    The engine's key in MLflow also covers the library versions of the image, and the GPU.
    """

    base: Digest
    backend: Literal["onnx", "tensorrt"]
    precision: Literal["fp32", "fp16"]
    batches: tuple[PositiveInt, ...] = ()  # rows of one UNet call, ascending
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = ()  # width and height in pixels
    rank: PositiveInt | None = None  # None or empty: the default of the image
    slots: PositiveInt | None = None
    gpu_kind: str | None = None  # the kind in the label of the nodes
    image: str  # the digest of the image, or its name if the name contains no digest

    @property
    def job_name(self) -> str:
        """The name of the only Job for this spec."""
        return f"compile-{self.backend}-{hex_of(self.digest)[:10]}"

    def work(self) -> Work:
        """Return the work of its Job."""
        return Work(
            name=self.job_name,
            kind="atelier-compile",
            spec=self,
            command=("python", "-m", "pipelines.compile.compile_job"),
        )


def image_identity(image: str) -> str:
    """Return the digest in the name of an image, or the name if it contains no digest."""
    return image.rpartition("@")[2]
