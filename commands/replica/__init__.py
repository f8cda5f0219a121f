"""One replica on one machine: the processes of `atelier serve`, their addresses and their note.

It starts processes of several services, which none of them may do for the others.
"""
