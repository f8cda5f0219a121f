"""Batch jobs. Each stage is a function; `python -m` modules run stages in a Job's pod."""
