"""Verbs for training and judging an adapter."""
