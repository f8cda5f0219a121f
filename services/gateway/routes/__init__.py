"""One file for each group of addresses; they translate and call, and decide nothing."""
