"""The `atelier` command line, one folder per section of `atelier --help`.

This package may import every other package.
"""
