"""What an application has taken and activated: the one state that the host does not show.

Each application has one JSON file below /var/lib/pci-passthrough. A function enters it before the
charm writes its driver_override, and leaves it after the kernel has shown the function given back,
so that the next run mends a crash in between.

The file names its format. The charm reads every older format, and its next write brings the file
forward; it refuses a newer one. Revisions up to 52ee0af know no formats: beside the record itself
the file holds two keys for them, which make them stop before they act. Later formats keep those.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from passthrough import enums, frozen, naming, pci_address
from passthrough.errors import PassthroughError
from passthrough.site import Site
from passthrough.system import files, quoting, sysfs

DIRECTORY = naming.RECORDS

# Files of format 1 do not say so: they have the record's own keys at the top, to which releases
# have added `reboot`, `nova`, and the keys of `nova`. Format 3 has added `owner`,
# `keep`, `caretaker`, `identities` and `inherited`; format 4 `variants` and `vfs`; format 5 `lent`.
# A record without a loan says format 4, which revisions that know no loans read: those would claim
# what is lent, so they read no other one. So does a record with a quarantine by an operator's hand:
# a revision that forgets it would offer Nova what somebody has taken off the offer. One that the
# charm has made is forgotten without harm: an older revision offers what is sick as it always did,
# and the next one that knows of quarantine sees for itself that it is.
# A record with an erase that has not come to its end says format 5, too: what is half erased would
# be offered.
FORMAT = 4
NEWEST = 5
_READ = (2, 3, FORMAT, NEWEST)
_SAYS_INHERITED = 3
# Left out where they are empty. `missing`, `exporter` and `shapes` came without another format: a
# revision that does not know them does all that it did, and forgets them.
_INHERITED, _VARIANTS, _VFS, _LENT = "inherited", "variants", "vfs", "lent"
_MISSING, _QUARANTINE, _DUE, _ACCEPTED = "missing", "quarantine", "due", "accepted"
_RESTARTS, _RESTARTED, _ERASING = "restarts", "restarted", "erasing"
_SET_ASIDE, _COUNTS = (_QUARANTINE, _DUE, _ACCEPTED), (_RESTARTS, _RESTARTED)
_EXPORTER, _SHAPES = "exporter", "shapes"
_OPTIONAL = (
    *(_INHERITED, _VARIANTS, _VFS, _LENT, _MISSING, _ERASING, _EXPORTER, _SHAPES),
    *(*_SET_ASIDE, *_COUNTS),
)
# Beside the record: those of its keys that stand for nothing on the host. Who gives all back may
# do so although it does not know them. A key that stands for something is never among them.
_FORGETTABLE = "forgettable"
_ARE_FORGETTABLE = (_INHERITED, _MISSING, _SHAPES, *_SET_ASIDE, *_COUNTS)
# What `Record.erasing` says: nothing is erased yet, and the controller was told to.
BEGUN, TOLD = "begun", "told"
# Of a card in ``identities``: left out but for a VF.
TYPE, VF = "type", "type-VF"

# Takes the place of a fingerprint while a rebuild runs, and stays when it fails: nobody knows then
# what the image holds, so the next run rebuilds even where the files are unchanged.
DIRTY = ""

# Of an exporter whose files are on the host, or about to be, and for which systemd does not listen.
NOT_LISTENING = "not listening"

# What stands in the place of a record and is no file, or none that a record could be.
_NO_FILE = (errno.EISDIR, errno.EINVAL, errno.EFBIG, errno.ELOOP)


class RecordError(PassthroughError):
    """The record of an application cannot be read."""


class NewerRecordError(RecordError):
    """A newer revision of the charm wrote the record, so this one does not act on it."""


class Reboot(NamedTuple):
    """A reboot that the charm has asked for.

    Attributes:
        plan: the digest of the plan that the reboot shall complete, as `reboot.key` gives it.
        boot_id: the boot that it shall end.
        asked: how often Juju was asked for it in that boot.
        stopped: whether nova-compute was stopped for it, and has to be started where it does not
            happen.
    """

    plan: str
    boot_id: str
    asked: int = 1
    stopped: bool = False


class Nova(frozen.Value):
    """What nova-compute knows of its drop-in.

    Attributes:
        read: the fingerprint of the content that it last started with; empty where it read none.
        deferred: the fingerprint of a content for which the policy layer denied a restart; empty
            where it denied none.
        run: the run of the service that goes on without that content.
        made_directory: whether the charm made nova.conf.d.
        set_aside: whether a quarantine is among what it has not read yet.
    """

    read: str = ""
    deferred: str = ""
    run: str = ""
    made_directory: bool = False
    set_aside: bool = False


class Owner(frozen.Value):
    """The one unit that looks after this host for its application.

    Attributes:
        model: the UUID of its model.
        unit: its name, such as ``pci-passthrough/0``.
        principal: the name of its principal, such as ``nova-compute/0``; empty where not known.
    """

    model: str
    unit: str
    principal: str = ""


class Caretaker(NamedTuple):
    """The caretaker that gives back what the owner leaves when it vanishes.

    Attributes:
        started: the fingerprint of its files, once its timer runs; empty before.
        filesystem: the file system that held the folders of Juju's agents, as
            `juju_agents.find_filesystem` names it.
    """

    started: str = ""
    filesystem: str = ""


class Vfs(NamedTuple):
    """The VFs that the application has a function made to have.

    Attributes:
        number: how many the function shall have.
        found: the boot in which somebody else had made just as many; they are not the
            application's to take away before the next boot. Empty where it has made them.
        autoprobe: what the function's sriov_drivers_autoprobe has to be set to again; empty where
            it is as it was.
    """

    number: int
    found: str = ""
    autoprobe: str = ""


class Loan(NamedTuple):
    """A function that an operator has lent to the host: it stays there until it is taken back.

    Attributes:
        id: ``vendor:product`` of the card.
        serial: its serial number; empty where it tells none.
        asked: the address that the operator named; others of its IOMMU group went with it, and come
            back with it.
    """

    id: str
    serial: str
    asked: str


class Quarantine(NamedTuple):
    """A function that is not offered to Nova although it is claimed.

    Times are seconds since the epoch, of the clock that an operator reads.

    Attributes:
        id: ``vendor:product`` of the card.
        serial: its serial number; empty where it tells none.
        why: what makes it sick, a value of `planning.health.Kind`; empty where an operator took it
            off the offer by hand, and brings it back.
        since: since when.
        well_since: since when it is well; 0 while it is not.
        accepted: how many fatal errors an operator has accepted by bringing it back.
        boot: the boot in which it was last seen to be sick.
        companion: the companion of it that is sick; empty where it is so itself.
    """

    id: str
    serial: str
    why: str
    since: int
    well_since: int = 0
    accepted: int = 0
    boot: str = ""
    companion: str = ""


class Shape(NamedTuple):
    """How a claimed function was when it was last there.

    Attributes:
        modalias: its modalias, which names vendor, product and class.
        companion_of: the function that it accompanies; empty for none.
        device_type: what Nova calls it, such as ``type-PF``.
        native: the driver that had it before, as in ``taken``; empty for none.
        variant: the variant that it was to have, as in ``variants``; empty for none.
    """

    modalias: str
    companion_of: str = ""
    device_type: str = ""
    native: str = ""
    variant: str = ""


class Record(frozen.Value):
    """What one application has done to this host.

    Attributes:
        taken: the address of every function that it took → the driver that had the function
            before, or None.
        activated: ``initramfs`` and ``grub`` → the fingerprint of the files that the last
            successful rebuild took in, or DIRTY.
        reboot: the last reboot that it asked for.
        nova: what became of the drop-in for nova-compute.
        owner: the unit that looks after all of it; None where a revision that named no owner wrote
            the record, or where the owner left and kept everything in place.
        keep: whether everything stays in place when the owner goes, as on-removal asks.
        caretaker: who looks after all of it once the owner has vanished.
        identities: the address of every function in ``taken`` → the card there: its ``id``, and its
            ``serial`` where it tells one, and for a VF its ``type``.
        inherited: the addresses among ``taken`` that a revision took whose items claimed more: an
            item with a device type claimed the other types, too. It changes nothing by itself, so
            two records that differ in it are alike.
        variants: the addresses among ``taken`` for which the kernel is asked for a variant of
            vfio-pci, now or at the next boot → the variant's module.
        vfs: the address of every function that stays with the host and has VFs made → those.
        lent: the address of every function that is lent to the host → the loan. None of them is in
            ``taken``, but for one that is about to be given back.
        missing: the address of every function that it had taken and that is not there any more,
            while an item still asks for it → the card that was there, as in ``identities``.
        quarantine: the address of every function that is kept off Nova's offer → why.
        due: the address of every function that was seen to be sick and is offered still, until no
            guest has it and nova-compute may be restarted → as in ``quarantine``.
        accepted: the address of every function that an operator has brought back although the
            kernel still counts fatal errors of it → as in ``quarantine``.
        restarts: how often nova-compute was restarted for a quarantine.
        restarted: when what it is offered last changed for one, in seconds since the epoch.
        exporter: the fingerprint of the exporter's files, once systemd listens for it;
            NOT_LISTENING before, and empty where there is none.
        erasing: the address of every function whose erase has not come to its end → how far it has
            come, BEGUN or TOLD. None of them is offered to Nova.
        shapes: the address of every claimed function but VFs, there or away → how it was, so that
            the boot files can keep it. As ``inherited``, it changes nothing by itself.
    """

    taken: Mapping[str, str | None] = frozen.field(default_factory=dict[str, str | None])
    activated: Mapping[str, str] = frozen.field(default_factory=dict[str, str])
    reboot: Reboot | None = None
    nova: Nova = frozen.field(default_factory=Nova)
    owner: Owner | None = None
    keep: bool = False
    caretaker: Caretaker = frozen.field(default_factory=Caretaker)
    identities: Mapping[str, Mapping[str, str]] = frozen.field(
        default_factory=dict[str, Mapping[str, str]]
    )
    inherited: frozenset[str] = frozen.field(default=frozenset(), compare=False)
    variants: Mapping[str, str] = frozen.field(default_factory=dict[str, str])
    vfs: Mapping[str, Vfs] = frozen.field(default_factory=dict[str, Vfs])
    lent: Mapping[str, Loan] = frozen.field(default_factory=dict[str, Loan])
    missing: Mapping[str, Mapping[str, str]] = frozen.field(
        default_factory=dict[str, Mapping[str, str]]
    )
    quarantine: Mapping[str, Quarantine] = frozen.field(default_factory=dict[str, Quarantine])
    due: Mapping[str, Quarantine] = frozen.field(default_factory=dict[str, Quarantine])
    accepted: Mapping[str, Quarantine] = frozen.field(default_factory=dict[str, Quarantine])
    restarts: int = 0
    restarted: int = 0
    exporter: str = ""
    erasing: Mapping[str, str] = frozen.field(default_factory=dict[str, str])
    shapes: Mapping[str, Shape] = frozen.field(default_factory=dict[str, Shape], compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is taken, made or activated, and nothing is to be remembered.

        Nobody has to look after nothing, so neither the owner nor the caretaker counts.
        """
        kept = self.reboot or self.missing or self.quarantine or self.exporter or self.erasing
        return not (self.has_host or kept) and self.nova == Nova()

    @property
    def has_host(self) -> bool:
        """Whether anything of the host itself is taken, made, activated or lent."""
        return bool(self.taken or self.activated or self.vfs or self.lent)


