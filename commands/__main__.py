"""`python -m commands`: the same as the `atelier` console script."""

from commands.main import main

main()
