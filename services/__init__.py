"""Long-running services. Each folder is a process, or a library that a process uses."""
