"""The storage initializer for KServe: download a base or a compiled UNet by its digest."""
