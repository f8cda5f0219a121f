"""Commands for versions and releases of adapters."""
