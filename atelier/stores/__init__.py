"""Clients of the stores: MLflow, model files, and the releases of an environment."""
