"""Entry point, both of ``python3 -m harness.standin`` and by its path."""

import pathlib
import sys

if not __package__:  # started by path: what holds harness is not on sys.path yet
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

from harness.standin import cli

if __name__ == "__main__":
    sys.exit(cli.main())
