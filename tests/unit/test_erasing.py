"""The action erase: what a guest left on an NVMe goes when an operator says so, and no sooner."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import made, uses
from harness.constants import NVME_ID
from harness.fakenvme import MODEL, SERIAL, FakeNvme
from harness.hosttree import HostTree
from harness.unit import HOOKS, Unit
from ops import testing

from passthrough import erasing, frozen, lending, survey
from passthrough.effects import eraser, handing
from passthrough.host import held_disks, identity, pci
from passthrough.host.uses import kinds
from passthrough.state import record
from passthrough.system import procfs

NVME, OTHER = "0000:02:00.0", "0000:83:00.0"
DISK = f"disk={NVME_ID}"
DOMAIN = """<domain><devices><hostdev mode='subsystem' type='pci' managed='yes'><source>
<address domain='0x0000' bus='0x02' slot='0x00' function='0x0'/></source></hostdev></devices>
</domain>"""
KEPT_OFF = (
    "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}=",
    "SYSTEMD_READY}=",
    "DM_MULTIPATH_DEVICE_PATH}=",
    "UDISKS_IGNORE}=",
    "RUN:=",
)


ONE_TIME_USE = f'[{{"id": "{NVME_ID}", "one-time-use": true, "resource-class": "CUSTOM_DISK"}}]'


class Host:
    """A unit that has claimed the host's NVMe, with Nova beside it."""

    def __init__(self, unit: Unit, nvme: FakeNvme):
        self.unit, self.nvme, self.world = unit, nvme, unit.world
        self.rules = self.world.root / handing.rules_path(NVME)

    def quarantine(self, *addresses: str) -> None:
        """Take functions off Nova's offer, as the action quarantine does."""
        for each in addresses:
            self.unit.act("quarantine", address=each, format="table")

    def erase(self, **params: Any) -> dict[str, Any]:
        """Run the action, for people."""
        asked = {"address": NVME, "confirm": NVME, "format": "table", **params}
        return self.unit.act("erase", **asked)

    def refused(self, **params: Any) -> str:
        """Why the action fails."""
        message, results = self.unit.act_in_vain(
            "erase", **{"address": NVME, "confirm": NVME, **params}
        )
        assert results == {}
        return message

    @property
    def driver(self) -> str | None:
        """The NVMe's driver."""
        return self.world.tree.driver_of(NVME)

    @property
    def mark(self) -> str | None:
        """What the record says of an erase."""
        return self.world.record().erasing.get(NVME)


