"""Telling MLflow and W&B about a run, without the run ever waiting for them."""
