"""The core of Atelier: plain data and clients, shared by what trains and by what serves.

Nothing here imports torch, a web framework or any other room of the project.
"""

__version__ = "0.1.0"
