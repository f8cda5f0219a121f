"""The data contract of gateway, Triton, engine and agent: requests, responses and reports."""
