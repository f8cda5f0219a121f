"""Delivery: approve, release, verify, move the alias, roll back; locally and on a cluster."""
