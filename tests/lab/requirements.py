"""The host packages the lab stands on, read from `requirements-apt.txt`."""

import os
import pathlib
import shutil

from lab import errors

LIST = pathlib.Path(__file__).with_name("requirements-apt.txt")
# Administrators' commands, which are not on every user's PATH and need no privilege for a file.
SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def read(listing: str) -> dict[str, str]:
    """Return the command or the file that shows a package is there, by package."""
    lines = (line.partition("#") for line in listing.splitlines())
    return {package.strip(): proof.strip() for package, _, proof in lines if package.strip()}


def missing() -> list[str]:
    """Return the packages whose command or file is not on this host, sorted."""
    wanted = read(LIST.read_text())
    return sorted(package for package, proof in wanted.items() if not _is_there(proof))


def check() -> None:
    """Refuse to begin what cannot end.

    Raises:
        UnableError: names what is missing and the command that installs it.
    """
    packages = missing()
    if packages:
        raise errors.UnableError(
            f"the lab needs {', '.join(packages)}: run `make deps`, or as root "
            f"`apt-get install --no-install-recommends {' '.join(packages)}`"
        )


def _is_there(proof: str) -> bool:
    if proof.startswith("/"):
        return pathlib.Path(proof).exists()
    return shutil.which(proof, path=SEARCH_PATH) is not None
