"""A claimed function goes back to the host for a while, and is taken back."""

from __future__ import annotations

from collections.abc import Iterator

import ops
import pytest
from harness import uses
from harness.constants import CLAIMED, GPUS, NATIVE, ONE, READY
from harness.hosttree import HostTree
from harness.unit import HOOKS, Unit
from harness.world import World

from passthrough import lending
from passthrough.state import record

CARD = CLAIMED[:2]
GPU, AUDIO = CARD
WITH_LOAN = {**READY, **{each: NATIVE[each] for each in CARD}}
LENT = f"gpu: 1 ready; lent to the host: {GPU}, {AUDIO}"
DOMAIN = """<domain><devices><hostdev mode='subsystem' type='pci' managed='yes'><source>
<address domain='0x0000' bus='0x83' slot='0x00' function='0x0'/></source></hostdev></devices>
</domain>"""


@pytest.fixture
def ready(ready_unit: Unit) -> Unit:
    """See `ready_unit`."""
    return ready_unit


def lent(unit: Unit) -> list[str]:
    return sorted(record.read(unit.world.site).lent)


class TestLend:
    def test_gives_the_function_and_its_companion_back_now(self, ready: Unit):
        found = ready.act("lend", address=GPU)
        assert found == {
            "table": "\n".join(
                (
                    "ADDRESS       RESULT            DRIVER",
                    f"{GPU}  lent to the host  nouveau",
                    f"{AUDIO}  lent to the host  snd_hda_intel",
                    "",
                    f"{AUDIO}: goes with {GPU}",
                )
            ),
            "functions": [
                {
                    "address": each,
                    "lent": True,
                    "driver": NATIVE[each],
                    "at-boot": False,
                    "note": note,
                }
                for each, note in zip(CARD, (None, f"goes with {GPU}"), strict=True)
            ],
        }
        assert ready.world.drivers() == WITH_LOAN
        assert ready.status == f"active: {LENT}"

    def test_nova_is_offered_it_no_more(self, ready: Unit):
        ready.world.nova.install()
        ready.run()
        assert ready.world.nova.offered() == [GPU, "0000:84:00.0"]
        ready.act("lend", address=GPU)
        assert ready.world.nova.offered() == ["0000:84:00.0"]
        ready.act("take-back", address=GPU, format="json")
        assert ready.world.nova.offered() == [GPU, "0000:84:00.0"]

    @pytest.mark.parametrize("event", HOOKS)
    def test_every_hook_leaves_it_there(self, ready: Unit, event: str):
        ready.act("lend", address=GPU)
        ready.world.forget()
        assert ready.run(event) == ops.ActiveStatus(LENT)
        assert ready.world.kernel.writes() == []
        assert ready.world.tools.calls == []

    def test_so_does_every_boot(self, ready: Unit):
        ready.act("lend", address=GPU)
        ready.world.reboot()
        assert ready.world.drivers() == WITH_LOAN
        assert ready.run("start") == ops.ActiveStatus(LENT)
        assert ready.world.drivers() == WITH_LOAN

    def test_so_does_rebind(self, ready: Unit):
        ready.act("lend", address=GPU)
        done = ready.act("rebind", format="json")["functions"]
        assert [each["address"] for each in done] == list(CLAIMED[2:])
        assert ready.world.drivers() == WITH_LOAN
        message, _ = ready.act_in_vain("rebind", address=GPU)
        assert message.startswith(f'"{GPU}" is not claimed on this host; claimed are 0000:84:00.0')

    def test_so_does_a_change_of_the_options(self, ready: Unit):
        ready.act("lend", address=GPU)
        assert ready.run(devices="other=10de:1bb0") == ops.ActiveStatus(
            f"other: 2 ready; lent to the host: {GPU}, {AUDIO}"
        )
        ready.run(devices="")
        assert lent(ready) == list(CARD)
        assert ready.run(devices=GPUS) == ops.ActiveStatus(LENT)

    def test_the_companion_takes_the_function_along(self, ready: Unit):
        found = ready.act("lend", address=AUDIO, format="json")["functions"]
        assert [each["address"] for each in found] == [AUDIO, GPU]
        assert ready.world.drivers() == WITH_LOAN

    def test_with_all_that_is_claimed_the_unit_is_active_still(self, ready: Unit):
        ready.run(devices=ONE)
        ready.act("lend", address=GPU)
        assert ready.status == f"active: lent to the host: {GPU}, {AUDIO}"
        assert ready.run("update_status") == ops.ActiveStatus(f"lent to the host: {GPU}, {AUDIO}")

    def test_again_is_no_mistake(self, ready: Unit):
        first = ready.act("lend", address=GPU, format="json")["functions"]
        ready.world.forget()
        again = ready.act("lend", address=GPU, format="json")["functions"]
        assert [each["lent"] for each in again] == [each["lent"] for each in first]
        assert ready.world.kernel.writes() == []

    def test_before_the_reboot_that_turns_the_iommu_on_it_stays_with_the_host(self, unit: Unit):
        unit.run(devices=GPUS)
        found = unit.act("lend", address=GPU, format="json")["functions"]
        assert [each["address"] for each in found] == list(CARD)
        unit.world.reboot()
        unit.run("start")
        assert unit.world.drivers() == WITH_LOAN

    def test_says_where_it_has_no_driver_to_go_to(self, ready: Unit):
        ready.run(devices="gpu=10de:1bb0", blacklist_drivers="nouveau")
        ready.world.reboot()
        ready.run()
        found = ready.act("lend", address=GPU)
        assert f"{GPU}  lent to the host  -" in found["table"]
        assert f"{GPU}: no driver has it; blacklist-drivers keeps nouveau off" in found["table"]
        assert ready.status == f"active: {LENT.replace('1', '2', 1)}"

    def test_any_driver_may_have_it_meanwhile(self, ready: Unit, tree: HostTree):
        ready.run(devices="gpu=10de:1bb0", blacklist_drivers="nouveau")
        ready.act("lend", address=GPU)
        ready.world.forget()
        for driver in ("nouveau", "vfio-pci"):
            tree.bind(GPU, driver)
            assert ready.run() == ops.ActiveStatus(LENT.replace("1", "2", 1))
        assert ready.world.kernel.writes() == []


