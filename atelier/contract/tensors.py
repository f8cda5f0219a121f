"""The V2 tensors of Triton's model: names and datatypes of requests and responses.

Each input has one value. `services/triton/atelier/config.pbtxt` declares the same tensors.
"""

from typing import Final

from atelier.contract.limits import SEEDS

MODEL: Final = "atelier"

# V2 datatypes by name. All but PROMPT are optional.
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
    """Return an unsigned 64-bit seed as an INT64 of V2."""
    return seed - SEEDS if seed >= SEEDS // 2 else seed


def unsigned_seed(value: int) -> int:
    """Return the unsigned 64-bit seed of an INT64."""
    return value % SEEDS
