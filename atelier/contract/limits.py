"""Limits of all gateways and engines; an operator's settings may be lower."""

from typing import Final

SCHEDULERS: Final = ("euler", "euler_a", "ddim", "pndm", "lms", "dpm++", "unipc", "heun")
SIDE_MULTIPLE: Final = 8  # pixels: the scale factor of the VAE
MIN_SIDE: Final = 32  # pixels
MAX_SIDE: Final = 2048
MAX_STEPS: Final = 150
MAX_IMAGES: Final = 8  # per request
MAX_GUIDANCE: Final = 50.0
MAX_WEIGHT: Final = 10.0  # of an adapter, as an absolute value
MAX_ADAPTERS: Final = 8  # per request
MAX_PROMPT: Final = 10_000  # characters; the text encoders read 77 tokens
SEEDS: Final = 2**64  # seeds are 0 to SEEDS - 1
