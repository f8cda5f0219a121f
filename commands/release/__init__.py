"""Verbs for versions and releases of adapters."""
