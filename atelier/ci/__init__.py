"""Clients of git and GitHub, and the work that a push requires."""
