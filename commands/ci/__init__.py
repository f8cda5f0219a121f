"""Verbs that workflows call."""
