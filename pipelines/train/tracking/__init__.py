"""Reports a run to MLflow and W&B without blocking the training."""
