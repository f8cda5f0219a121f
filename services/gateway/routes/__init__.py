"""The HTTP routes, one module for each group. They convert between HTTP and the `Parts`."""
