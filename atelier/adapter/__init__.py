"""The artifact: what an adapter is on disk, what its tensors are called, and what is refused."""
