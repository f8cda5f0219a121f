"""Access to MLflow, to model files, and to the releases of an environment."""
