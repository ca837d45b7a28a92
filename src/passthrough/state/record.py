"""What this application has taken and activated: the only state that cannot be read off the host.

One JSON file an application below /var/lib/pci-passthrough. A function is written into it before
its driver_override is, and leaves it only after the kernel has shown the function given back, so
that a crash in between is mended by the next run.

The file says which format it has. Every older one is read, and the next step brings it forward; a
newer one is refused. Charms up to 52ee0af know no formats: for them the file holds, beside the
record itself, two keys that they stumble over before they act. Later formats keep those.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from passthrough import naming, pci_address
from passthrough.errors import PassthroughError
from passthrough.site import Site
from passthrough.system import files, quoting

DIRECTORY = "var/lib/pci-passthrough"

# 1 stands in no file: it has the record's own keys at its top, of which `reboot` and `nova`, and
# what `nova` holds, came one after the other.
FORMAT = 2
# What 52ee0af shows of a record that it does not know, between "is not readable (" and ")": at most
# 58 characters of a name that is no address.
_REFUSAL = f"format {FORMAT} of a newer charm: refresh, and leave it in place"
_FOR_FIRST_RELEASE = {"taken": {_REFUSAL: None}, "activated": {}}

# Stands where a fingerprint does while a rebuild is under way, and after it failed: what was built
# last is not known then, so that it is built again even if the files are as they were before.
DIRTY = ""


class RecordError(PassthroughError):
    """The record of an application cannot be read."""


class NewerRecordError(RecordError):
    """A record is of a newer revision of the charm, so it is not this one's to act on."""


@dataclasses.dataclass(frozen=True)
class Reboot:
    """A reboot that was asked for: the plan it was to complete, and the boot it was to end."""

    plan: str
    boot_id: str


@dataclasses.dataclass(frozen=True)
class Nova:
    """What nova-compute knows of its drop-in.

    ``read`` is the fingerprint of the content it last started with; empty where it read none.
    ``deferred`` is that of a content for which the policy layer denied a restart, and ``run`` the
    run of the service that went on without it; both empty where none was denied.
    ``made_directory`` tells that nova.conf.d was not there before.
    """

    read: str = ""
    deferred: str = ""
    run: str = ""
    made_directory: bool = False


@dataclasses.dataclass(frozen=True)
class Record:
    """What one application has done to this host.

    ``taken`` maps the address of every function it took to the driver that had it before, or
    None. ``activated`` maps ``initramfs`` and ``grub`` to the fingerprint of the files that the
    last successful rebuild took in, or to DIRTY. ``reboot`` is the last one it asked for, ``nova``
    what became of the drop-in for nova-compute.
    """

    taken: Mapping[str, str | None] = dataclasses.field(default_factory=dict[str, str | None])
    activated: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    reboot: Reboot | None = None
    nova: Nova = dataclasses.field(default_factory=Nova)

    @property
    def is_empty(self) -> bool:
        """Nothing is taken, nothing was activated and no reboot is to be remembered."""
        return not (self.taken or self.activated or self.reboot) and self.nova == Nova()


class Ledger:
    """The one writer of an application's record; `open` gives it.

    Each of its steps is on the disk when it returns: what comes next on the host may stand on it.
    """

    def __init__(self, site: Site):
        self.site = site
        self._present = _load(site)

    @property
    def present(self) -> Record:
        """What the record holds now."""
        return self._present

    def enter(self, taken: Mapping[str, str | None], rebuilds: Iterable[str]) -> None:
        """Record functions before they are touched, and that rebuilds are under way.

        Raises:
            OSError: as `put`.
        """
        unknown = dict.fromkeys(rebuilds, DIRTY)
        self.update(
            taken={**self._present.taken, **taken},
            activated={**self._present.activated, **unknown},
        )

    def rebuilt(self, what: str, digest: str | None) -> None:
        """Record what a rebuild has taken in; None where none of our files feeds it any more.

        Raises:
            OSError: as `put`.
        """
        activated = {key: value for key, value in self._present.activated.items() if key != what}
        self.update(activated=activated if digest is None else {**activated, what: digest})

    def update(self, **changes: Any) -> None:
        """Record other values for some of the fields of `Record`, by their names.

        Raises:
            OSError: as `put`.
        """
        self.put(dataclasses.replace(self._present, **changes))

    def put(self, record: Record) -> bool:
        """Store a whole record, or remove the file when it is empty.

        Returns:
            True if anything was changed.

        Raises:
            OSError: when it cannot be stored; `present` is what it was.
        """
        path = _path(self.site)
        if record.is_empty:
            changed = files.ensure(path, None)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        else:
            changed = files.ensure(path, json.dumps(_spell(record), indent=1, sort_keys=True))
        self._present = record
        return changed


