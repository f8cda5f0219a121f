"""A sampled picture of a serving version, from the engine through the agent to the live scores.

A sample is one PNG file with the data of its request in an iTXt chunk, so that picture and data
cannot be separated. The engine writes it to `samples/<adapter>/<version>/<key>.png` on the volume.
The agent moves it to `live/<environment>/<slot>.png` beside the version in MLflow. MLflow cannot
delete single files, so a version has a fixed number of slots, and a new sample replaces the one in
its slot.
"""

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from atelier.data.names import AdapterName, Digest, hex_of
from atelier.files import digest_json

CHUNK: Final = "atelier-sample"
FOLDER: Final = "samples"  # on the volume
SUFFIX: Final = ".png"
SLOTS: Final = 128  # samples of one version in one environment; with SDXL about 170 MB
_PART: Final = 8  # hexadecimal digits of the key: the first part chooses, the second is the slot
_PARTS: Final = 16**_PART


class Sample(BaseModel):
    """The request that gave the picture. `time` is in seconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    adapter: AdapterName
    version: int = Field(ge=1)
    digest: Digest
    prompt: str
    negative_prompt: str | None = None
    seed: int
    steps: int
    guidance_scale: float
    scheduler: str
    width: int  # pixels
    height: int
    time: float


def key_of(prompt: str, seed: int) -> str:
    """Return 16 hexadecimal digits that depend only on the prompt and the seed."""
    return hex_of(digest_json([prompt, seed]))[: 2 * _PART]


def is_chosen(key: str, share: float) -> bool:
    """Return whether a picture belongs to the sampled share, from 0 to 1.

    Every replica and every repetition of a request gives the same answer.
    """
    return int(key[:_PART], 16) < share * _PARTS


def slot_of(key: str) -> int:
    """Return the slot of a sample beside its version, independently of `is_chosen`."""
    return int(key[_PART:], 16) % SLOTS


def folder_of(volume: Path, adapter: str, version: int) -> Path:
    """Return the folder of a version's samples on the volume."""
    return volume / FOLDER / adapter / str(version)


def attested_folder(environment: str) -> str:
    """Return the folder of an environment's samples beside a version in MLflow."""
    return f"live/{environment}"


def attested_name(environment: str, key: str) -> str:
    """Return the name of a sample beside its version in MLflow."""
    return f"{attested_folder(environment)}/{slot_of(key):03}{SUFFIX}"
