"""What is sick and free is not offered to Nova, and returns; hardly any restart is for that."""

from __future__ import annotations

from collections.abc import Callable

import ops
import pytest
from harness import hosttree
from harness.constants import CLAIMED, GPU_ID
from harness.unit import Unit
from harness.world import World

import charm
from passthrough.state import record
from passthrough.system import clock, commands

FIRST, AUDIO, SECOND = CLAIMED[:3]
BOTH = [FIRST, SECOND]
FATAL = "Undefined 0\nDLP {0}\nTOTAL_ERR_FATAL {0}\n"
READY = ops.ActiveStatus("gpu: 2 ready")
BEGIN = 1_790_000_000
MINUTE = 60
MANUAL = f'[{{"id": "{GPU_ID}", "alias": "gpu", "quarantine": "manual"}}]'


def put(tree: hosttree.HostTree, name: str, content: str | bytes, address: str = FIRST) -> None:
    """Write an attribute of a function as the kernel shows it."""
    path = tree.directory(address) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def unplug(tree: hosttree.HostTree) -> None:
    """The slot of the first card loses its power."""
    for address in (FIRST, AUDIO):
        tree.unplug(address)


def plug(tree: hosttree.HostTree) -> None:
    """It has its power again."""
    for address in (FIRST, AUDIO):
        tree.plug(address)


class Box:
    """A card that falls ill and recovers, and the clock on the wall."""

    def __init__(self, tree: hosttree.HostTree):
        self.tree = tree
        self.now = BEGIN
        self._spaces: dict[str, bytes] = {}

    def fall_off(self, address: str = FIRST) -> None:
        self._spaces[address] = (self.tree.directory(address) / "config").read_bytes()
        put(self.tree, "config", b"\xff" * 4096, address)

    def come_back(self, address: str = FIRST) -> None:
        put(self.tree, "config", self._spaces[address], address)

    def sleep(self, address: str = FIRST) -> None:
        put(self.tree, "power_state", "D3cold\n", address)

    def count_fatal(self, number: int, address: str = FIRST) -> None:
        put(self.tree, "aer_dev_fatal", FATAL.format(number), address)

    def tell_serial(self, serial: str, address: str = FIRST) -> None:
        header = (0x0003 | 1 << 16).to_bytes(4, "little")
        space = (self.tree.directory(address) / "config").read_bytes()[:256] + header
        told = bytes.fromhex(serial.replace("-", ""))[::-1]
        put(self.tree, "config", space + told + bytes(64), address)

    def wait(self, minutes: int) -> None:
        self.now += minutes * MINUTE