class TestLendIsRefused:
    """Nothing is touched, and the reason says the way out."""

    @pytest.fixture(autouse=True)
    def untouched(self, ready: Unit) -> Iterator[None]:
        before = ready.world.snapshot("etc", "var/lib")
        ready.world.forget()
        yield
        assert ready.world.snapshot("etc", "var/lib") == before
        assert (ready.world.kernel.writes(), ready.world.tools.calls) == ([], [])
        assert lent(ready) == []

    @pytest.mark.parametrize("holder", CARD)
    def test_while_a_process_holds_any_of_it(self, ready: Unit, holder: str):
        ready.world.kernel.hold(holder, process=4711)
        message, _ = ready.act_in_vain("lend", address=GPU)
        assert message == (
            f"{GPU}: a guest holds it (process 4711); stop or migrate the guest first"
        )

    def test_while_a_guest_that_is_shut_off_names_it(self, ready: Unit, tree: HostTree):
        path = tree.write("etc/libvirt/qemu/instance-0000002a.xml", DOMAIN)
        message, _ = ready.act_in_vain("lend", address=AUDIO)
        assert message == (
            f"{GPU}: the guest instance-0000002a is shut off and names it; migrate or delete that"
            " guest first, or it would start without the device"
        )
        path.unlink()

    def test_of_what_is_not_claimed(self, ready: Unit):
        message, _ = ready.act_in_vain("lend", address="0000:85:00.0")
        assert message == (
            f'"0000:85:00.0" is not claimed on this host; claimed are {", ".join(CLAIMED)}'
        )

    def test_in_a_boot_that_is_switched_off(self, ready: Unit, tree: HostTree):
        tree.set_command_line("quiet splash intel_iommu=on pci-passthrough=off")
        message, _ = ready.act_in_vain("lend", address=GPU)
        assert message == (
            "this host was started with pci-passthrough=off, so it has all its devices in this"
            " boot; reboot without pci-passthrough=off first"
        )
        tree.set_command_line("quiet splash intel_iommu=on")


