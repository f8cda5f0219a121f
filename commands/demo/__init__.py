"""The demo: the whole pipeline on this machine, from training to a rollback.

`steps.py` runs the steps in order. The other modules support it.
"""
