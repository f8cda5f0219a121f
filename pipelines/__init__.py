"""Batch jobs.

Each stage is a function. The modules for `python -m` run the stages in the pod of a Job.
"""
