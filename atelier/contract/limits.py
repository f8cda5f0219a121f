"""Limits that no gateway and no engine exceeds; an operator's settings may be narrower."""

from typing import Final

SCHEDULERS: Final = ("euler", "euler_a", "ddim", "pndm", "lms", "dpm++", "unipc", "heun")
SIDE_MULTIPLE: Final = 8  # pixels: the VAE's reduction
MIN_SIDE: Final = 32  # pixels
MAX_SIDE: Final = 2048
MAX_STEPS: Final = 150
MAX_IMAGES: Final = 8  # of one request
MAX_GUIDANCE: Final = 50.0
MAX_WEIGHT: Final = 10.0  # of an adapter, either sign
MAX_ADAPTERS: Final = 8  # of one request
MAX_PROMPT: Final = 10_000  # characters; the text encoders read 77 tokens
SEEDS: Final = 2**64  # seeds are 0 to SEEDS - 1
