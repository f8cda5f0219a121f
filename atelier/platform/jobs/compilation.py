"""The Job that compiles a base's UNet, for any adapters."""

from typing import Literal

from pydantic import PositiveInt

from atelier.data.names import Digest, hex_of
from atelier.platform.jobs.job_manifest import Work
from atelier.platform.jobs.spec import Spec


class CompilationSpec(Spec):
    """What decides about an engine before a pod runs.

    Its key in MLflow says more: the versions, which come with the image, and the GPU.
    """

    base: Digest
    backend: Literal["onnx", "tensorrt"]
    precision: Literal["fp32", "fp16"]
    batches: tuple[PositiveInt, ...] = ()  # rows of one UNet call, ascending
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = ()  # width and height in pixels
    rank: PositiveInt | None = None  # None, like the empty ones: as the image has it
    slots: PositiveInt | None = None
    gpu_kind: str | None = None  # the one that is asked for, as nodes are labelled
    image: str  # its digest, or its name where that has none

    @property
    def job_name(self) -> str:
        """The one Job that makes this."""
        return f"compile-{self.backend}-{hex_of(self.digest)[:10]}"

    def work(self) -> Work:
        """What its Job does."""
        return Work(
            name=self.job_name,
            kind="atelier-compile",
            spec=self,
            command=("python", "-m", "pipelines.compile.compile_job"),
        )


def image_identity(image: str) -> str:
    """An image's digest, wherever it is pulled from; its name where it is not named by digest."""
    return image.rpartition("@")[2]
