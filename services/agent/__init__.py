"""The sidecar that brings released adapters, verified, onto a replica's shared volume."""
