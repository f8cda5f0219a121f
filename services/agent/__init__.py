"""The sidecar that fetches and verifies released adapters on the shared volume of a replica."""
