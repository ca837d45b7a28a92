"""A refresh from the first release to the charm as it is now, and back.

What an operator has set up stays as it is. An older charm keeps its hands off what a newer one has
recorded.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest
from functional.test_charm import PRINCIPAL, WATCHED, drivers, reboot, rebuilds
from functional.test_nova import restarts
from harness import hostbox, hosttree, standin
from harness.constants import GPUS, KEPT, NATIVE, NOVA, ONE, READY

from passthrough.host import watch

RECORD = "var/lib/pci-passthrough/pci-passthrough.json"
CONFIG = {"devices": GPUS, "reboot": "when-idle"}
# What claims at boot asks for the switch since the first release, so it is written once more.
CLAIMS_AT_BOOT = re.compile(
    r"(.*/)?(etc/udev/rules\.d/60-[a-z-]+\.rules|etc/initramfs-tools/scripts/init-top/[a-z-]+"
    r"|usr/lib/dracut/modules\.d/91[a-z-]+/claim\.sh)"
)
# Comes with the refresh, and the record knows of it, of the cards, and of who owns the host.
CARETAKER = (*watch.owned_files("pci-passthrough"), *watch.owned_files("more"))
NEW_IN_RECORD = ("caretaker", "identities", "keep", "owner", "shapes")
IMAGE = "update-initramfs"
OFFERED = ("0000:83:00.0", "0000:84:00.0")
REFUSED = (
    'blocked: /var/lib/pci-passthrough/pci-passthrough.json is not readable ("format 4 of a newer'
    ' charm: refresh, and leave it in place" is not the address of a function); move it away, and'
    " what it held is found again from the configuration"
)


@pytest.fixture
def host(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> hosttree.HostTree:
    """A compute host with Nova whose IOMMU the charm has to turn on; of a release by parameter."""
    release = getattr(request, "param", "22.04")
    tree = hosttree.compute_host(tmp_path / "host", ubuntu=release)
    tree.install_nova()
    return tree


class Host:
    """A host with the charm on it, and what of it must not change."""

    def __init__(self, tree: hosttree.HostTree, box: hostbox.Box, agent: standin.Agent):
        self.tree, self.box, self.agent = tree, box, agent
        self.at_first = tree.snapshot(*WATCHED)

    def deploy(self, charm: pathlib.Path, **options: object) -> None:
        self.agent.deploy(charm, principal=PRINCIPAL, config={**CONFIG, **options})

    def make_ready(self, charm: pathlib.Path) -> None:
        """Deploy the charm and have it reboot the host, as it asks for."""
        self.deploy(charm)
        assert self.agent.reboot_due() == "after-hook"
        reboot(self.box, self.agent)
        assert str(self.agent.status()) == "active: gpu: 2 ready"
        assert drivers(self.tree) == READY
        assert all(f'"{address}"' in self.tree.read(NOVA) for address in OFFERED)
        self.agent.hook("update-status")

    def record(self) -> dict[str, Any]:
        return json.loads(self.tree.read(RECORD))

    def state(self) -> dict[str, object]:
        """All but record, images and what claims at boot: files down to their inodes, drivers."""
        return {
            **self.steady(*WATCHED),
            RECORD: None,
            "identities": {
                path: found
                for path, found in self.tree.identities(*WATCHED).items()
                if path != RECORD
                and not path.startswith("boot/")
                and path not in CARETAKER
                and not CLAIMS_AT_BOOT.fullmatch(path)
            },
            "drivers": drivers(self.tree),
            "status": str(self.agent.status()),
        }

    def steady(self, *folders: str) -> dict[str, Any]:
        """What stands in these folders, but for images, the caretaker and what claims at boot."""
        found = self.without_images(self.tree.snapshot(*folders))
        return {
            path: each
            for path, each in found.items()
            if path not in CARETAKER and not CLAIMS_AT_BOOT.fullmatch(path)
        }

    def claims_at_boot(self) -> list[str]:
        """The files that claim at boot."""
        found = self.tree.snapshot("etc", "usr/lib/dracut")
        return [path for path in found if CLAIMS_AT_BOOT.fullmatch(path)]

    def payload(self) -> list[dict[str, str]]:
        """What whoever runs Nova in another way is told: aliases, device_specs."""
        return [
            self.agent.relation_data("nova-pci", owner)
            for owner in ("pci-passthrough", "pci-passthrough/0")
        ]

    def refresh(self, charm: pathlib.Path, *rebuilt: str) -> None:
        """Refresh, and see that nothing comes of it on the host but reads, and these rebuilds."""
        self.box.forget_calls()
        self.agent.upgrade(charm)
        self.agent.hook("update-status")
        assert tuple(rebuilds(self.box)) == rebuilt
        assert restarts(self.box) == 0
        assert self.box.calls("modprobe") == []
        assert self.agent.reboot_due() == ""

    def remove(self) -> None:
        """Remove the charm; the host is as it was at first."""
        self.agent.remove()
        assert drivers(self.tree) == {**NATIVE, **KEPT}
        found = self.tree.snapshot(*WATCHED)
        assert self.without_images(found) == self.without_images(self.at_first)

    @staticmethod
    def without_images(found: dict[str, Any]) -> dict[str, Any]:
        """Rebuilt in between, from the same files: an image's own bytes are its generator's."""
        return {path: entry for path, entry in found.items() if not path.startswith("boot/")}


@pytest.fixture
def unit(host: hosttree.HostTree, box: hostbox.Box, agent: standin.Agent) -> Host:
    return Host(host, box, agent)


class TestRefresh:
    @pytest.mark.parametrize("host", ["22.04", "26.04"], indirect=True)
    def test_of_a_ready_host_changes_nothing_but_the_record(
        self, unit: Host, first_release, packed_charm
    ):
        unit.make_ready(first_release)
        unit.agent.integrate("pci-passthrough:nova-pci", "cells")
        former, before, payload = unit.record(), unit.state(), unit.payload()
        assert "gpu" in payload[0]["aliases"]
        assert all(address in payload[1]["device_specs"] for address in OFFERED)
        unit.refresh(packed_charm, IMAGE)
        assert (unit.state(), unit.payload()) == (before, payload)

        assert "format" not in former
        assert unit.record()["format"] == 4
        brought = unit.record()["record"]
        assert len(unit.claims_at_boot()) == 2
        assert all("recovery" in unit.tree.read(path) for path in unit.claims_at_boot())
        new = {name: brought.pop(name) for name in NEW_IN_RECORD}
        assert {**brought, "activated": None} == {**former, "activated": None}
        assert set(new["identities"]) == set(new["shapes"]) == set(brought["taken"])
        assert new["caretaker"]["started"]
        assert watch.is_installed(unit.tree.root, "pci-passthrough")
        assert set(brought["activated"]) == set(former["activated"]) == {"initramfs", "grub"}

        # Nor with the next boot, and the next update-status only looks.
        reboot(unit.box, unit.agent)
        unit.agent.hook("update-status")
        unit.box.forget_calls()
        (run,) = unit.agent.hook("update-status")
        assert [call.tool for call in run.calls] == []
        assert unit.box.calls() == []
        assert (unit.agent.reboot_due(), str(unit.agent.status())) == ("", before["status"])
        assert drivers(unit.tree) == READY
        unit.remove()

    def test_under_guests_leaves_them_their_devices(self, unit: Host, first_release, packed_charm):
        unit.make_ready(first_release)
        before = unit.state()
        group = (unit.tree.directory("0000:84:00.0") / "iommu_group").resolve().name
        with unit.box.holding(f"/dev/vfio/{group}"):
            unit.refresh(packed_charm, IMAGE)
            assert unit.state() == before
        unit.remove()

    def test_keeps_what_a_guest_holds_although_nobody_asks_for_it_any_more(
        self, unit: Host, first_release, packed_charm
    ):
        unit.make_ready(first_release)
        group = (unit.tree.directory("0000:84:00.0") / "iommu_group").resolve().name
        with unit.box.holding(f"/dev/vfio/{group}"):
            unit.agent.config(devices=ONE)
            before = unit.state()
            assert str(before["status"]).startswith("blocked: 0000:84:00.0: a guest holds it")
            unit.refresh(packed_charm, IMAGE)
            assert unit.state() == before
        unit.agent.hook("update-status")
        assert str(unit.agent.status()) == "active: gpu: 1 ready"
        assert unit.tree.driver_of("0000:84:00.0") == "nouveau"
        unit.remove()

    def test_while_a_reboot_is_still_to_come(self, unit: Host, first_release, packed_charm):
        unit.deploy(first_release, reboot="manual")
        before = unit.state()
        assert str(before["status"]).startswith("blocked: reboot required: the IOMMU is off")
        unit.refresh(packed_charm, IMAGE)
        assert unit.state() == before
        reboot(unit.box, unit.agent)
        assert str(unit.agent.status()) == "active: gpu: 2 ready"
        assert rebuilds(unit.box) == [IMAGE]
        unit.remove()

    def test_asks_for_no_second_reboot_where_the_first_was_in_vain(
        self, unit: Host, first_release, packed_charm
    ):
        unit.deploy(first_release)
        assert unit.agent.reboot_due() == "after-hook"
        # As where another boot loader comes first: grub.cfg has the option, the kernel has not.
        good = unit.tree.read("boot/grub/grub.cfg")
        unit.tree.write("boot/grub/grub.cfg", good.replace(" intel_iommu=on", ""))
        unit.box.reboot()
        unit.tree.write("boot/grub/grub.cfg", good)
        unit.agent.rebooted()
        before = unit.state()
        assert str(before["status"]).startswith("blocked: the reboot did not help: expected ")
        unit.refresh(packed_charm, IMAGE)
        assert unit.state() == before
        assert unit.record()["record"]["reboot"]
        # Another configuration is worth another one.
        unit.agent.config(devices=ONE)
        assert unit.agent.reboot_due() == "after-hook"


class TestBack:
    def test_the_first_release_does_nothing_to_a_newer_record_and_says_so(
        self, unit: Host, first_release, packed_charm
    ):
        """One story: there, back, and there again."""
        unit.make_ready(first_release)
        unit.refresh(packed_charm, IMAGE)
        before, record = unit.state(), unit.tree.read(RECORD)

        unit.refresh(first_release)
        assert unit.state() == {**before, "status": REFUSED}
        assert unit.tree.read(RECORD) == record
        for devices in (ONE, "", GPUS):
            unit.agent.config(devices=devices)
            assert unit.state() == {**before, "status": REFUSED}
            assert unit.tree.read(RECORD) == record
        assert (rebuilds(unit.box), restarts(unit.box)) == ([], 0)
        assert unit.agent.action("plan").failed

        unit.refresh(packed_charm)
        assert unit.state() == before
        assert unit.tree.read(RECORD) == record
        unit.remove()

    def test_the_first_release_gives_nothing_back_by_half(
        self, unit: Host, first_release, packed_charm
    ):
        unit.make_ready(packed_charm)
        unit.refresh(first_release)
        before, record = unit.state(), unit.tree.read(RECORD)
        with pytest.raises(standin.HookFailedError, match="stop"):
            unit.agent.remove()
        assert unit.tree.read(RECORD) == record
        after = unit.state()
        assert {**after, "status": REFUSED} == before

    def test_another_application_on_the_host_waits_until_it_is_refreshed_too(
        self, unit: Host, first_release, packed_charm
    ):
        unit.deploy(first_release, devices=ONE)
        reboot(unit.box, unit.agent)
        unit.agent.deploy(
            first_release,
            app="more",
            principal=PRINCIPAL,
            config={"devices": "more=10de:1bb0@0000:84:00.0"},
        )
        reboot(unit.box, unit.agent)
        assert str(unit.agent.status("more/0")) == "active: more: 1 ready"
        files = unit.steady("etc", "boot")
        unit.agent.upgrade(packed_charm, app="pci-passthrough")
        unit.agent.hook("update-status", unit="more/0")
        assert str(unit.agent.status("more/0")) == REFUSED
        unit.agent.upgrade(packed_charm, app="more")
        assert str(unit.agent.status("more/0")) == "active: more: 1 ready"
        assert str(unit.agent.status("pci-passthrough/0")) == "active: gpu: 1 ready"
        assert unit.steady("etc", "boot") == files
        assert drivers(unit.tree) == READY
