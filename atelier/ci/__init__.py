"""Git, GitHub, and the changes that a push makes."""
