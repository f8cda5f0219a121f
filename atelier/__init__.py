"""The core of Atelier: data models and clients, shared by training and serving.

The core imports neither torch nor a web framework nor other packages of the project.
"""

__version__ = "0.1.0"
