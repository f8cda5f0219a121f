"""What KServe runs before a predictor starts: brings a base or an engine from MLflow, by digest."""