@contextlib.contextmanager
def open(site: Site) -> Generator[Ledger]:
    """Have an application's record at hand, to read and to write, while the block runs.

    Whoever changes the host has its lock around the block: what the ledger holds is then what
    stands in the file, and nobody else writes one.

    Raises:
        RecordError: as `read`.
        OSError: when what a kill in the middle of a write left beside the file stays there.
    """
    ledger = Ledger(site)
    files.sweep([_path(site)])
    yield ledger


def read(site: Site) -> Record:
    """Read an application's record; an empty one when it has none.

    Raises:
        RecordError: when the file is there but is not what a `Ledger` wrote.
        NewerRecordError: when it is what a newer revision of the charm wrote.
    """
    return _load(site)


def read_others(site: Site) -> dict[str, Record]:
    """Read the records of the host's other applications of this charm, by their names.

    Raises:
        RecordError: as `read`.
    """
    names = sorted(path.stem for path in (site.root / DIRECTORY).glob("*.json"))
    return {name: read(Site(site.root, name)) for name in names if name != site.application}


def taken_by(others: Mapping[str, Record]) -> dict[str, str]:
    """Map every address that another application has taken to that one's name.

    An application that has given up its boot files only waits for a guest to let go of what it
    took: it was removed, or asks for nothing any more, and bars nobody.
    """
    return {
        address: name
        for name, other in others.items()
        if other.activated
        for address in other.taken
    }


def _load(site: Site) -> Record:
    path = _path(site)
    present = files.read(path)
    if present is None:
        return Record()
    try:
        data = json.loads(present.content)
        if "format" not in data:
            return _parse(data)
        found = data["format"]
        if type(found) is int and found > FORMAT:
            raise NewerRecordError(
                f"/{path.relative_to(site.root)} is in format {found}, of a newer revision of this"
                f" charm, and this one reads up to {FORMAT}, so it does nothing to the host;"
                " refresh the charm to that revision, and leave the file in place"
            )
        if type(found) is not int or found != FORMAT:
            raise ValueError(f"{quoting.show(found)} is no format")
        return _parse(data["record"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(
            f"/{path.relative_to(site.root)} is not readable ({error}); move it away, and what it"
            " held is found again from the configuration"
        ) from error


def _spell(record: Record) -> dict[str, object]:
    """The file's content, spelled out: what the fields of `Record` are called is not part of it."""
    reboot, nova = record.reboot, record.nova
    spelled = {
        "taken": dict(record.taken),
        "activated": dict(record.activated),
        "reboot": {"plan": reboot.plan, "boot_id": reboot.boot_id} if reboot else None,
        "nova": {
            "read": nova.read,
            "deferred": nova.deferred,
            "run": nova.run,
            "made_directory": nova.made_directory,
        },
    }
    return {"format": FORMAT, "record": spelled, **_FOR_FIRST_RELEASE}


def _parse(data: Any) -> Record:
    taken, activated = dict(data["taken"]), dict(data["activated"])
    for address, driver in taken.items():
        if not (pci_address.is_exact(address) and isinstance(driver, (str, type(None)))):
            raise ValueError(f"{quoting.show(address)} is not the address of a function")
    for what, digest in activated.items():
        if not isinstance(digest, str):
            raise TypeError(f"{quoting.show(what)} has no fingerprint")
    reboot = data.get("reboot")
    if reboot is not None:
        reboot = Reboot(str(reboot["plan"]), str(reboot["boot_id"]))
    nova: dict[str, Any] = data.get("nova") or {}
    known = Nova(
        *(str(nova.get(name, "")) for name in ("read", "deferred", "run")),
        made_directory=bool(nova.get("made_directory", False)),
    )
    return Record(taken, activated, reboot, known)


def _path(site: Site) -> Path:
    return site.root / DIRECTORY / f"{naming.check_application(site.application)}.json"
