"""Entry point, both of ``python3 -m standin`` and of ``python3 PATH/TO/standin``."""

import pathlib
import sys

if not __package__:  # started by path: the package's parent is not on sys.path yet
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from standin import cli

if __name__ == "__main__":
    sys.exit(cli.main())
