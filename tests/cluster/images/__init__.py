"""Builds the images of the cluster tests on this machine, where no registry may be in reach.

`python -m tests.cluster.images build` makes Debian with Python (base), PostgreSQL on it, and the
two images of the product from the Dockerfiles at the root, with the base in place of NVIDIA's.
Needs root, buildah and debootstrap.
"""
