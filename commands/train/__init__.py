"""Commands that train and evaluate an adapter."""
