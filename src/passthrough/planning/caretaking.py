"""The files of an application's caretaker as this revision of the charm has them. Pure.

The caretaker runs a copy of the charm's code, since Juju removes the charm with the unit. The copy
is one file, which Python runs as it is (https://docs.python.org/3/library/zipapp.html), so that a
refresh replaces all of it or nothing.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from passthrough.host import watch
from passthrough.planning import templates
from passthrough.state import digest

_PACKAGE = Path(__file__).resolve().parents[1]
# What only people ask for. A test runs the rest, so whatever giving back comes to need has to stay.
_LEFT_OUT = (
    *(
        "arguments.py",
        "cli.py",
        "erasing.py",
        "exporter.py",
        "lending.py",
        "planning/erasure.py",
        "planning/exporting.py",
        "quarantining.py",
        "rebind.py",
    ),
    *("effects/eraser.py", "system/direct_read.py", "system/http_get.py", "system/nvme_admin.py"),
    *(
        "reporting/erasures.py",
        "reporting/loans.py",
        "reporting/metrics.py",
        "reporting/quarantines.py",
    ),
    "reporting/verify/",
)
_MAIN = "import sys\n\nfrom passthrough import {0}\n\nsys.exit({0}.main())\n"
# The earliest that a zip can say: the same code gives the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
# Of the spelling of what was installed.
_FINGERPRINT = 1


def contents(application: str) -> dict[str, str]:
    """What each of the caretaker's files holds, by its path below the root, the program first."""
    context = {
        "application": application,
        "program": watch.program_path(application),
        "unit": watch.unit_name(application),
    }
    renderer = templates.Renderer()
    return {
        watch.program_path(application): pack(),
        watch.service_path(application): renderer.render("caretaker.service.j2", context),
        watch.timer_path(application): renderer.render("caretaker.timer.j2", context),
        watch.boot_path(application): renderer.render("caretaker-boot.conf.j2", context),
    }


def fingerprint(wanted: Mapping[str, str]) -> str:
    """Digest what `contents` gave, as the record names it once the timer runs."""
    digests = {
        path: hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        for path, text in wanted.items()
    }
    return digest.of(_FINGERPRINT, digests)


@functools.lru_cache(maxsize=1)
def pack() -> str:
    """Pack the code that gives back into one file, as text in the manner of `files.read`."""
    names = (path.relative_to(_PACKAGE).as_posix() for path in _PACKAGE.rglob("*.py"))
    return pack_modules("caretaker", (name for name in names if not name.startswith(_LEFT_OUT)))


def pack_modules(main: str, names: Iterable[str]) -> str:
    """Pack modules of the package into one file that Python runs, as text as in `files.read`.

    Args:
        main: the module whose ``main`` is run.
        names: the files below the package.
    """
    packed = io.BytesIO()
    sources = {
        f"passthrough/{name}": (_PACKAGE / name).read_text(encoding="utf-8")
        for name in sorted(names)
    }
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, text in {"__main__.py": _MAIN.format(main), **sources}.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), text)
    return packed.getvalue().decode("utf-8", "surrogateescape")
