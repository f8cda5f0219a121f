"""The demo: the whole pipeline on this machine, with nothing prepared in advance.

`story.py` runs the steps in order. The other modules support it.
"""
