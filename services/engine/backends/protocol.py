"""What a backend must do. Whoever does it can serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from services.engine.bank import Bank


class Backend(Protocol):
    """Computes one UNet call for rows that need not have anything in common but their size."""

    @property
    def name(self) -> str:
        """Goes into every result, for a picture belongs to what made it."""
        ...

    @property
    def ladder(self) -> tuple[int, ...]:
        """The batch sizes it can run, ascending; empty where any will do."""
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
