"""Delivery on one machine: the release is a file in the home."""
