"""The V2 tensors of Triton's model: names and datatypes of a request and of its answer.

Each input has one value. `services/triton/atelier/config.pbtxt` declares the same.
"""

from typing import Final

from atelier.contract.limits import SEEDS

MODEL: Final = "atelier"

# By name: V2's datatype. All but PROMPT are optional.
INPUTS: Final = {
    "PROMPT": "BYTES",
    "NEGATIVE_PROMPT": "BYTES",
    "ADAPTERS": "BYTES",  # JSON: [{"name", "version"?, "weight"?}]
    "SCHEDULER": "BYTES",
    "SEED": "INT64",  # the 64 bits of an unsigned seed
    "STEPS": "INT32",
    "WIDTH": "INT32",
    "HEIGHT": "INT32",
    "IMAGES": "INT32",
    "GUIDANCE_SCALE": "FP32",
}
TEXTS: Final = tuple(name for name, datatype in INPUTS.items() if datatype == "BYTES")
NUMBERS: Final = tuple(name for name in INPUTS if name not in TEXTS)
OUTPUTS: Final = {
    "IMAGE": "UINT8",  # [image, height, width, RGB]
    "INFO": "BYTES",  # JSON: `info.Info`
}


def signed_seed(seed: int) -> int:
    """An unsigned seed of 64 bits as V2's INT64."""
    return seed - SEEDS if seed >= SEEDS // 2 else seed


def unsigned_seed(value: int) -> int:
    """The seed that an INT64 stands for."""
    return value % SEEDS
