"""The `hyperplug` command. Thin: parse, call one method of the API, print."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line, and ends the process with its status."""
    try:
        from hyperplug.cli.main import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # during the import above, too
        sys.stderr.write("\nInterrupted.\n")
        status = 130
    sys.exit(status)
