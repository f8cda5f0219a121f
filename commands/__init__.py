"""The `atelier` command: one module for each group of verbs. It may import every other package."""