class Ledger:
    """The one writer of an application's record; `open` gives it.

    Each method returns once its step is on the disk, so that the next effect can rely on it.
    """

    def __init__(self, site: Site):
        self.site = site
        self._present = read(site)

    @property
    def present(self) -> Record:
        """What the record holds now."""
        return self._present

    def enter(
        self,
        taken: Mapping[str, str | None],
        rebuilds: Iterable[str],
        variants: Mapping[str, str] | None = None,
        vfs: Mapping[str, Vfs] | None = None,
    ) -> None:
        """Record functions before they are touched, and rebuilds before they run.

        Args:
            taken: address → the driver that has the function, or None.
            rebuilds: what is about to be rebuilt, which makes it DIRTY.
            variants: address → the variant that the kernel is about to be asked for.
            vfs: address → the VFs that a boot unit is about to be written for.

        Raises:
            OSError: as `put`.
        """
        unknown = dict.fromkeys(rebuilds, DIRTY)
        self.update(
            taken={**self._present.taken, **taken},
            activated={**self._present.activated, **unknown},
            variants={**self._present.variants, **(variants or {})},
            vfs={**self._present.vfs, **(vfs or {})},
        )

    def rebuilt(self, what: str, digest: str | None) -> None:
        """Record that a rebuild is done.

        Args:
            what: what was rebuilt.
            digest: the fingerprint of the files that it took in; None where none feeds it any more.

        Raises:
            OSError: as `put`.
        """
        activated = {key: value for key, value in self._present.activated.items() if key != what}
        self.update(activated=activated if digest is None else {**activated, what: digest})

    def update(self, **changes: Any) -> None:
        """Record new values for some of the fields of `Record`, by their names.

        Raises:
            OSError: as `put`.
        """
        self.put(frozen.replace(self._present, **changes))

    def put(self, record: Record) -> bool:
        """Store a whole record; an empty one removes the file.

        Returns:
            True if anything changed.

        Raises:
            OSError: when the record cannot be stored; `present` stays what it was.
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
    """Read an application's record; an empty one where it has none.

    Raises:
        RecordError: when the file is there and no `Ledger` wrote it.
        NewerRecordError: when a newer revision of the charm wrote it.
        OSError: when it is there and cannot be read.
    """
    try:
        return _load(site)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise _unreadable(site, str(error.strerror)) from error


def find_unknown(site: Site) -> tuple[str, ...]:
    """Name what an application's record holds that this revision does not know.

    Left out is what the revision that wrote it calls forgettable: it stands for nothing on the
    host, so that giving everything back is whole without it.

    Raises:
        RecordError: as `read`.
        OSError: when it is there and cannot be read.
    """
    present = files.read(_path(site))
    if present is None or read(site).is_empty:
        return ()
    data = json.loads(present.content)
    held = data.get("record", data)
    named = data.get(_FORGETTABLE)
    forgettable = cast("list[Any]", named) if isinstance(named, list) else []
    known = {*_spell_out(Record()), *_OPTIONAL, *map(str, forgettable)}
    strange = [*(held.keys() - known), *(held["activated"].keys() - set(enums.Rebuild))]
    return tuple(sorted(map(str, strange)))


def read_others(site: Site, lives: Callable[[str], bool]) -> dict[str, Record]:
    """Read the records of the host's other applications of this charm, by their names.

    What else somebody has put into the folder, such as a broken record moved aside, is nobody's:
    a file whose name no application can have, a damaged one of an application without a trace, or
    a copy of another application's, by the unit that it names.

    Args:
        site: where; its application is left out.
        lives: whether an application of this name has a file of the charm's on the host.

    Raises:
        RecordError: as `read`.
        OSError: when one of them cannot be read, or is no file.
    """
    found: dict[str, Record] = {}
    for name in _applications(site.root):
        if name == site.application:
            continue
        try:
            other = _load(Site(site.root, name))
        except NewerRecordError:
            raise
        except RecordError:
            if lives(name):
                raise
            continue
        if other.owner is None or other.owner.unit.partition("/")[0] == name:
            found[name] = other
    return found


def taken_by(others: Mapping[str, Record]) -> dict[str, str]:
    """Map every address that another application has taken to that application's name.

    An application without boot files bars nobody: it was removed, or asks for nothing any more, and
    only waits until a guest no longer holds what it took.

    Args:
        others: the records of the other applications, by their names.
    """
    return {
        address: name
        for name, other in others.items()
        if other.activated
        for address in other.taken
    }


def lent_by(others: Mapping[str, Record]) -> dict[str, str]:
    """Map every address that another application has lent to the host to that application's name.

    An application whose unit has left looks after none of it any more.

    Args:
        others: the records of the other applications, by their names.
    """
    return {
        address: name
        for name, other in others.items()
        if other.owner is not None
        for address in other.lent
    }


def lent_on(root: Path) -> dict[str, str]:
    """Map every address that is lent to a host to the application that lends it.

    For looking: what cannot be read tells of none.
    """
    found: dict[str, Record] = {}
    for name in _applications(root):
        with contextlib.suppress(RecordError, OSError):
            found[name] = read(Site(root, name))
    return lent_by(found)


def _applications(root: Path) -> list[str]:
    """The applications that may have a record, by the files' names."""
    paths = sysfs.paths_if_there(root / DIRECTORY, "*.json")
    names = (os.path.basename(path).removesuffix(".json") for path in paths)
    return [name for name in names if naming.is_application(name)]


