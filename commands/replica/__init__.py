"""One replica on one machine: the processes of `atelier serve`, their addresses and their note.

This package is part of `commands` because it starts several services, and no service may import
another.
"""
