"""The contract between gateway, Triton, engine and agent: requests, answers and reports."""