@pytest.fixture
def host(ready_unit: Unit, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The NVMe is claimed and offered."""
    nvme = FakeNvme(ready_unit.world.kernel, NVME, monkeypatch)
    monkeypatch.setattr(eraser, "HOST", nvme.means)
    ready_unit.world.nova.install()
    ready_unit.run(devices=DISK)
    return Host(ready_unit, nvme)


@pytest.fixture
def aside(host: Host) -> Host:
    """It is in quarantine."""
    host.quarantine(NVME)
    host.world.forget()
    assert host.world.nova.offered() == []
    return host


def upgrade_nova(host: Host) -> None:
    """Let the host have the first Nova that knows one-time-use."""
    host.world.tree.write("var/lib/dpkg/status", "")
    host.world.tree.install_nova(version="3:32.0.0-0ubuntu1")


class TestErase:
    def test_says_what_it_did_and_what_it_read_back(self, aside: Host):
        assert aside.erase() == {
            "table": "\n".join(
                (
                    f"{NVME}: {MODEL} {SERIAL}: erased, by format (user data erase)",
                    "NAMESPACE  BYTES    READ BACK",
                    "1          1048576  16 samples: 16 zeroes",
                    "",
                    "It is in quarantine still. To have Nova offered it again: juju run"
                    f" pci-passthrough/0 rebind address={NVME}",
                )
            )
        }
        assert aside.nvme.is_erased
        assert aside.erase(format="json") == {
            "erased": {
                "address": NVME,
                "controller": f"{MODEL} {SERIAL}",
                "method": "format (user data erase)",
                "namespaces": [
                    {
                        "id": 1,
                        "bytes": 1 << 20,
                        "samples": 16,
                        "read-back": {"zeroes": 16, "ones": 0, "other": 0},
                    }
                ],
                "placement": None,
            }
        }

    def test_where_there_is_no_namespace_it_says_so(self, aside: Host):
        aside.nvme.sanicap = 0b10
        aside.nvme.sizes.clear()
        assert "no active namespace, so there was nothing to read back" in aside.erase()["table"]

    def test_all_else_is_as_before(self, aside: Host):
        before = aside.world.snapshot("etc", "var/lib")
        aside.erase()
        assert aside.world.snapshot("etc", "var/lib") == before
        assert aside.driver == "vfio-pci"
        assert not aside.rules.exists()
        assert aside.world.nova.restarts() == 0

    def test_it_stays_in_quarantine_over_every_hook(self, aside: Host):
        aside.erase()
        for event in HOOKS:
            aside.unit.run(event)
        assert aside.world.nova.offered() == []
        assert NVME in aside.world.record().quarantine

    def test_udev_is_kept_off_before_the_driver_comes(self, aside: Host):
        seen: list[str] = []

        def look(name: str, text: str) -> None:
            if text == "nvme":
                seen.append(aside.rules.read_text())
                assert aside.world.tools.calls[-2:] == ["reload udev", "load nvme"]

        aside.world.kernel.before_write = look
        aside.erase()
        (rules,) = seen
        assert f'KERNELS=="{NVME}"' in rules
        assert all(each in rules for each in KEPT_OFF)
        assert aside.world.tools.calls[-1] == "reload udev"

    def test_the_record_says_so_before_and_while(self, aside: Host):
        marks: list[str | None] = []
        send = aside.nvme.send

        def sent(request: Any) -> bytes:
            marks.append(aside.mark)
            return send(request)

        aside.nvme.send = sent  # type: ignore[method-assign]
        aside.erase()
        assert marks[0] == record.BEGUN
        assert marks[-1] == record.TOLD
        assert aside.mark is None

    def test_it_tells_how_far_it_is(self, aside: Host):
        aside.nvme.sanicap, aside.nvme.slow = 0b10, 100
        aside.erase()
        said = aside.unit.context.action_logs
        assert said[-4:] == [
            f"{NVME}: on nvme, kept from udev",
            f"{NVME}: {MODEL} {SERIAL}: sanitize (block erase) begins",
            "sanitize: 50% after 60 s",
            f"{NVME}: sanitize (block erase) is done, and read back",
        ]

    def test_for_a_one_time_use_device_it_gives_placements_command(self, host: Host):
        upgrade_nova(host)
        host.unit.run(devices=ONE_TIME_USE, report_in_placement=True)
        host.quarantine(NVME)
        name = host.world.tree.read("proc/sys/kernel/hostname").strip()
        call = (
            "openstack resource provider inventory set"
            f' "$(openstack resource provider list --name {name}_{NVME} -f value -c uuid)"'
            " --amend --resource CUSTOM_DISK:reserved=0"
        )
        assert host.erase()["table"].endswith(
            f"Placement keeps it reserved (one-time-use) until: {call}"
        )
        assert host.erase(format="json")["erased"]["placement"] == call


class TestIsRefused:
    """Nothing is touched, and the reason says the way out."""

    @pytest.fixture(autouse=True)
    def untouched(self, host: Host) -> Iterator[None]:
        yield
        assert not host.nvme.is_erased
        assert host.nvme.seen == []
        assert host.mark is None
        assert not host.rules.exists()

    def test_while_it_is_offered(self, host: Host):
        assert host.refused() == (
            f"{NVME}: Nova is offered it; juju run pci-passthrough/0 quarantine address={NVME}"
        )

    def test_while_it_is_withheld_and_not_in_quarantine(self, host: Host):
        upgrade_nova(host)
        host.unit.run(devices=ONE_TIME_USE)
        assert host.world.nova.offered() == []
        assert host.refused() == (
            f"{NVME}: it is not in quarantine; juju run pci-passthrough/0 quarantine address={NVME}"
        )

    def test_while_another_file_offers_it(self, aside: Host):
        """Nova adds up what its files offer, and the charm's is one of them."""
        spec = json.dumps({"vendor_id": NVME_ID[:4], "product_id": NVME_ID[5:]})
        path = "etc/nova/nova.conf"
        aside.world.tree.write(path, f"[pci]\ndevice_spec = {spec}\n")
        where = f"/{path} [pci] device_spec"
        assert aside.refused() == f"{NVME}: {where} offers it to Nova; unset it there"
        check = aside.world.checks(DISK)[f"device_spec {NVME}"]
        assert check.seen == f"it is in quarantine, yet {where} offers it"
        assert (check.status, check.fix.split(";")[0]) == ("fail", "unset it there")

    def test_until_nova_compute_knows(self, host: Host):
        host.world.tools.restarts_denied = True
        host.quarantine(NVME)
        assert host.refused() == (
            f"{NVME}: nova-compute has not read yet that it is offered no more; restart"
            " nova-compute first"
        )

    def test_without_the_address_twice(self, aside: Host):
        assert aside.refused(confirm=OTHER) == (
            f'confirm is "{OTHER}", and address "{NVME}"; give the address twice: all that is on it'
            " will be lost"
        )

    def test_of_what_is_not_claimed(self, aside: Host):
        assert aside.refused(address="0000:3b:00.0", confirm="0000:3b:00.0") == (
            f'"0000:3b:00.0" is not claimed on this host; claimed are {NVME}'
        )

    def test_of_what_is_no_nvme(self, aside: Host):
        aside.unit.run(devices=f"{DISK}, gpu=10de:1bb0@{OTHER}")
        assert aside.refused(address=OTHER, confirm=OTHER) == (
            f"{OTHER} is no NVMe: its class is 030000, and not 0108xx"
        )

    def test_on_another_driver(self, aside: Host, tree: HostTree):
        tree.bind(NVME, "nvme")
        aside.nvme.show()
        assert aside.refused() == (
            f"{NVME} is on nvme, and not on vfio-pci; juju run pci-passthrough/0 rebind"
            f" address={NVME}"
        )

    def test_while_a_process_has_it(self, aside: Host):
        aside.world.kernel.hold(NVME, process=4711)
        assert aside.refused() == (
            f"{NVME}: a process has it open (4711); stop or migrate the guest first"
        )

    @pytest.mark.parametrize("place", ["etc/libvirt/qemu", "run/libvirt/qemu"])
    def test_while_a_domain_names_it(self, aside: Host, tree: HostTree, place: str):
        tree.write(f"{place}/instance-0000002a.xml", DOMAIN)
        assert aside.refused() == (
            f"{NVME}: the guest instance-0000002a names it, be it shut off or not; delete or"
            " migrate that guest first: what it left is its own until then"
        )

    def test_of_another_card(self, aside: Host):
        with aside.world.ledger() as ledger:
            known = ledger.present.quarantine[NVME]
            ledger.update(quarantine={NVME: known._replace(id="144d:a80a")})
        assert aside.refused() == (
            f"{NVME}: another card stands there: the record has 144d:a80a, and it is {NVME_ID};"
            " juju run pci-passthrough/0 reconcile"
        )

    def test_of_another_serial_number(self, aside: Host, monkeypatch: pytest.MonkeyPatch):
        with aside.world.ledger() as ledger:
            ledger.update(identities={NVME: {"id": NVME_ID, "serial": "00-01"}})
        now = identity.Identity(NVME_ID, "00-02")
        monkeypatch.setattr(identity, "read", lambda *_: now)
        assert f"the record has {NVME_ID} 00-01, and it is {NVME_ID} 00-02" in aside.refused()

    def test_in_a_boot_that_is_switched_off(self, aside: Host, tree: HostTree):
        tree.set_command_line("quiet splash intel_iommu=on pci-passthrough=off")
        assert aside.refused().endswith("reboot without pci-passthrough=off first")

    def test_with_vfs(self, aside: Host, tree: HostTree):
        directory = tree.directory(NVME)
        (directory / "sriov_numvfs").write_text("2\n")
        (directory / "sriov_totalvfs").write_text("4\n")
        assert "VFs, which share its namespaces" in aside.refused()


class TestIsNotDone:
    """It has begun, and did not come to its end."""

    def test_refused_by_the_controller_nothing_is_marked(self, aside: Host):
        aside.nvme.controllers = (0, 1)
        assert aside.refused() == (
            f"{NVME}: not erased: its NVM subsystem has other controllers, which see its"
            " namespaces: 1; erase it where all of them are at hand, by the host's own tools;"
            " nothing was erased, and it is back on vfio-pci"
        )
        assert (aside.mark, aside.driver, aside.rules.exists()) == (None, "vfio-pci", False)
        assert not aside.nvme.is_erased

    def test_what_reads_as_before_is_not_called_erased(self, aside: Host):
        aside.nvme.lazy = True
        assert aside.refused() == (
            f"{NVME}: not erased: samples that are as before, or cannot be read or compared:"
            " namespace 1: 16 of 16; it is back on vfio-pci, off the offer until erase has come to"
            " its end: run erase again"
        )
        assert (aside.mark, aside.driver, aside.rules.exists()) == (record.TOLD, "vfio-pci", False)

    def test_the_status_says_so(self, aside: Host):
        aside.nvme.lazy = True
        aside.refused()
        aside.unit.run()
        assert f"not erased to the end: {NVME}, run erase again" in aside.unit.status
        aside.nvme.lazy = False
        aside.erase()
        aside.unit.run()
        assert "erase" not in aside.unit.status

    def test_then_no_rebind_brings_it_back(self, aside: Host):
        aside.nvme.lazy = True
        aside.refused()
        message, _ = aside.unit.act_in_vain("rebind", address=NVME)
        assert message.endswith(f"{NVME}: its erase has not come to its end; run erase again")
        assert aside.world.nova.offered() == []

    def test_nor_the_loss_of_the_quarantine(self, aside: Host):
        aside.nvme.lazy = True
        aside.refused()
        with aside.world.ledger() as ledger:
            ledger.update(quarantine={})
        for event in HOOKS:
            aside.unit.run(event)
        aside.world.reboot()
        aside.unit.run("start")
        assert (aside.mark, aside.world.nova.offered()) == (record.TOLD, [])

    def test_run_again_it_comes_to_its_end(self, aside: Host):
        aside.nvme.lazy = True
        aside.refused()
        aside.nvme.lazy = False
        aside.erase()
        assert aside.nvme.is_erased
        assert aside.mark is None

    def test_refused_the_second_time_it_stays_marked(self, aside: Host):
        aside.nvme.lazy = True
        aside.refused()
        aside.nvme.controllers = (0, 1)
        assert aside.refused().endswith("run erase again")
        assert aside.mark == record.TOLD

    def test_taken_out_of_devices_it_is_forgotten_once_the_host_has_it(self, aside: Host):
        aside.nvme.lazy = True
        aside.refused()
        aside.unit.run(devices="")
        assert (aside.mark, aside.driver) == (None, "nvme")

    def test_where_nvme_does_not_take_it(self, aside: Host):
        aside.world.kernel.fail_probe(NVME, "nvme")
        assert aside.refused() == (
            f"{NVME}: not erased: {NVME}: nvme did not take it; it is on no driver; nothing was"
            " erased, and it is back on vfio-pci"
        )
        assert (aside.mark, aside.driver, aside.rules.exists()) == (None, "vfio-pci", False)

    def test_where_vfio_does_not_take_it_back_the_next_hook_tries(self, aside: Host):
        aside.world.kernel.fail_probe(NVME, "vfio-pci")
        message = aside.refused()
        assert message.startswith(f"{NVME}: erased; and it could not be brought back to vfio-pci: ")
        assert aside.mark == record.TOLD
        assert aside.rules.exists()
        aside.world.kernel.relent()
        aside.unit.run("update_status")
        assert (aside.driver, aside.rules.exists()) == ("vfio-pci", False)
        assert aside.world.nova.offered() == []
        aside.erase()
        assert aside.mark is None

    def test_where_udev_does_not_read_its_rules(self, aside: Host):
        aside.world.tools.failing["reload"] = "no"
        assert "could not be brought back" in aside.refused()
        del aside.world.tools.failing["reload"]
        aside.erase()
        assert (aside.mark, aside.rules.exists()) == (None, False)


class TestKindOfFunction:
    """What only a host with other hardware shows."""

    def ask(self, function: pci.Function) -> str:
        facts = made.facts(function)
        decision = survey.decide(made.wanted(), facts)
        found = erasing._object_to_function(decision, facts, function.address)
        return str(next(found))

    def test_a_vf_shares_what_its_pf_has(self):
        vf = made.function(NVME, NVME_ID, made.STORAGE, physfn="0000:01:00.0", driver="vfio-pci")
        assert self.ask(vf) == (
            f"{NVME} is a VF of 0000:01:00.0, and shares its namespaces; erase 0000:01:00.0 once it"
            " has no VFs"
        )

    def test_one_that_is_gone_is_not_erased(self, aside: Host, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(identity, "read", lambda *_: None)
        assert aside.refused() == f"{NVME} is not in this host any more"
        assert not aside.nvme.is_erased

    def test_a_record_that_knows_no_card_has_nothing_to_compare(self, aside: Host):
        with aside.world.ledger() as ledger:
            ledger.update(identities={}, quarantine={}, erasing={NVME: record.BEGUN})
        aside.erase()
        assert aside.nvme.is_erased


class TestAHook:
    """What it does with a function that a kill has left away."""

    @pytest.fixture
    def left(self, aside: Host, tree: HostTree) -> Host:
        """The function is on nvme, its rules are there, and the record says how far it came."""
        with aside.world.ledger() as ledger:
            ledger.update(erasing={NVME: record.BEGUN})
        aside.rules.parent.mkdir(parents=True)
        aside.rules.write_text("# rules\n")
        (tree.directory(NVME) / "driver_override").write_text("nvme\n")
        tree.bind(NVME, "nvme")
        aside.nvme.show()
        return aside

    @pytest.mark.parametrize("event", HOOKS)
    def test_brings_it_back_and_leaves_the_mark(self, left: Host, event: str):
        left.unit.run(event)
        assert (left.driver, left.mark) == ("vfio-pci", record.BEGUN)
        assert not left.rules.exists()
        assert left.world.nova.offered() == []

    def test_erase_goes_on_from_there(self, left: Host):
        left.erase()
        assert left.nvme.is_erased
        assert (left.driver, left.mark, left.rules.exists()) == ("vfio-pci", None, False)

    def test_leaves_it_where_somebody_has_its_disk(
        self, left: Host, monkeypatch: pytest.MonkeyPatch
    ):
        used = kinds.Use(kinds.Kind.HELD, "something in the kernel has nvme9n1")
        monkeypatch.setattr(held_disks, "hold", lambda *_: contextlib.nullcontext((used,)))
        left.unit.run()
        assert (left.driver, left.mark) == ("nvme", record.BEGUN)
        assert left.rules.exists()

    def test_forgets_the_rules_of_one_that_is_gone(self, left: Host, tree: HostTree):
        tree.unplug(NVME)
        left.unit.run()
        assert not left.rules.exists()

    def test_a_unit_that_leaves_gives_it_to_the_host_clean(self, left: Host):
        left.world.config = {"devices": DISK}
        left.world.leave()
        assert (left.driver, left.mark) == ("nvme", None)
        assert not left.rules.exists()
        assert left.world.tree.read(f"sys/bus/pci/devices/{NVME}/driver_override") == "(null)\n"


class TestNotToTheEnd:
    """An erase that was killed or has failed is seen wherever an operator looks, and bars."""

    @pytest.fixture
    def half(self, aside: Host) -> Host:
        """The controller was told to erase, and the run has ended."""
        with aside.world.ledger() as ledger:
            ledger.update(erasing={NVME: record.TOLD})
        return aside

    def row(self, host: Host) -> dict[str, Any]:
        rows = host.unit.act("list-devices", format="json")["devices"]
        return next(each for each in rows if each["address"] == NVME)

    def checks(self, host: Host) -> dict[str, tuple[str, str]]:
        found = host.world.checks(DISK)
        return {name: (found[name].status, found[name].seen) for name in found}

    def test_the_list_says_so(self, half: Host):
        row = self.row(half)
        assert row["erasing"] is True
        assert row["state"] == (
            "not erased to the end: run erase again; quarantined: by an operator; rebind ends that"
        )
        table = " ".join(half.unit.act("list-devices", format="table")["table"].split())
        assert f"{NVME}: not erased to the end: run erase again; quarantined" in table

    def test_the_list_says_so_of_one_that_is_not_in_quarantine_any_more(self, half: Host):
        with half.world.ledger() as ledger:
            ledger.update(quarantine={})
        assert self.row(half)["state"] == "not erased to the end: run erase again"
        path = half.world.tree.directory(NVME) / "config"
        path.write_bytes(b"\xff" * 64)
        expected = "not erased to the end: run erase again; fell off the bus"
        assert self.row(half)["state"] == expected.replace("; ", "; sick: ")

    @pytest.mark.parametrize(
        ("taken", "lent", "state"),
        [
            ({}, {}, "free"),
            ({}, {NVME: record.Loan(NVME_ID, "", NVME)}, "lent to the host"),
            ({NVME: None}, {}, "given back by the next hook"),
        ],
    )
    def test_the_list_says_so_of_one_that_is_not_claimed(
        self,
        half: Host,
        taken: dict[str, str | None],
        lent: dict[str, record.Loan],
        state: str,
    ):
        with half.world.ledger() as ledger:
            ledger.update(taken=taken, lent=lent, missing={})
        half.world.tree.bind(NVME, "nvme")
        half.unit.configure(devices="")
        assert self.row(half)["state"] == f"not erased to the end: run erase again; {state}"

    def test_the_list_says_nothing_of_one_that_was_erased(self, half: Host):
        half.erase()
        assert self.row(half)["erasing"] is False
        assert self.row(half)["state"] == "quarantined: by an operator; rebind ends that"

    def test_the_plan_says_so(self, half: Host):
        assert half.unit.act("plan", format="json")["plan"]["erasing"] == [NVME]
        said = " ".join(half.unit.act("plan", format="table")["table"].split())
        assert f"not erased to the end: {NVME}, run erase again; until then" in said
        half.erase()
        assert half.unit.act("plan", format="json")["plan"]["erasing"] == []
        assert "not erased" not in half.unit.act("plan", format="table")["table"]

    def test_verify_fails_until_it_was_erased(self, half: Host):
        found = self.checks(half)
        assert found[f"erase {NVME}"] == ("fail", "has not come to its end")
        assert found[f"state {NVME}"][1].startswith("not erased to the end: run erase again; ")
        assert found[f"device_spec {NVME}"] == (
            "ok",
            "not offered to Nova: its erase has not come to its end",
        )
        half.erase()
        found = self.checks(half)
        assert f"erase {NVME}" not in found
        assert found[f"device_spec {NVME}"] == ("ok", "not offered to Nova: it is in quarantine")

    def test_the_status_does_not_count_it_as_ready(self, half: Host):
        with half.world.ledger() as ledger:
            ledger.update(quarantine={})
        assert half.unit.run("update_status").message == (
            f"not erased to the end: {NVME}, run erase again"
        )

    def test_it_is_not_lent(self, half: Host):
        message, _ = half.unit.act_in_vain("lend", address=NVME)
        assert message == (
            f"{NVME}: its erase has not come to its end, so it holds its last guest's data; run"
            " erase again first"
        )
        assert half.world.record().lent == {}
        half.erase()
        half.unit.act("lend", address=NVME, format="json")
        assert list(half.world.record().lent) == [NVME]

    def test_neither_does_it_go_along_with_another_one_that_is_lent(self, half: Host):
        decision = half.world.decide(DISK)
        claim = decision.claims[0]
        function = frozen.replace(claim.function, address=OTHER)
        other = frozen.replace(claim, function=function)
        outcome = frozen.replace(decision.outcome, claims=(claim, other))
        both = frozen.replace(decision, outcome=outcome)
        with pytest.raises(lending.LendingError, match=f"^{NVME}: its erase has not come to its"):
            lending.lend(both, OTHER)

    def test_a_guard_that_refuses_it_meanwhile_takes_no_mark_away(self, half: Host):
        """Somebody mounts the disk that a kill has left on the host's driver."""
        world = half.world
        mark = half.mark
        (world.tree.directory(NVME) / "driver_override").write_text("nvme\n")
        world.tree.bind(NVME, "nvme")
        half.nvme.show()
        uses.mount(world.tree, "259:1", "/mnt", "/dev/nvme9n1")
        half.unit.run()
        assert (half.driver, half.mark, world.record().taken) == ("nvme", mark, {})
        (world.root / "proc/1/mountinfo").write_text("")
        half.unit.run()
        assert (half.driver, half.mark) == ("vfio-pci", mark)
        with world.ledger() as ledger:
            ledger.update(quarantine={})
        half.unit.run()
        assert world.nova.offered() == []

    def test_the_mark_stays_where_nothing_else_is_to_be_remembered(self, half: Host):
        with half.world.ledger() as ledger:
            ledger.put(record.Record(erasing={NVME: record.TOLD}))
        assert half.mark == record.TOLD

    def test_who_takes_it_out_of_the_options_has_the_mark_forgotten(self, half: Host):
        half.unit.run(devices="")
        assert half.mark is None

    def test_who_leaves_it_to_the_host_has_the_mark_forgotten(self, half: Host):
        name = procfs.host_name_if_there(half.world.root)
        half.unit.run(devices=DISK, host_exceptions=f"{name}={NVME}")
        assert half.mark is None

    def test_its_vfs_are_not_offered(self, half: Host):
        """They share its namespaces."""
        vf = made.function("0000:02:00.1", NVME_ID, made.STORAGE, physfn=NVME, driver="vfio-pci")
        vf = frozen.replace(vf, group=99, override="vfio-pci")
        facts = survey.look(half.world.site)
        host = frozen.replace(facts.host, functions={**facts.host.functions, vf.address: vf})
        facts = frozen.replace(facts, host=host)
        wanted = half.world.decide(f"{NVME_ID}/VF").options

        def offered(**changes: Any) -> list[str]:
            known = frozen.replace(facts.record, **changes)
            found = survey.decide(wanted, frozen.replace(facts, record=known))
            return [each["address"] for each in found.nova.device_specs]

        kept = {NVME: None, vf.address: None}
        assert offered(taken=kept, erasing={}) == [vf.address]
        assert offered(taken=kept) == []


def test_beside_a_controller_there_is_nothing_to_erase(ready_unit: Unit):
    ready_unit.relate(
        testing.SubordinateRelation(
            "nova-cloud-controller", remote_app_name="nova-cloud-controller"
        )
    )
    controller = Unit(
        ready_unit.world, "nova-cloud-controller/0", tuple(ready_unit.state.relations)
    )
    message, _ = controller.act_in_vain("erase", address=NVME, confirm=NVME)
    assert message == "this unit is beside nova-cloud-controller and binds nothing"


def test_no_hook_imports_it(charm_root: Path):
    code = "import sys, charm, hosting, actions; print('passthrough.erasing' in sys.modules)"
    path = ":".join(str(charm_root / each) for each in ("src", "lib"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n"
