"""Run the `atelier` command with `python -m commands`."""

from commands.main import main

main()
