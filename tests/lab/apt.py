"""Where the guest's Debian packages come from: the sources of the host that builds the image."""

import os
import pathlib
import subprocess

from lab import errors

SOURCES_VARIABLE = "PCI_PASSTHROUGH_LAB_SOURCES"
FALLBACK_SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FIELDS = ("REPO_URI", "RELEASE", "COMPONENT", "ORIGIN")


def read_os_release(path: pathlib.Path = pathlib.Path("/etc/os-release")) -> dict[str, str]:
    """Return os-release(5) as a dictionary, quotes taken off."""
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return {key: value.strip("\"'") for key, value in pairs}


def choose_suite(os_release: dict[str, str]) -> str:
    """Return the Debian release the guest gets: the host's own on Debian, else a fixed one."""
    if os_release.get("ID") == "debian" and os_release.get("VERSION_CODENAME"):
        return os_release["VERSION_CODENAME"]
    return FALLBACK_SUITE


def choose_sources(suite: str, targets: str) -> str:
    """Pick the suite's Debian archives out of what apt knows, as lines of a sources.list(5).

    Args:
        suite: a release's code name.
        targets: one line per index, the values of `FIELDS` between bars.

    Returns:
        The lines, sorted; "" when apt knows no archive of that suite, so that mmdebstrap takes
        the one it was built with.
    """
    releases = {suite, f"{suite}-updates", f"{suite}-security"}
    rows = (line.split("|") for line in targets.splitlines())
    chosen = {
        f"deb [signed-by={KEYRING}] {uri} {release} {component}"
        for uri, release, component, origin in rows
        if origin == "Debian" and release in releases and component == "main"
    }
    return "".join(f"{line}\n" for line in sorted(chosen))


def add_backports(suite: str, sources: str) -> str:
    """Return the sources with the backports of the archive that has the suite itself.

    Returns:
        "" when no line names the suite's own archive.
    """
    rows = (line.split() for line in sources.splitlines())
    lines = [
        f"deb {options} {uri} {suite}-backports main"
        for kind, options, uri, release, *_ in (row for row in rows if len(row) > 4)
        if kind == "deb" and options.startswith("[") and release == suite
    ]
    return sources + "".join(f"{line}\n" for line in lines[:1]) if lines else ""


def change_suite(sources: str, former: str, suite: str) -> str:
    """Return the lines of a sources.list(5) for another release in the same archives.

    Lines of a release that has nothing to do with the former one stay as they are.
    """
    releases = {f"{former}{part}": f"{suite}{part}" for part in ("", "-updates", "-security")}
    return "".join(
        f"{' '.join(releases.get(word, word) for word in line.split(' '))}\n"
        for line in sources.splitlines()
    )


def read_sources(suite: str) -> str:
    """Return the sources for that suite: the file the operator names, else the host's own.

    Raises:
        LabError: the named file is not there.
    """
    named = os.environ.get(SOURCES_VARIABLE)
    if named:
        path = pathlib.Path(named)
        if not path.is_file():
            raise errors.LabError(f"{SOURCES_VARIABLE} names {path}, which is not a file")
        return path.read_text()
    wanted = "|".join(f"$({field})" for field in FIELDS)
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    )
    return choose_sources(suite, targets.stdout)
