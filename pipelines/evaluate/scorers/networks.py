"""Loads networks with transformers' classes, and runs them in batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from .files import ScorerFiles

BATCH: Final = 32


def load_network(source: ScorerFiles, folder: Path, cls: Any, device: str) -> Any:
    """Load a network in fp32 for inference. Raises PolicyError if it cannot be loaded."""
    import torch

    network = load_part(source, folder, cls, dtype=torch.float32, use_safetensors=True)
    return network.eval().to(device)


def load_part(source: ScorerFiles, folder: Path, cls: Any, **options: Any) -> Any:
    """Load a tokenizer, an image processor or a network from `folder`.

    Raises PolicyError if it cannot be loaded.
    """
    try:
        with _quiet():
            return cls.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **options
            )
    except (OSError, ValueError, KeyError) as error:
        raise source.error(error) from error


def unit_rows(items: Sequence[Any], embed: Callable[[list[Any]], Any]) -> np.ndarray:
    """Return [items, features] of unit length; `embed` takes up to BATCH items."""
    import torch

    rows = []
    with torch.inference_mode():
        for start in range(0, len(items), BATCH):
            features = embed(list(items[start : start + BATCH])).float()
            rows.append(torch.nn.functional.normalize(features, dim=-1).cpu().numpy())
    return np.concatenate(rows)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress transformers' progress bars and its warning about the unused pooler of the ViT."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
