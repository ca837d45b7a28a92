"""Erase the namespaces of an NVMe controller that the host's driver has, and read them back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from passthrough import frozen
from passthrough.errors import PassthroughError
from passthrough.host import disks, held_disks, pci
from passthrough.planning import erasure
from passthrough.planning.erasure import Method
from passthrough.system import direct_read, nvme_admin, sysfs

# Seconds. A controller is asked anew every so often; one that comes up takes a few.
_PAUSE, _COMES_UP = 1.0, 60.0
_TELLS_EVERY = 60.0
# Seconds to sanitize: this many times what the controller estimates and no less than the first;
# the second where it estimates nothing. It goes on by itself, beyond a limit, too.
_LEAST, _UNESTIMATED, _TIMES = 600.0, 4 * 3600.0, 4
# How much is read back of each namespace, at how many places.
_SAMPLE, _SAMPLES = 65536, 64
_BLANK = {0x00: "zeroes", 0xFF: "ones"}


class EraseError(PassthroughError):
    """A controller cannot be erased, or has not been."""


class Means(frozen.Value):
    """How the eraser reaches a disk; tests have means of their own.

    Attributes:
        connect: opens a controller's node.
        read: reads a part of a namespace's node.
        sleep: waits so many seconds.
        clock: the seconds since some moment.
    """

    connect: Callable[[Path, str], contextlib.AbstractContextManager[nvme_admin.Send]] = (
        nvme_admin.connect
    )
    read: Callable[[Path, int, int], bytes] = direct_read.read
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic


HOST = Means()


class Part(NamedTuple):
    """A namespace: what its controller tells of it, and its block device."""

    told: nvme_admin.Namespace
    device: Path


class Disk(NamedTuple):
    """An NVMe controller on the host's driver, which nobody else has.

    Attributes:
        send: sends it admin commands.
        controller: what it tells of itself.
        method: how it is erased.
        parts: its namespaces.
    """

    send: nvme_admin.Send
    controller: nvme_admin.Controller
    method: Method
    parts: Sequence[Part]


class Seen(NamedTuple):
    """What was read back of a namespace: how many samples were of which kind.

    Attributes:
        samples: how many there were.
        counts: how many were ``zeroes``, ``ones``, or ``other`` than before.
        wrong: how many were as before, or cannot be told.
    """

    samples: int
    counts: Mapping[str, int]
    wrong: int


@contextlib.contextmanager
def opened(root: Path, address: str, means: Means) -> Generator[Disk]:
    """Have a controller to erase while the block runs, its disks kept from everybody.

    Args:
        root: the host's root.
        address: the function, which is on the driver nvme.
        means: how to reach it.

    Raises:
        EraseError: when it cannot be erased; nothing of it was.
        NvmeError: when it does not answer.
        OSError: when it cannot be opened.
    """
    name = _find_controller(root, address, means)
    place = root / pci.DEVICES / address / "nvme" / name
    number = sysfs.attribute_if_there(place / "dev") or ""
    with means.connect(root / "dev" / name, number) as send:
        controller = nvme_admin.parse_controller(send(nvme_admin.identify(nvme_admin.CONTROLLER)))
        for attribute, told in (("model", controller.model), ("serial", controller.serial)):
            shown = sysfs.attribute_if_there(place / attribute)
            if shown is not None and shown.strip() != told:
                raise EraseError(f"/dev/{name} says {attribute} {told}, and the kernel {shown}")
        _wait_for_former(send, controller, means)
        namespaces = [
            nvme_admin.parse_namespace(
                each, send(nvme_admin.identify(nvme_admin.NAMESPACE, nsid=each))
            )
            for each in nvme_admin.parse_namespaces(send(nvme_admin.identify(nvme_admin.ACTIVE)))
        ]
        method = erasure.choose(_ask(send, controller, namespaces))
        if isinstance(method, erasure.Objection):
            raise EraseError(*method)
        known, devices = _find_devices(root, address, namespaces, means)
        with held_disks.hold(root, known, address) as uses:
            if uses:
                raise EraseError("; ".join(each.what for each in uses), "free it first")
            parts = [Part(each, devices[each.id]) for each in namespaces]
            yield Disk(send, controller, method, parts)


def erase(disk: Disk, means: Means, report: Callable[[str], object]) -> None:
    """Erase every namespace, and wait until the controller says that it is done.

    Args:
        disk: the controller.
        means: how to wait.
        report: takes a sentence about how far it is, now and then.

    Raises:
        EraseError: when the controller says that it failed, or is not done in time.
        NvmeError: when it refuses.
    """
    if disk.method.is_sanitize:
        by_block = disk.method is Method.SANITIZE_BLOCK
        action = nvme_admin.BLOCK_ERASE if by_block else nvme_admin.CRYPTO_ERASE
        disk.send(nvme_admin.sanitize(action))
        _wait_for_sanitize(disk.send, means, report)
        return
    for part in disk.parts:
        request = nvme_admin.format_nvm(part.told)
        _send_long(disk.send, request, report)
        report(f"namespace {part.told.id}: formatted")


def sample(disk: Disk, means: Means) -> dict[int, list[bytes | None]]:
    """Read samples of every namespace: the first, the last, and some spread between.

    Returns:
        The number of each namespace → its samples; None for one that cannot be read.
    """
    return {
        part.told.id: [
            _read(part.device, offset, length, means) for offset, length in _places(part.told.bytes)
        ]
        for part in disk.parts
    }


def compare(before: Sequence[bytes | None], after: Sequence[bytes | None]) -> Seen:
    """Compare the samples of a namespace."""
    counts = dict.fromkeys((*_BLANK.values(), "other"), 0)
    wrong = 0
    for then, now in zip(before, after, strict=True):
        kind = next((_BLANK[each] for each in _BLANK if now == bytes([each]) * len(now or b"")), "")
        if now and kind:
            counts[kind] += 1
        elif now and then and now != then:
            counts["other"] += 1
        else:
            wrong += 1
    return Seen(len(after), counts, wrong)


def _ask(
    send: nvme_admin.Send,
    controller: nvme_admin.Controller,
    namespaces: Sequence[nvme_admin.Namespace],
) -> erasure.Told:
    """Ask what only some controllers tell; one that refuses tells nothing."""

    def ask(request: nvme_admin.Request) -> bytes | None:
        try:
            return send(request)
        except nvme_admin.NvmeError:
            return None

    others = ask(nvme_admin.identify(nvme_admin.CONTROLLERS))
    allocated = ask(nvme_admin.identify(nvme_admin.ALLOCATED))
    return erasure.Told(
        controller,
        None if others is None else nvme_admin.parse_controllers(others),
        namespaces,
        None if allocated is None else nvme_admin.parse_namespaces(allocated),
    )


def _find_controller(root: Path, address: str, means: Means) -> str:
    """Find the controller of a function once it is live."""
    folder = root / pci.DEVICES / address / "nvme"
    state: str | None = None
    end = means.clock() + _COMES_UP
    while True:
        for name in sysfs.names_if_there(folder):
            state = sysfs.attribute_if_there(folder / name / "state")
            if state == "live":
                return name
        if means.clock() >= end:
            raise EraseError(
                f"its controller does not come up (state {state or 'none'})", "see dmesg"
            )
        means.sleep(_PAUSE)


def _find_devices(
    root: Path, address: str, namespaces: Sequence[nvme_admin.Namespace], means: Means
) -> tuple[disks.Disks, dict[int, Path]]:
    """Find the block device of each namespace; the kernel makes them behind the controller."""
    end = means.clock() + _COMES_UP
    while True:
        known = disks.read(root)
        found: dict[int, Path] = {}
        for name in known.numbers.values():
            if address in known.own[name] and known.whole(name) == name:
                nsid = sysfs.attribute_if_there(root / disks.BLOCK / name / "nsid") or ""
                if nsid.isdecimal():
                    found[int(nsid)] = root / "dev" / name
        missing = [str(each.id) for each in namespaces if each.id not in found]
        if not missing:
            return known, found
        if means.clock() >= end:
            raise EraseError(
                f"the kernel gives namespace {', '.join(missing)} no block device, so it cannot be"
                " read back",
                "see dmesg",
            )
        means.sleep(_PAUSE)


def _wait_for_former(
    send: nvme_admin.Send, controller: nvme_admin.Controller, means: Means
) -> None:
    """Wait for a sanitize that a run before has begun: a controller takes little else meanwhile."""
    if controller.sanitizes_by_block or controller.sanitizes_by_key:
        now = nvme_admin.parse_sanitizing(send(nvme_admin.sanitize_status()))
        if now.runs:
            _wait_for_sanitize(send, means, lambda sentence: None)


def _wait_for_sanitize(
    send: nvme_admin.Send, means: Means, report: Callable[[str], object]
) -> None:
    started = told = means.clock()
    while True:
        now = nvme_admin.parse_sanitizing(send(nvme_admin.sanitize_status()))
        if not now.runs:
            break
        estimates = [each for each in (now.block_seconds, now.key_seconds) if each]
        limit = max(_LEAST, _TIMES * max(estimates)) if estimates else _UNESTIMATED
        spent = means.clock() - started
        if spent > limit:
            raise EraseError(
                f"it is not done after {spent:.0f} s, at {now.share:.0%}; the controller goes on"
            )
        if means.clock() - told >= _TELLS_EVERY:
            told = means.clock()
            report(f"sanitize: {now.share:.0%} after {spent:.0f} s")
        means.sleep(_PAUSE)
    if not now.is_done:
        raise EraseError("the controller says that sanitize failed")


def _send_long(
    send: nvme_admin.Send, request: nvme_admin.Request, report: Callable[[str], object]
) -> None:
    """Send what the controller answers only when it is done, and tell meanwhile that it goes on."""
    errors: list[Exception] = []

    def work() -> None:
        try:
            send(request)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="format")
    thread.start()
    spent = 0.0
    while True:
        thread.join(_TELLS_EVERY)
        if not thread.is_alive():
            break
        spent += _TELLS_EVERY
        report(f"namespace {request.nsid}: formatting for {spent:.0f} s")
    if errors:
        raise errors[0]


def _places(size: int) -> list[tuple[int, int]]:
    """The samples of a namespace of so many bytes: where each begins, and its bytes."""
    length = min(_SAMPLE, size)
    most = size - length
    count = min(_SAMPLES, size // length) if length else 0
    steps = max(count - 1, 1)
    # Down to a whole sample, which is one of whole blocks; the last one ends with the namespace.
    starts = [most * step // steps // _SAMPLE * _SAMPLE for step in range(count - 1)]
    return [(start, length) for start in (*starts, most)] if count else []


def _read(device: Path, offset: int, length: int, means: Means) -> bytes | None:
    try:
        return means.read(device, offset, length)
    except (OSError, OverflowError):  # of the latter, what a controller says of its size is no size
        return None
