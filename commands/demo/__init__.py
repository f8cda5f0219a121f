"""The demo: the whole way on this machine, with nothing prepared behind the curtain.

`story.py` is the way in its order; the other modules are what it shows it with.
"""