def _load(site: Site) -> Record:
    present = files.read(_path(site))
    if present is None:
        return Record()
    try:
        data = json.loads(present.content)
        if "format" not in data:
            return _parse(data, inherits=True)
        found = data["format"]
        if type(found) is int and found > NEWEST:
            raise NewerRecordError(
                f"/{_path(site).relative_to(site.root)} is in format {found}, of a newer revision"
                " of this charm",
                f"this one reads up to {NEWEST}, so it does nothing to the host: refresh the charm"
                " to that revision, and leave the file in place",
            )
        if type(found) is not int or found not in _READ:
            raise ValueError(f"{quoting.show(found)} is no format")
        return _parse(data["record"], inherits=found < _SAYS_INHERITED)
    except KeyError as error:
        raise _unreadable(site, f"it has no {error}") from error
    except (ValueError, OverflowError) as error:
        raise _unreadable(site, str(error) if present.content else "it is empty") from error
    except (TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(site, "it holds something else than a record") from error


def _unreadable(site: Site, reason: str) -> RecordError:
    return RecordError(
        f"/{_path(site).relative_to(site.root)} is not readable ({reason}); move it away, and what"
        " it held is found again from the configuration"
    )


def _spell(record: Record) -> dict[str, object]:
    """Spell out the file's content."""
    by_hand = any(not each.why for each in record.quarantine.values())
    number = NEWEST if record.lent or by_hand or record.erasing else FORMAT
    # 52ee0af shows this between "is not readable (" and ")": at most 58 characters of a name that
    # is no address.
    refusal = f"format {number} of a newer charm: refresh, and leave it in place"
    for_first_release = {"taken": {refusal: None}, "activated": {}}
    spelled = _spell_out(record)
    forgettable = [name for name in _ARE_FORGETTABLE if name in spelled]
    beside = {_FORGETTABLE: forgettable} if forgettable else {}
    return {"format": number, "record": spelled, **beside, **for_first_release}


def _spell_out(record: Record) -> dict[str, object]:
    """Spell out a record; the names of the fields of `Record` are no part of it."""
    reboot, nova, owner = record.reboot, record.nova, record.owner
    spelled: dict[str, object] = {
        "taken": dict(record.taken),
        "activated": dict(record.activated),
        "reboot": _spell_reboot(reboot) if reboot else None,
        "nova": {
            "read": nova.read,
            "deferred": nova.deferred,
            "run": nova.run,
            "made_directory": nova.made_directory,
            **({"set_aside": True} if nova.set_aside else {}),
        },
        "owner": (
            {"model": owner.model, "unit": owner.unit, "principal": owner.principal}
            if owner
            else None
        ),
        "keep": record.keep,
        "caretaker": {
            "started": record.caretaker.started,
            "filesystem": record.caretaker.filesystem,
        },
        "identities": {
            address: dict(known)
            for address, known in record.identities.items()
            if address in record.taken or address in record.vfs
        },
    }
    if record.inherited:
        spelled[_INHERITED] = sorted(record.inherited)
    if record.variants:
        spelled[_VARIANTS] = dict(record.variants)
    if record.missing:
        spelled[_MISSING] = {address: dict(card) for address, card in record.missing.items()}
    for name in (_VFS, _LENT, _SHAPES, *_SET_ASIDE):
        found: Mapping[str, Vfs | Loan | Shape | Quarantine] = getattr(record, name)
        if found:
            spelled[name] = {address: each._asdict() for address, each in found.items()}
    for name in (*_COUNTS, _EXPORTER, _ERASING):
        if getattr(record, name):
            spelled[name] = getattr(record, name)
    return spelled


def _spell_reboot(reboot: Reboot) -> dict[str, object]:
    """Spell out a reboot; what is as it usually is has no key."""
    spelled: dict[str, object] = {"plan": reboot.plan, "boot_id": reboot.boot_id}
    if reboot.asked != 1:
        spelled["asked"] = reboot.asked
    if reboot.stopped:
        spelled["stopped"] = True
    return spelled


def _parse(data: Any, *, inherits: bool = True) -> Record:
    """Parse a record; ``inherits`` tells that all it took was taken by an earlier rule."""
    taken, activated = dict(data["taken"]), dict(data["activated"])
    for address, driver in taken.items():
        if not (pci_address.is_exact(address) and isinstance(driver, (str, type(None)))):
            raise ValueError(f"{quoting.show(address)} is not the address of a function")
    for what, digest in activated.items():
        if not isinstance(digest, str):
            raise ValueError(f"{quoting.show(what)} has no fingerprint")
    reboot = data.get("reboot")
    if reboot is not None:
        reboot = Reboot(
            str(reboot["plan"]),
            str(reboot["boot_id"]),
            int(reboot.get("asked", 1)),
            stopped=reboot.get("stopped", False) is True,
        )
    nova: dict[str, Any] = data.get("nova") or {}
    known = Nova(
        *(str(nova.get(name, "")) for name in ("read", "deferred", "run")),
        made_directory=bool(nova.get("made_directory", False)),
        set_aside=nova.get("set_aside", False) is True,
    )
    owner = data.get("owner")
    if owner is not None:
        owner = Owner(
            str(owner["model"]),
            naming.check_unit(owner["unit"]),
            naming.check_unit(owner["principal"]) if owner["principal"] else "",
        )
    watcher: dict[str, Any] = data.get("caretaker") or {}
    vfs = {address: _parse_vfs(address, each) for address, each in data.get(_VFS, {}).items()}
    return Record(
        taken,
        activated,
        reboot,
        known,
        owner,
        data.get("keep", False) is True,
        Caretaker(*(str(watcher.get(name, "")) for name in ("started", "filesystem"))),
        {
            address: _parse_card(card)
            for address, card in dict(data.get("identities") or {}).items()
            if address in taken or address in vfs
        },
        frozenset(map(str, taken if inherits else data.get(_INHERITED, ()))),
        {
            address: str(module)
            for address, module in dict(data.get(_VARIANTS) or {}).items()
            if address in taken
        },
        vfs,
        {address: _parse_loan(address, each) for address, each in data.get(_LENT, {}).items()},
        {
            address: _parse_card(card)
            for address, card in dict(data.get(_MISSING) or {}).items()
            if pci_address.is_exact(address)
        },
        *(_parse_quarantines(data.get(name, {})) for name in _SET_ASIDE),
        restarts=_parse_number(data.get(_RESTARTS, 0)),
        restarted=_parse_number(data.get(_RESTARTED, 0)),
        exporter=str(data.get(_EXPORTER, "")),
        erasing=_parse_erasing(data.get(_ERASING, {})),
        shapes={
            address: Shape(*(str(shape.get(name, "")) for name in Shape._fields))
            for address, shape in dict(data.get(_SHAPES) or {}).items()
            if pci_address.is_exact(address)
        },
    )


def _parse_quarantines(data: Any) -> dict[str, Quarantine]:
    return {address: _parse_quarantine(address, each) for address, each in data.items()}


def _parse_quarantine(address: str, data: Any) -> Quarantine:
    _check_address(address)
    return Quarantine(
        str(data["id"]),
        str(data["serial"]),
        str(data["why"]),
        _parse_number(data["since"]),
        _parse_number(data.get("well_since", 0)),
        _parse_number(data.get("accepted", 0)),
        str(data.get("boot", "")),
        str(data.get("companion", "")),
    )


def _check_address(address: str) -> None:
    if not pci_address.is_exact(address):
        raise ValueError(f"{quoting.show(address)} is not the address of a function")


def _parse_number(data: Any) -> int:
    if type(data) is not int or data < 0:
        raise ValueError(f"{quoting.show(data)} is no number")
    return data


def _parse_erasing(data: Any) -> dict[str, str]:
    for address in data:
        _check_address(address)
    return {address: str(step) for address, step in data.items()}


def _parse_loan(address: str, data: Any) -> Loan:
    loan = Loan(str(data["id"]), str(data["serial"]), str(data["asked"]))
    if not (pci_address.is_exact(address) and pci_address.is_exact(loan.asked)):
        raise ValueError(f"{quoting.show(address)} is not the address of a function")
    return loan


def _parse_card(data: Any) -> dict[str, str]:
    card = {"id": str(data["id"]), "serial": str(data["serial"])}
    return {**card, TYPE: VF} if data.get(TYPE) == VF else card


def _parse_vfs(address: str, data: Any) -> Vfs:
    found = Vfs(data["number"], str(data.get("found", "")), str(data.get("autoprobe", "")))
    if not pci_address.is_exact(address) or type(found.number) is not int:
        raise ValueError(f"{quoting.show(address)} is not a function with a number of VFs")
    if found.autoprobe not in ("", "0", "1"):
        raise ValueError(f"{quoting.show(found.autoprobe)} is no value of sriov_drivers_autoprobe")
    return found


def _path(site: Site) -> Path:
    return site.root / DIRECTORY / f"{naming.check_application(site.application)}.json"
