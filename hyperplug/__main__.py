"""`python -m hyperplug`."""

from hyperplug.cli import main

main()