class TestTakeBack:
    @pytest.mark.parametrize("named", CARD)
    def test_binds_and_claims_all_that_went_together(self, ready: Unit, named: str):
        before = ready.world.snapshot("etc", "var/lib")
        ready.act("lend", address=GPU)
        found = ready.act("take-back", address=named, format="json")["functions"]
        assert found == [
            {"address": each, "lent": False, "driver": "vfio-pci", "at-boot": False, "note": None}
            for each in CARD
        ]
        assert ready.world.drivers() == READY
        assert ready.status == "active: gpu: 2 ready"
        assert ready.world.snapshot("etc", "var/lib") == before
        ready.world.reboot()
        assert ready.world.drivers() == READY

    def test_leaves_what_was_lent_for_itself(self, ready: Unit):
        ready.act("lend", address=GPU)
        ready.act("lend", address="0000:84:00.0")
        ready.act("take-back", address=GPU, format="json")
        assert lent(ready) == list(CLAIMED[2:])
        assert ready.status == f"active: gpu: 1 ready; lent to the host: {', '.join(CLAIMED[2:])}"

    def test_says_what_is_lent_where_that_is_something_else(self, ready: Unit):
        message, _ = ready.act_in_vain("take-back", address=GPU)
        assert message == f'"{GPU}" is not lent to this host; lent are none'
        ready.act("lend", address=GPU)
        message, _ = ready.act_in_vain("take-back", address="84:00.0")
        assert message.endswith(f"lent are {GPU}, {AUDIO}")

    def test_in_a_boot_that_is_switched_off_it_stays_lent(self, ready: Unit, tree: HostTree):
        ready.act("lend", address=GPU)
        tree.set_command_line("quiet splash intel_iommu=on pci-passthrough=off")
        message, _ = ready.act_in_vain("take-back", address=GPU)
        assert message.endswith("reboot without pci-passthrough=off first")
        assert lent(ready) == list(CARD)

    def test_before_the_iommu_is_on_the_next_boot_binds_it(self, unit: Unit):
        unit.run(devices=GPUS)
        unit.act("lend", address=GPU)
        found = unit.act("take-back", address=GPU, format="table")["table"]
        assert f"{GPU}  taken back at the next boot  nouveau" in found
        unit.world.reboot()
        assert unit.world.drivers() == READY

    def test_what_the_host_uses_by_now_stays_lent(self, ready: Unit, tree: HostTree):
        ready.act("lend", address=GPU)
        uses.framebuffer(tree, "nouveaudrmfb", GPU)
        uses.console(tree, 1, "frame buffer device", bound=True)
        before = ready.world.snapshot("etc", "var/lib")
        ready.world.forget()
        uses.interface(tree, GPU, "eth7")
        uses.route(tree, "eth7", default=True)
        message, _ = ready.act_in_vain("take-back", address=GPU)
        assert message == (
            f"{GPU} stays lent: carries the host's traffic: eth7 has the default route; free it,"
            " or set allow-in-use: true on the item"
        )
        assert ready.world.snapshot("etc", "var/lib") == before
        assert ready.world.kernel.writes() == []
        assert ready.run() == ops.ActiveStatus(LENT)

    def test_a_card_that_is_gone_is_said_and_forgotten(self, ready: Unit, tree: HostTree):
        ready.act("lend", address=GPU)
        for each in reversed(CARD):
            tree.unplug(each)
        assert ready.run() == ops.ActiveStatus(LENT)
        found = ready.act("take-back", address=GPU, format="json")["functions"]
        assert [(each["address"], each["driver"], each["note"]) for each in found] == [
            (each, None, "is not in this host any more") for each in CARD
        ]
        assert lent(ready) == []
        assert ready.status == "active: gpu: 1 ready"

    def test_another_card_there_is_said(self, ready: Unit):
        ready.act("lend", address=GPU)
        change_serial(ready.world)
        found = ready.act("take-back", address=GPU, format="json")["functions"]
        assert found[0]["note"] == (
            "another card stands there: it was 10de:1bb0 old, and is 10de:1bb0"
            " 00-00-00-00-00-00-00-2a"
        )
        assert ready.status == "active: gpu: 2 ready"

    def test_another_model_there_is_refused_with_the_reason(self, ready: Unit, tree: HostTree):
        ready.act("lend", address=GPU)
        for each in reversed(CARD):
            tree.unplug(each)
        above = "0000:80:01.0"
        tree.function(GPU, "10de:2235", 0x030000, parent=above, driver="nouveau", group=90)
        message, _ = ready.act_in_vain("take-back", address=GPU)
        assert message == (
            f"{GPU} stays lent: another card stands there: it was 10de:1bb0, and is 10de:2235;"
            " holds 10de:2235, not 10de:1bb0; correct the id or the address"
        )

    def test_what_no_item_asks_for_any_more_stays_with_the_host(self, ready: Unit):
        ready.act("lend", address=GPU)
        ready.run(devices="gpu=10de:1bb0@0000:84:00.0")
        found = ready.act("take-back", address=GPU, format="json")["functions"]
        assert [each["note"] for each in found] == ["no item asks for it"] * 2
        assert ready.world.drivers() == WITH_LOAN
        assert ready.status == "active: gpu: 1 ready"


