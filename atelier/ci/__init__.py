"""Clients of git and GitHub, and the recipes and declarations that a push changed."""
