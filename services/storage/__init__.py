"""The storage initializer for KServe: downloads a base or a compiled engine by its digest."""
