"""Wing two, what runs: every folder is a process, or the library inside one."""
