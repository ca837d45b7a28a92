"""One status from the facts, the most urgent thing first, in words an operator can act on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from harness import made
from harness.constants import GPUS

from passthrough import errors
from passthrough.host import grub, machine
from passthrough.host.guests import Guest
from passthrough.problem import Kind, Problem
from passthrough.reboot import Action, Verdict
from passthrough.reporting import status
from passthrough.reporting.status import Status
from passthrough.state.record import Record

OFF = Problem(Kind.IOMMU_IS_OFF, "it is off")


def bound(*buses: str):
    return made.gpus(*buses, group=15, driver="vfio-pci", override="vfio-pci")


def of(devices: str, *functions, failed=None, verdict=None, config=None, **values) -> Status:
    decision = made.decision(made.wanted(devices, **(config or {})), *functions, **values)
    return status.summarize(decision, failed, verdict)


PAIR = [*bound("83"), *made.gpus("84", group=16)]
# Somebody else's settings, read after ours, have thrown our option out of grub.cfg.
SPOILED = dataclasses.replace(
    made.IOMMU_ON,
    grub=grub.Grub(
        entry=grub.Entry("Ubuntu", ("quiet",)),
        settings={"etc/default/grub.d/99-x.cfg": "GRUB_CMDLINE_LINUX_DEFAULT=quiet\n"},
    ),
)


def settled(facts: machine.Platform) -> dict[str, Any]:
    """What `made.survey` takes for a host on which everything was applied."""
    return made.applied(made.decision(made.wanted("gpu=10de:1bb0@83:00.0"), *PAIR, machine=facts))


NIC = made.function("0000:3b:00.0", "8086:1572", made.ETHERNET, driver="i40e", group=30)
SECOND_NIC = dataclasses.replace(NIC, address="0000:3b:00.1")
NOT_GIVEN_BACK = partial(
    of, "", *bound("83")[:1], record=Record({"0000:83:00.0": "nouveau"}), machine=made.IOMMU_ON
)

CASES = {
    "not-set": (
        partial(of, "", NIC),
        Status(
            status.Kind.BLOCKED, "devices is not set: run list-devices, then juju config devices=…"
        ),
    ),
    "no-match": (partial(of, GPUS, NIC), Status(status.Kind.ACTIVE, "no matching device")),
    "reboot": (
        partial(of, GPUS, *made.gpus("83", "84")),
        Status(
            status.Kind.BLOCKED,
            "reboot required: the IOMMU is off until the kernel starts with intel_iommu=on",
        ),
    ),
    "reboot-for-two-reasons": (
        partial(of, GPUS, *made.gpus("83", "84"), config={"iommu_passthrough": True}),
        Status(
            status.Kind.BLOCKED,
            "reboot required: the IOMMU is off until the kernel starts with intel_iommu=on"
            " (1 more: run the plan action)",
        ),
    ),
    "kept-option": (
        partial(
            of,
            "10de:1bb0",
            *bound("83"),
            machine=dataclasses.replace(made.IOMMU_ON, command_line=("intel_iommu=on", "a=b")),
            config={"kernel_options": "a=b"},
            record=Record(activated={"grub": "x"}),
        ),
        Status(
            status.Kind.ACTIVE,
            "10de:1bb0: 1 ready; kernel-options: a=b is taken no more, and stays while it is set:"
            " move it into a file of your own in /etc/default/grub.d",
        ),
    ),
    "reboot-for-an-option": (
        partial(
            of, "10de:1bb0", *bound("83"), machine=made.IOMMU_ON, config={"kernel_options": "nosmt"}
        ),
        Status(status.Kind.BLOCKED, "reboot required: the running kernel lacks nosmt"),
    ),
    "not-bound": (
        partial(of, GPUS, *bound("83"), *made.gpus("84", group=16), machine=made.IOMMU_ON),
        Status(
            status.Kind.BLOCKED,
            "reboot required: 0000:84:00.0 is on nouveau, not vfio-pci (1 more: run the plan"
            " action)",
        ),
    ),
    "not-given-back": (
        NOT_GIVEN_BACK,
        Status(status.Kind.BLOCKED, "reboot required: 0000:83:00.0 is on vfio-pci, not nouveau"),
    ),
    "not-given-back-to-whom": (
        partial(
            of, "", *bound("83")[:1], record=Record({"0000:83:00.0": None}), machine=made.IOMMU_ON
        ),
        Status(
            status.Kind.BLOCKED,
            "reboot required: 0000:83:00.0 is on vfio-pci, not its native driver",
        ),
    ),
    "refused": (
        partial(of, "gpu=10de:1bb0@3b:00.0", NIC),
        Status(
            status.Kind.BLOCKED,
            "devices: item 1 gpu=10de:1bb0@0000:3b:00.0: 0000:3b:00.0 holds 8086:1572, not"
            " 10de:1bb0; correct the id or the address",
        ),
    ),
    "refused-before-reboot": (
        partial(of, "gpu=10de:1bb0, x=0001:0002@3b:00.0", NIC, *made.gpus("83")),
        Status(
            status.Kind.BLOCKED,
            "devices: item 2 x=0001:0002@0000:3b:00.0: 0000:3b:00.0 holds 8086:1572, not"
            " 0001:0002; correct the id or the address",
        ),
    ),
    "refused-twice": (
        partial(of, "a=10de:1bb0@3b:00.0, b=10de:1bb0@3b:00.1", NIC, SECOND_NIC),
        Status(
            status.Kind.BLOCKED,
            "devices: item 1 a=10de:1bb0@0000:3b:00.0: 0000:3b:00.0 holds 8086:1572, not"
            " 10de:1bb0; correct the id or the address (1 more: run the plan action)",
        ),
    ),
    "held": (
        partial(
            NOT_GIVEN_BACK,
            failed={"0000:83:00.0": errors.InUseError("0000:83:00.0", "a guest holds it")},
        ),
        Status(status.Kind.BLOCKED, "0000:83:00.0: a guest holds it"),
    ),
    "held-before-anything-was-tried": (
        partial(
            of,
            "",
            *bound("83")[:1],
            record=Record({"0000:83:00.0": "nouveau"}, {"initramfs": "x"}),
            machine=made.IOMMU_ON,
            held={"0000:83:00.0": (4711, 4712)},
        ),
        Status(
            status.Kind.BLOCKED,
            "0000:83:00.0: a guest holds it (process 4711, 4712), and it is given back when that"
            " guest is gone; stop or migrate the guest",
        ),
    ),
    "grub-spoiled": (
        lambda: of("gpu=10de:1bb0@83:00.0", *PAIR, machine=SPOILED, **settled(SPOILED)),
        Status(
            status.Kind.BLOCKED,
            "/boot/grub/grub.cfg boots 'Ubuntu' without intel_iommu=on;"
            " /etc/default/grub.d/99-x.cfg sets GRUB_CMDLINE_LINUX_DEFAULT outright and is read"
            " after /etc/default/grub.d/95-pci-passthrough.cfg; let it begin with"
            " $GRUB_CMDLINE_LINUX_DEFAULT, then run update-grub",
        ),
    ),
    "reboots-by-itself": (
        partial(
            of,
            GPUS,
            *made.gpus("83", "84"),
            verdict=Verdict(Action.WAIT, (OFF,), guests=(Guest(4711, "vm"),)),
        ),
        Status(
            status.Kind.WAITING,
            "reboot when no guest runs, and now vm (process 4711) does; it is off",
        ),
    ),
    "reboot-was-in-vain": (
        partial(
            of,
            GPUS,
            *made.gpus("83", "84"),
            verdict=Verdict(Action.SPENT, (OFF,), unmet=(OFF, OFF)),
        ),
        Status(
            status.Kind.BLOCKED,
            "the reboot did not help: it is off; it is off; run verify, then reboot by hand",
        ),
    ),
    "override-is-shown": (
        partial(
            of,
            "- {id: 10de:1bb0, alias: gpu, allow-in-use: true}",
            *bound("83"),
            machine=made.IOMMU_ON,
        ),
        Status(status.Kind.ACTIVE, "gpu: 1 ready; allow-in-use: 0000:83:00.0, 0000:83:00.1"),
    ),
    "ready": (
        partial(of, GPUS, *bound("83", "84"), machine=made.IOMMU_ON),
        Status(status.Kind.ACTIVE, "gpu: 2 ready"),
    ),
    "ready-by-alias": (
        partial(
            of,
            "gpu=10de:1bb0 10de:10f0@01:00.1 nic=8086:1572",
            *bound("83", "84"),
            dataclasses.replace(NIC, driver="vfio-pci", override="vfio-pci"),
            made.audio("0000:01:00.1", driver="vfio-pci", override="vfio-pci", group=40),
            machine=made.IOMMU_ON,
        ),
        Status(status.Kind.ACTIVE, "10de:10f0: 1 ready, gpu: 2 ready, nic: 1 ready"),
    ),
    "ready-of-two-items": (
        partial(
            of, "gpu=10de:1bb0@83:00.0, gpu=10de:1bb0@99:00.0", *bound("83"), machine=made.IOMMU_ON
        ),
        Status(status.Kind.ACTIVE, "gpu: 1 ready"),
    ),
}


@pytest.mark.parametrize(("look", "expected"), CASES.values(), ids=CASES)
def test_status(look: Callable[[], Status], expected: Status):
    assert look() == expected
