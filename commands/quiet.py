"""Keeps libraries' own progress bars off the screen: ours say what a person wants to know."""


def quiet_loading() -> None:
    """No bar for each file of a model that is loaded."""
    from transformers.utils import logging

    logging.disable_progress_bar()
