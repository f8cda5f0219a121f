"""Adapter packages: file formats, tensor names, verification and signatures."""
