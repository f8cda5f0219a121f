"""One replica on one machine: the processes of `atelier serve`, and the file with their addresses.

This package is part of `commands`, not of `services`, because it starts several services, and no
service may import another.
"""
