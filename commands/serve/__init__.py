"""Verbs for serving and for making images."""