def change_serial(world: World) -> None:
    """Let the card have another serial number than the one that was lent."""
    loan = world.record().lent[GPU]
    with world.ledger() as ledger:
        lent = {**ledger.present.lent, GPU: loan._replace(serial="old")}
        ledger.update(lent=lent)
    capability = (0x0003 | 1 << 16).to_bytes(4, "little") + (0x2A).to_bytes(8, "little")
    path = world.tree.directory(GPU) / "config"
    path.write_bytes(path.read_bytes().ljust(256, b"\0")[:256] + capability)


class TestInBetween:
    """Somebody comes to use a function between the question and the change."""

    def test_a_guest_keeps_what_was_about_to_be_lent(self, ready: Unit, monkeypatch):
        ready.world.nova.install()
        ready.run()
        before = ready.world.record()
        restart = ready.world.tools.restart

        def give_it_to_a_guest(service: str) -> bool:
            ready.world.kernel.hold(GPU, process=4711)
            return restart(service)

        monkeypatch.setattr(ready.world.tools, "restart", give_it_to_a_guest)
        message, _ = ready.act_in_vain("lend", address=GPU)
        assert message == (
            f"{GPU}: a guest holds it by now (process 4711); {AUDIO}: a guest holds it by now"
            " (process 4711); all is as it was before"
        )
        assert (ready.world.record().taken, lent(ready)) == (before.taken, [])
        assert ready.world.nova.offered() == [GPU, "0000:84:00.0"]
        assert ready.world.drivers() == READY

    def test_the_host_keeps_what_was_about_to_be_taken_back(self, ready: Unit, tree: HostTree):
        ready.act("lend", address=GPU)

        def come_up(_: object) -> None:
            ready.world.tools.before_rebuild = lambda what: None
            uses.interface(tree, GPU, "eth7")
            uses.route(tree, "eth7", default=True)

        ready.world.tools.before_rebuild = come_up
        message, _ = ready.act_in_vain("take-back", address=GPU)
        assert message.startswith(f"{GPU}: left alone, as it cannot be claimed any more: carries")
        assert message.endswith("all is as it was before")
        assert lent(ready) == list(CARD)
        assert ready.world.drivers() == WITH_LOAN
        assert ready.status == f"active: {LENT}"

    def test_a_rebuild_that_fails_is_gone_on_with_by_the_next_hook(self, ready: Unit):
        ready.world.tools.failing["initramfs"] = "No space left on device"
        message, _ = ready.act_in_vain("lend", address=GPU)
        assert message.startswith("initramfs failed with exit code 1: No space left on device;")
        assert message.endswith("; what is lent is noted, and the next hook goes on")
        ready.world.tools.failing.clear()
        assert ready.run() == ops.ActiveStatus(LENT)
        assert ready.world.drivers() == WITH_LOAN


class TestOthers:
    def test_another_application_does_not_claim_what_is_lent(self, ready: Unit):
        ready.act("lend", address=GPU)
        ready.act("lend", address="0000:84:00.0")
        other = ready.world.beside("other")
        found = other.hook("x=10de:1bb0@0000:83:00.0")
        assert found.message == (
            f"devices: item 1 x=10de:1bb0@{GPU}: {GPU} is claimed by the application"
            " pci-passthrough already"
        )
        assert other.record().taken == {}
        assert ready.world.drivers()[GPU] == "nouveau"

    def test_it_may_once_the_unit_has_left_and_kept_everything(self, ready: Unit):
        ready.act("lend", address=GPU)
        with ready.world.ledger() as ledger:
            ledger.update(owner=None, keep=True)
        other = ready.world.beside("other")
        other.hook("x=10de:1bb0@0000:83:00.0")
        assert list(other.record().taken) == list(CARD)

    def test_a_group_that_two_applications_share_is_refused(self, world: World):
        world.turn_iommu_on()
        world.tree.iommu_on(dict.fromkeys((*CLAIMED,), 77))
        world.hook("gpu=10de:1bb0@0000:83:00.0, gpu=10de:1bb0@0000:84:00.0")
        other = world.beside("other")
        with world.ledger() as ledger, other.ledger() as others:
            taken = dict(ledger.present.taken)
            moved = {each: taken.pop(each) for each in CLAIMED[2:]}
            others.update(taken=moved, activated={"initramfs": "x"}, owner=other.owner)
            ledger.update(taken=taken)
        with pytest.raises(lending.LendingError) as caught:
            lending.lend(world.decide(ONE), GPU)
        assert str(caught.value) == (
            f"{GPU} shares IOMMU group 77 with 0000:84:00.0, which the application other has"
            " claimed; leave the whole group to one of the two applications"
        )

    def test_a_controller_lends_nothing(self, ready: Unit, monkeypatch: pytest.MonkeyPatch):
        import charm

        monkeypatch.setattr(charm.PciPassthroughCharm, "is_controller", True)
        for name in ("lend", "take-back"):
            message, _ = ready.act_in_vain(name, address=GPU)
            assert message == "this unit is beside nova-cloud-controller and binds nothing"

    def test_a_unit_that_leaves_forgets_what_is_lent(self, ready: Unit):
        ready.act("lend", address=GPU)
        ready.world.leave()
        assert ready.world.record() == record.Record()
        assert ready.world.drivers()[GPU] == "nouveau"

    def test_on_removal_keep_keeps_it_lent_for_the_unit_that_comes_after(self, ready: Unit):
        ready.act("lend", address=GPU)
        ready.run("stop", on_removal="keep")
        assert lent(ready) == list(CARD)


