"""`python -m snapstore.cli`."""

from snapstore.cli import main

main()
