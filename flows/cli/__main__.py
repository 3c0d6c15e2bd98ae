"""`python -m flows.cli` is `ringflow`."""

from flows.cli import main

main()