class TestIsShown:
    @pytest.fixture(autouse=True)
    def with_a_loan(self, ready: Unit) -> None:
        ready.act("lend", address=GPU)

    def test_by_plan(self, ready: Unit):
        found = ready.act("plan")
        assert found["plan"]["lent"] == list(CARD)
        assert f"lent to the host: {GPU}, {AUDIO}; the action take-back ends that" in found["table"]
        assert "\n\nnothing to change" in found["table"]
        assert [(each["rule"], each["blocking"]) for each in found["plan"]["refusals"]] == [
            ("lent", False)
        ]

    def test_by_verify_which_is_green(self, ready: Unit):
        checks = {each["name"]: each for each in ready.act("verify")["checks"]}
        for each in CARD:
            assert checks[f"lent {each}"]["status"] == "ok"
            assert checks[f"lent {each}"]["seen"] == (
                f"to the host, on {NATIVE[each]}; the action take-back ends that"
            )
        assert checks["devices"]["seen"] == "2 functions claimed"

    def test_by_verify_where_it_has_not_gone_there_or_is_not_there(self, ready: Unit, tree):
        tree.unplug(AUDIO)
        with ready.world.ledger() as ledger:
            ledger.update(taken={**ledger.present.taken, GPU: "nouveau"})
        tree.bind(GPU, "vfio-pci")
        assert ready.world.shown(f"lent {GPU}") == (
            "fail: is not given back yet -> run the action reconcile"
        )
        assert ready.world.shown(f"lent {AUDIO}") == (
            "ok: is not in this host now; the action take-back ends the loan"
        )

    def test_by_list_devices(self, ready: Unit):
        rows = ready.act("list-devices", match="10de:1bb0")["devices"]
        assert [row["lent"] for row in rows] == [True, False, False]


class TestWhatIsNotClaimed:
    """The reason says what stands against the claim, where there is one."""

    def test_is_told_with_what_the_claim_was_refused_for(self, ready: Unit, tree: HostTree):
        tree.bind("0000:85:00.0", "nouveau")
        uses.interface(tree, "0000:85:00.0", "eth7")
        uses.route(tree, "eth7", default=True)
        message, _ = ready.act_in_vain("lend", address="0000:85:00.0")
        assert message.startswith('"0000:85:00.0" is not claimed on this host; claimed are ')
        ready.run(devices="gpu=10de:1bb0")
        message, _ = ready.act_in_vain("lend", address="0000:85:00.0")
        assert message == (
            "0000:85:00.0 is not claimed: it carries the host's traffic: eth7 has the default"
            " route; free it, or set allow-in-use: true on the item"
        )

    def test_is_the_hosts_where_its_item_counts_its_vfs(self, ready: Unit):
        decision = ready.world.decide("- {id: 8086:1572, address: 0000:3b:00.0, vfs: 2}")
        with pytest.raises(lending.LendingError) as caught:
            lending.lend(decision, "0000:3b:00.0")
        assert str(caught.value) == (
            "0000:3b:00.0 is the host's already: its item asks for its VFs alone"
        )
