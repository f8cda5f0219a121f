"""What a backend must do. Whoever does it can serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from services.engine.bank import Bank
from services.engine.scheduling import Shape


class Backend(Protocol):
    """Computes one UNet call for rows that need not have anything in common but their size.

    The bank and the rows' slots come with every call, whoever computes it: a swap is a copy into
    the bank, and no backend notices it.
    """

    @property
    def name(self) -> str:
        """Goes into every result, for a picture belongs to what made it."""
        ...

    @property
    def ladder(self) -> tuple[int, ...]:
        """The batch sizes it can run, ascending; empty where any will do."""
        ...

    @property
    def sizes(self) -> tuple[Shape, ...]:
        """Heights and widths of the latents that it can run; empty where any will do."""
        ...

    def describe(self) -> Mapping[str, str]:
        """What decides about the pixels, beside the base, torch and diffusers."""
        ...

    def denoise(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        pooled: Tensor,
        time_ids: Tensor,
        slots: Sequence[int],
        bank: Bank,
    ) -> Tensor:
        """The predicted noise of [row, 4, height, width], each row with its slot of the bank.

        Timesteps are float32 [row], text [row, token, features], pooled [row, features], time_ids
        [row, 6].
        """
        ...
