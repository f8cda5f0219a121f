"""The `atelier` command: one module a group of verbs; the only room that may import every other."""
