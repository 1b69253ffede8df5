"""``python -m netloom`` is the command line."""

from netloom.cli import main

main()
