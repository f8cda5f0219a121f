"""Wing one, what ends: every stage is a module that a Job can run."""
