"""Run charmcraft's own linters over the packed charm; anything but the known alarm is an error.

`charmcraft analyse` alone reports a missing entrypoint, a charm of unknown language and of no
framework: it neither expands the ${dispatch_path} in the dispatch script that charmcraft itself
writes for charms with a virtual environment, nor looks for ops in its site-packages. And it cannot
read a charm library that has no LIBID yet, which Charmhub gives out when the library is registered.
So it is shown a copy in which all three are as it expects; then these linters do their work.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

WRITTEN = b'exec "${python_path}" "${dispatch_path}/src/charm.py"'
PLAIN = b"exec ./src/charm.py"
# Linter and result → why it is no fault.
KNOWN = {
    ("pip-check", "warning"): "requirements/charm-excludes.in says which packages stay out, and why"
}
GOOD = ("ok", "python", "operator", "nonapplicable")


def copy_for_linters(charm: pathlib.Path, target: pathlib.Path) -> None:
    """Copy `charm` to `target` with what the linters look for in the place where they look.

    Raises:
        ValueError: when charmcraft writes another dispatch than it used to.
    """
    with zipfile.ZipFile(charm) as source, zipfile.ZipFile(target, "w") as copy:
        for item in source.infolist():
            content = source.read(item)
            if item.filename == "dispatch":
                if content.count(WRITTEN) != 1:
                    raise ValueError("dispatch: not as charmcraft 4.5 writes it; see analyse.py")
                content = content.replace(WRITTEN, PLAIN)
            if item.filename == "src/charm.py":
                item.external_attr = 0o100755 << 16  # as PLAIN needs it; WRITTEN does not
            if item.filename.startswith("lib/charms/") and b"\nLIBID" not in content:
                content += b'\nLIBID = "none yet"\n'
            copy.writestr(item, content)
        copy.writestr("venv/ops/__init__.py", "")


def analyse(charmcraft: pathlib.Path, charm: pathlib.Path) -> list[dict[str, str]]:
    """Return what every linter says: its name, its result and a text."""
    command = [charmcraft, "analyse", "--format", "json", charm]
    # The exit code only repeats the worst result.
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(result.stdout)


def main() -> int:
    """Print one line a linter; the exit code is 1 when one found a fault."""
    charmcraft, charm = (pathlib.Path(argument) for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as work:
        copy = pathlib.Path(work, charm.name)
        copy_for_linters(charm, copy)
        found = analyse(charmcraft, copy)
    faults = 0
    for each in found:
        known = KNOWN.get((each["name"], each["result"]))
        is_fault = each["result"] not in GOOD and not known
        faults += is_fault
        text = known or " ".join(each["text"].split())
        print(f"{each['name']:20} {each['result']:14} {text if known or is_fault else ''}".rstrip())
    if faults:
        print(f"error: charmcraft found {faults} faults in {charm}", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
