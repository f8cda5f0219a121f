"""Reads, checks and prepares a folder of pictures and captions for training."""

from pipelines.dataset.crop import Fitted, square, whole
from pipelines.dataset.hold_back import Split, hold_back
from pipelines.dataset.lint import Finding, check_pictures, lint, lint_recipe, lint_stage, listed
from pipelines.dataset.picture_folder import Picture, PictureFolder, open_folder
from pipelines.dataset.pictures import open_picture

__all__ = [
    "Finding",
    "Fitted",
    "Picture",
    "PictureFolder",
    "Split",
    "check_pictures",
    "hold_back",
    "lint",
    "lint_recipe",
    "lint_stage",
    "listed",
    "open_folder",
    "open_picture",
    "square",
    "whole",
]
