"""Turns off the progress bars of libraries, so that only ours are shown."""


def quiet_loading() -> None:
    """Show no progress bar for each file of a model."""
    from transformers.utils import logging

    logging.disable_progress_bar()
