"""Long-running services: every folder is a process, or the library inside one."""
