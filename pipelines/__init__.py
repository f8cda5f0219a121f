"""Batch jobs: every stage is a module that a Job can run."""