@pytest.fixture
def box(tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = Box(tree)
    monkeypatch.setattr(clock, "now", lambda: made.now)
    return made


@pytest.fixture
def host(ready: World, box: Box) -> World:
    """A host with Nova, which is offered both GPUs."""
    assert box.now == BEGIN
    ready.nova.install()
    ready.hook()
    assert ready.nova.offered() == BOTH
    ready.forget()
    return ready


class TestFree:
    def test_is_not_offered_any_more(self, host: World, box: Box):
        box.fall_off()
        said = f"active: sick: {FIRST} fell off the bus; gpu: 1 ready; quarantined: {FIRST}"
        assert f"active: {host.hook().message}" == said
        assert host.nova.offered() == [SECOND]
        assert (host.nova.restarts(), host.record().restarts) == (1, 1)
        assert host.tree.driver_of(FIRST) == "vfio-pci", "nothing else is done to it"
        entry = host.record().quarantine[FIRST]
        assert (entry.id, entry.why, entry.since) == (GPU_ID, "off-the-bus", BEGIN)

    def test_goes_with_its_companion(self, host: World, box: Box):
        """A card of which a part fell off the bus cannot be reset as a whole."""
        box.fall_off(AUDIO)
        assert host.hook().message == (
            f"sick: {AUDIO} fell off the bus; gpu: 1 ready; quarantined: {FIRST}"
        )
        assert host.nova.offered() == [SECOND]

    def test_an_alert_and_an_unknown_are_no_reason(self, host: World, box: Box):
        put(host.tree, "aer_dev_correctable", "RxErr 4711\nTOTAL_ERR_COR 4711\n")
        box.sleep(SECOND)
        host.hook()
        assert host.nova.offered() == BOTH
        assert host.nova.restarts() == 0

    def test_what_was_never_offered_waits_for_nothing(self, host: World, box: Box):
        """It restarts no nova-compute, so the interval between restarts does not bar it."""
        box.fall_off()
        host.hook()
        box.fall_off("0000:85:00.0")
        host.hook(f"gpu={GPU_ID}")
        assert host.nova.offered() == [SECOND]
        assert list(host.record().quarantine) == [FIRST, "0000:85:00.0"]
        assert host.record().restarts == 1

    def test_a_manual_item_stays_offered(self, host: World, box: Box):
        host.hook(MANUAL)
        box.fall_off()
        host.forget()
        assert host.hook().message.startswith(f"sick: {FIRST} fell off the bus; gpu: ")
        assert FIRST in host.nova.offered()
        assert host.record().quarantine == host.record().due == {}
        assert host.nova.restarts() == 0

    def test_that_becomes_manual_is_offered_again(self, host: World, box: Box):
        box.fall_off()
        host.hook()
        host.hook(MANUAL)
        assert FIRST in host.nova.offered()
        assert host.record().quarantine == {}

    def test_that_nobody_asks_for_is_forgotten(self, host: World, box: Box):
        box.fall_off()
        host.hook()
        host.hook(f"gpu={GPU_ID}@{SECOND}")
        assert host.record().quarantine == {}

    def test_all_is_forgotten_when_the_unit_leaves(self, host: World, box: Box):
        box.fall_off()
        host.hook()
        host.leave()
        assert host.record() == record.Record()


class TestHeld:
    def test_stays_offered_until_its_guest_lets_go(self, host: World, box: Box):
        held = host.kernel.hold(FIRST)
        box.fall_off()
        assert host.hook().message == f"sick: {FIRST} fell off the bus; gpu: 1 ready"
        assert host.nova.offered() == BOTH
        assert list(host.record().due) == [FIRST]
        assert host.nova.restarts() == 0
        host.kernel.close(held)
        assert host.hook().message.endswith(f"quarantined: {FIRST}")
        assert host.nova.offered() == [SECOND]
        assert (host.nova.restarts(), host.record().due) == (1, {})

    def test_what_was_seen_then_counts_when_it_sleeps(self, host: World, box: Box):
        """vfio-pci lets a free card sleep, and a dead one tells nothing more."""
        held = host.kernel.hold(FIRST)
        box.fall_off()
        host.hook()
        host.kernel.close(held)
        box.sleep()
        assert host.hook().message == f"gpu: 1 ready; quarantined: {FIRST}"
        assert host.nova.offered() == [SECOND]

    def test_that_came_back_in_between_is_well(self, host: World, box: Box):
        held = host.kernel.hold(FIRST)
        box.fall_off()
        host.hook()
        box.come_back()
        host.hook()
        assert host.record().due == {}
        host.kernel.close(held)
        assert host.hook() == ("active", READY.message)
        assert host.nova.restarts() == 0

    def test_guests_that_come_and_go_restart_nothing(self, host: World):
        for address in (FIRST, SECOND, FIRST):
            held = host.kernel.hold(address)
            host.hook()
            host.kernel.close(held)
            host.hook()
        assert host.nova.restarts() == host.record().restarts == 0

    def test_a_count_by_which_it_cannot_be_woken_waits_for_the_guest(self, host: World, box: Box):
        """The next guest could not open it; the one that has it works on."""
        held = host.kernel.hold(FIRST)
        put(host.tree, "enable", "1\n")
        put(host.tree, "power/runtime_status", "error\n")
        assert host.hook().message == (
            f"gpu: 2 ready; alert: {FIRST} could not be woken or put to sleep"
        )
        host.kernel.close(held)
        put(host.tree, "enable", "0\n")
        assert host.hook().message == (
            f"sick: {FIRST} cannot be woken for a guest; gpu: 1 ready; quarantined: {FIRST}"
        )
        put(host.tree, "power/runtime_status", "suspended\n")
        host.hook()
        box.wait(30)
        assert host.hook() == ("active", READY.message)


class TestReturn:
    @pytest.fixture
    def aside(self, host: World, box: Box) -> World:
        box.fall_off()
        host.hook()
        host.forget()
        return host

    def test_after_it_was_well_for_a_time(self, aside: World, box: Box):
        box.wait(60)
        box.come_back()
        assert aside.hook().message == f"gpu: 1 ready; quarantined: {FIRST}"
        box.wait(29)
        aside.hook()
        assert aside.nova.offered() == [SECOND]
        box.wait(1)
        assert aside.hook() == ("active", READY.message)
        assert aside.nova.offered() == BOTH
        assert aside.record().quarantine == {}
        assert (aside.nova.restarts(), aside.record().restarts) == (1, 2)

    def test_begins_anew_with_each_relapse(self, aside: World, box: Box):
        box.come_back()
        aside.hook()
        box.wait(29)
        box.fall_off()
        aside.hook()
        box.come_back()
        box.wait(29)
        aside.hook()
        box.wait(29)
        aside.hook()
        assert aside.nova.offered() == [SECOND]

    def test_not_for_want_of_evidence(self, aside: World, box: Box):
        box.sleep()
        for _ in range(3):
            box.wait(60)
            aside.hook()
        assert aside.nova.offered() == [SECOND]
        box.come_back()
        put(aside.tree, "power_state", "D0\n")
        aside.hook()
        box.sleep()
        box.wait(30)
        assert aside.hook() == ("active", READY.message)

    def test_another_boot_has_found_the_card_anew(self, aside: World, box: Box):
        """It is the way out for a card that fell off the bus, which sleeps behind it."""
        box.come_back()
        aside.reboot()
        box.sleep()
        aside.hook()
        box.wait(30)
        assert aside.hook() == ("active", READY.message)

    def test_another_card_is_not_the_sick_one(self, host: World, box: Box):
        box.tell_serial("00-04-4b-ff-fe-01-02-03")
        host.hook()
        box.count_fatal(1)
        host.hook()
        assert host.record().quarantine[FIRST].serial == "00-04-4b-ff-fe-01-02-03"
        box.tell_serial("00-04-4b-ff-fe-99-99-99")
        box.count_fatal(0)
        assert host.hook() == ("active", READY.message)
        assert host.nova.offered() == BOTH
        assert host.record().quarantine == {}

    @pytest.mark.parametrize("jump", [-10 * 365 * 24 * 60, -31])
    def test_a_clock_that_was_set_back_locks_nothing_out(self, aside: World, box: Box, jump: int):
        box.come_back()
        aside.hook()
        box.wait(jump)
        aside.hook()
        box.wait(30)
        assert aside.hook() == ("active", READY.message)

    def test_an_update_status_notices_and_looks_cheaply(
        self, settled: Unit, box: Box, runs: list[str]
    ):
        box.fall_off()
        settled.run("update_status")
        box.come_back()
        settled.run("update_status")
        runs.clear()
        for _ in range(5):
            box.wait(5)
            settled.run("update_status")
        assert runs == []
        box.wait(5)
        assert settled.run("update_status") == READY
        assert runs == ["reconcile"]


class TestPace:
    def test_another_sick_card_waits_its_turn(self, host: World, box: Box):
        box.fall_off(FIRST)
        host.hook()
        box.wait(10)
        box.fall_off(SECOND)
        host.hook()
        assert host.nova.offered() == [SECOND]
        assert list(host.record().due) == [SECOND]
        box.wait(19)
        host.hook()
        assert (host.nova.restarts(), list(host.record().due)) == (1, [SECOND])
        box.wait(1)
        host.hook()
        assert host.nova.offered() == []
        assert host.nova.restarts() == host.record().restarts == 2

    def test_what_an_operator_changes_is_not_held_up(self, host: World, box: Box):
        box.fall_off()
        host.hook()
        box.wait(1)
        host.hook(f"card={GPU_ID}@{SECOND}")
        assert host.nova.restarts() == 2
        assert host.record().restarts == 1, "that one was not for a quarantine"

    def test_a_flapping_slot(self, host: World, box: Box, flap: Callable[[], None]):
        """It vanishes and comes back for two hours, at each second update-status."""
        for _ in range(12):
            flap()
        assert host.nova.restarts() == host.record().restarts == 1
        assert host.nova.offered() == [SECOND]
        assert host.record().quarantine[FIRST].why == "missing"
        box.wait(30)
        assert host.hook() == ("active", READY.message)
        assert host.nova.restarts() == host.record().restarts == 2

    def test_a_slot_without_power_for_minutes_restarts_nothing(
        self, host: World, box: Box, flap: Callable[[], None]
    ):
        """A card that comes late after a boot, or that somebody reseats."""
        for _ in range(3):
            flap()
            box.wait(30)
        assert host.hook() == ("active", READY.message)
        assert host.nova.offered() == BOTH
        assert host.nova.restarts() == 0
        assert host.record().due == {}

    def test_a_card_that_stays_missing_is_not_offered(self, host: World, box: Box):
        unplug(host.tree)
        assert host.hook().message == f"sick: {FIRST} is missing; gpu: 1 ready"
        assert host.nova.offered() == BOTH, "it harms nobody: Nova lists what libvirt has"
        box.wait(10)
        assert host.hook().message == (
            f"sick: {FIRST} is missing; gpu: 1 ready; quarantined: {FIRST}"
        )
        assert host.nova.offered() == [SECOND]
        box.wait(30)
        plug(host.tree)
        host.hook()
        assert host.nova.offered() == [SECOND]
        box.wait(30)
        assert host.hook() == ("active", READY.message)
        assert (host.nova.restarts(), host.record().restarts) == (2, 2)

    def test_a_flapping_slot_of_a_manual_item_restarts_nothing(
        self, host: World, flap: Callable[[], None]
    ):
        host.hook(f'[{{"id": "{GPU_ID}", "alias": "gpu", "quarantine": "manual"}}]')
        offered = host.nova.offered()
        host.forget()
        for _ in range(3):
            flap()
        assert host.nova.offered() == offered
        assert host.nova.restarts() == 0

    def test_a_card_that_vanishes_in_the_interval_is_listed_until_its_end(
        self, host: World, box: Box, flap: Callable[[], None]
    ):
        box.fall_off(SECOND)
        host.hook()
        flap()
        assert host.nova.offered() == [FIRST]
        assert host.nova.restarts() == 1

    @pytest.fixture
    def flap(self, host: World, box: Box) -> Callable[[], None]:
        """The slot of the first card loses its power, and has it again."""

        def do() -> None:
            unplug(host.tree)
            host.hook()
            box.wait(5)
            plug(host.tree)
            host.hook()
            box.wait(5)

        return do

    def test_a_kill_before_the_restart_is_counted_once(self, host: World, box: Box):
        box.fall_off()
        host.tools.failing = {"restart": "no bus"}
        with pytest.raises(commands.CommandError):
            host.hook()
        assert host.record().restarts == 0
        host.tools.failing = {}
        host.hook()
        assert host.record().restarts == 1

    def test_a_restart_that_the_policy_layer_denies_is_none(self, host: World, box: Box):
        box.fall_off()
        host.tools.restarts_denied = True
        host.hook()
        assert host.record().restarts == 0


class TestByHand:
    """The action quarantine, and the action rebind, which ends it."""

    @pytest.fixture
    def unit(self, ready_unit: Unit, host: World) -> Unit:
        assert ready_unit.run("config_changed") == READY
        host.forget()
        return ready_unit

    def test_takes_a_function_off_the_offer(self, unit: Unit, host: World, box: Box):
        found = unit.act("quarantine", address=FIRST)
        assert found == {
            "table": f"ADDRESS       RESULT\n{FIRST}  quarantined",
            "functions": [
                {
                    "address": FIRST,
                    "offered": False,
                    "why": None,
                    "since": "2026-09-21T14:13:20Z",
                    "well-since": None,
                    "returns": None,
                }
            ],
        }
        assert host.nova.offered() == [SECOND]
        assert host.tree.driver_of(FIRST) == "vfio-pci"
        assert (host.nova.restarts(), host.record().restarts) == (1, 1)
        said = ops.ActiveStatus(f"gpu: 1 ready; quarantined: {FIRST}")
        for event in ("config_changed", "update_status"):
            box.wait(60)
            assert unit.run(event) == said, "it lasts until rebind"
        host.reboot()
        assert unit.run("start") == said

    def test_rebind_with_its_address_ends_it(self, unit: Unit, host: World):
        unit.act("quarantine", address=FIRST)
        unit.act("rebind", match=GPU_ID)
        assert host.nova.offered() == [SECOND], "one that names no address ends none"
        unit.act("rebind", address=FIRST)
        assert host.nova.offered() == BOTH
        assert host.nova.restarts() == host.record().restarts == 2
        assert unit.run("update_status") == READY

    def test_works_for_what_the_charm_found_sick(self, unit: Unit, host: World, box: Box):
        box.fall_off()
        unit.run("update_status")
        box.come_back()
        unit.act("quarantine", address=FIRST)
        box.wait(60)
        unit.run("update_status")
        box.wait(60)
        unit.run("update_status")
        assert host.nova.offered() == [SECOND]
        assert host.record().quarantine[FIRST].since == BEGIN
        assert host.record().restarts == 1

    def test_a_guest_that_holds_it_bars_it(self, unit: Unit, host: World):
        host.kernel.hold(FIRST)
        before = host.record()
        message, _ = unit.act_in_vain("quarantine", address=FIRST)
        assert message == (
            f"{FIRST}: a guest holds it (process 4711); stop or migrate the guest first"
        )
        assert host.record() == before

    def test_a_guest_that_got_it_meanwhile_keeps_it(self, unit: Unit, host: World):
        restart = host.tools.restart

        def restart_late(service: str) -> bool:
            if not host.nova.restarts():
                host.kernel.hold(FIRST)
            return restart(service)

        host.tools.restart = restart_late
        message, _ = unit.act_in_vain("quarantine", address=FIRST)
        assert message == (
            f"{FIRST}: a guest holds it by now (process 4711); all is as it was before"
        )
        assert host.nova.offered() == BOTH
        assert host.record().quarantine == {}

    @pytest.mark.parametrize(
        ("address", "why"),
        [
            ("0000:85:00.0", f"claimed are {FIRST}, {AUDIO}, {SECOND}, {CLAIMED[3]}"),
            ("nonsense", f"claimed are {FIRST}, {AUDIO}, {SECOND}, {CLAIMED[3]}"),
            (AUDIO, f"Nova is not offered it; name {FIRST} instead"),
        ],
    )
    def test_refuses_what_nova_is_not_offered(self, unit: Unit, address: str, why: str):
        message, _ = unit.act_in_vain("quarantine", address=address)
        assert message.endswith(why)

    def test_a_hook_that_fails_goes_on_later(self, unit: Unit, host: World):
        host.tools.failing = {"restart": "no bus"}
        message, _ = unit.act_in_vain("quarantine", address=FIRST)
        assert message.endswith("; the quarantine is noted, and the next hook goes on")
        host.tools.failing = {}
        unit.run("update_status")
        assert host.nova.offered() == [SECOND]
        assert host.record().restarts == 1

    def test_beside_a_controller_there_is_none(self, unit: Unit, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(charm.PciPassthroughCharm, "is_controller", True)
        message, _ = unit.act_in_vain("quarantine", address=FIRST)
        assert message == "this unit is beside nova-cloud-controller and binds nothing"


class TestRebind:
    @pytest.fixture
    def unit(self, ready_unit: Unit, host: World, box: Box) -> Unit:
        """A unit whose first card had two fatal errors."""
        box.count_fatal(2)
        assert host.record().quarantine == {}
        ready_unit.run("config_changed")
        assert host.nova.offered() == [SECOND]
        return ready_unit

    def test_accepts_the_errors_that_the_kernel_counts_by_then(
        self, unit: Unit, host: World, box: Box
    ):
        unit.act("rebind", address=FIRST)
        assert host.nova.offered() == BOTH
        assert unit.run("update_status") == READY
        assert host.record().accepted[FIRST].accepted == 2
        box.wait(60)
        box.count_fatal(3)
        assert unit.run("update_status").message.endswith(f"quarantined: {FIRST}")

    def test_a_count_that_began_anew_is_not_accepted(self, unit: Unit, host: World, box: Box):
        unit.act("rebind", address=FIRST)
        box.wait(60)
        box.count_fatal(0)
        host.reboot()
        assert unit.run("start") == READY
        assert host.record().accepted == {}
        box.count_fatal(1)
        assert unit.run("update_status").message.endswith(f"quarantined: {FIRST}")

    def test_does_not_bring_back_what_is_dead(self, unit: Unit, host: World, box: Box):
        box.fall_off()
        message, _ = unit.act_in_vain("rebind", address=FIRST)
        assert message.startswith(
            f"{FIRST} stays in quarantine: {FIRST} fell off the bus; move its"
        )
        assert host.nova.offered() == [SECOND]

    def test_is_shown_by_every_action(self, unit: Unit, box: Box):
        said = "quarantined: had a fatal PCIe error"
        box.count_fatal(0)
        box.wait(1)
        unit.run("update_status")
        plan = unit.act("plan")
        assert plan["plan"]["quarantine"] == [
            {
                "address": FIRST,
                "why": "fatal-errors",
                "since": "2026-09-21T14:13:20Z",
                "well-since": "2026-09-21T14:14:20Z",
                "returns": "2026-09-21T14:44:20Z",
            }
        ]
        state = f"{said}; well since 2026-09-21 14:14 UTC, returns at 2026-09-21 14:44 UTC"
        assert f"{FIRST} is {state}" in " ".join(plan["table"].split())
        rows = {row["address"]: row for row in unit.act("list-devices")["devices"]}
        assert rows[FIRST]["state"] == state
        assert rows[FIRST]["quarantine"]["why"] == "fatal-errors"
        assert rows[SECOND]["quarantine"] is None
        checks = {each["name"]: each for each in unit.act("verify")["checks"]}
        assert checks[f"state {FIRST}"]["seen"] == state
        assert checks[f"device_spec {FIRST}"]["seen"] == "not offered to Nova: it is in quarantine"
        assert {each["status"] for each in checks.values()} <= {"ok", "unknown"}
