"""A unit tells how its devices are: in its status, in `plan` and in `verify`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ops
import pytest
from harness import hosttree
from harness.constants import CLAIMED, GPU_ID, MODULES
from harness.unit import Unit

from passthrough import frozen
from passthrough.state import record

FIRST, SECOND = CLAIMED[0], CLAIMED[2]
SERIAL = "00-04-4b-ff-fe-01-02-03"
FATAL = "Undefined 0\nDLP 2\nTOTAL_ERR_FATAL 2\n"
READY = ops.ActiveStatus("gpu: 2 ready")


def put(tree: hosttree.HostTree, name: str, content: str | bytes, address: str = FIRST) -> None:
    """Write an attribute of a function as the kernel shows it."""
    path = tree.directory(address) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def fall_off(tree: hosttree.HostTree, address: str = FIRST) -> None:
    put(tree, "config", b"\xff" * 4096, address)


def tell_serial(tree: hosttree.HostTree, address: str, serial: str = SERIAL) -> None:
    """Give a card an extended capability with its serial number."""
    header = (0x0003 | 1 << 16).to_bytes(4, "little")
    space = (tree.directory(address) / "config").read_bytes()[:256] + header
    put(tree, "config", space + bytes.fromhex(serial.replace("-", ""))[::-1] + bytes(64), address)


def health(unit: Unit) -> dict[str, dict[str, Any]]:
    return {each["address"]: each for each in unit.act("plan")["plan"]["health"]}


def shown(unit: Unit, action: str) -> str:
    """What an action shows people."""
    return unit.act(action, format="table")["table"]


def checks(unit: Unit) -> dict[str, tuple[str, str]]:
    """Name → result and what was seen, of the checks of health."""
    try:
        found = unit.act("verify")["checks"]
    except Exception:  # the action fails with a check
        _, results = unit.act_in_vain("verify", format="json")
        found = json.loads(results["checks"])
    return {
        each["name"]: (each["status"], each["seen"])
        for each in found
        if each["name"].startswith("health ")
    }


def test_devices_that_are_well(settled: Unit):
    assert {each["verdict"] for each in health(settled).values()} == {"well"}
    assert set(checks(settled).values()) == {("ok", "well")}
    assert list(health(settled)) == list(CLAIMED)


def test_an_update_status_notices_a_card_that_fell_off_the_bus(
    settled: Unit, tree: hosttree.HostTree, runs: list[str]
):
    fall_off(tree)
    message = f"sick: {FIRST} fell off the bus; gpu: 1 ready; quarantined: {FIRST}"
    said = ops.ActiveStatus(message)
    assert settled.run("update_status") == said
    assert runs == ["reconcile"]
    assert settled.run("update_status") == said
    assert settled.run("update_status") == said
    assert runs == ["reconcile"], "a card that stays sick costs no further hook"
    result, seen = checks(settled)[f"health {FIRST}"]
    assert (result, seen) == (
        "fail",
        "sick: fell off the bus (its configuration space reads as ones)",
    )
    assert health(settled)[FIRST]["answer"] == "ones"
    assert f"sick: {FIRST} fell off the bus" in shown(settled, "plan")


def test_nothing_is_done_to_a_sick_card_but_that_nova_is_not_offered_it(
    settled: Unit, tree: hosttree.HostTree
):
    before = settled.world.record()
    fall_off(tree)
    settled.run("update_status")
    assert tree.driver_of(FIRST) == "vfio-pci"
    after = settled.world.record()
    assert list(after.quarantine) == [FIRST]
    assert frozen.replace(after, quarantine={}, restarted=0) == before


def test_several_are_counted(settled: Unit, tree: hosttree.HostTree):
    for address in CLAIMED:
        fall_off(tree, address)
    assert settled.run("update_status") == ops.ActiveStatus(
        f"sick: {FIRST} fell off the bus (3 more: run the verify action);"
        f" quarantined: {FIRST}, {SECOND}"
    )


def test_a_status_does_not_follow_a_count_that_grows(
    settled: Unit, tree: hosttree.HostTree, runs: list[str]
):
    put(tree, "aer_dev_fatal", FATAL)
    message = f"sick: {FIRST} had a fatal PCIe error; gpu: 1 ready; quarantined: {FIRST}"
    said = ops.ActiveStatus(message)
    assert settled.run("update_status") == said
    put(tree, "aer_dev_fatal", FATAL.replace("2", "3"))
    assert settled.run("update_status") == said
    assert runs == ["reconcile"]
    seen = "sick: had a fatal PCIe error (3 since the kernel found it: DLP)"
    assert checks(settled)[f"health {FIRST}"] == ("fail", seen)


def test_an_alert_blocks_nothing_and_fails_nothing(settled: Unit, tree: hosttree.HostTree):
    put(tree, "aer_dev_correctable", "RxErr 4711\nTOTAL_ERR_COR 4711\n")
    said = ops.ActiveStatus(f"gpu: 2 ready; alert: {FIRST} has many correctable PCIe errors")
    assert settled.run("update_status") == said
    seen = "alert: has many correctable PCIe errors (4711 since the kernel found it: RxErr)"
    assert checks(settled)[f"health {FIRST}"] == ("unknown", seen)


def test_a_link_that_comes_and_goes_is_in_no_status(
    settled: Unit, tree: hosttree.HostTree, runs: list[str]
):
    put(tree, "current_link_width", "8\n")
    put(tree, "max_link_width", "16\n")
    put(tree, "max_link_width", "16\n", "0000:80:01.0")
    assert settled.run("update_status") == READY
    assert runs == []
    assert checks(settled)[f"health {FIRST}"] == (
        "unknown",
        "alert: has a narrow link (x8, and x16 is possible)",
    )
    put(tree, "max_link_width", "8\n", "0000:80:01.0")
    assert checks(settled)[f"health {FIRST}"] == ("ok", "well")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda tree: put(tree, "power_state", "D3cold\n"), "it sleeps, and is not woken"),
        (lambda tree: put(tree, "config", b"\xff"), "its configuration space cannot be read"),
        (
            lambda tree: put(tree, "power_state", "D5\n"),
            "the kernel does not tell whether it sleeps",
        ),
    ],
    ids=["asleep", "short", "power"],
)
def test_what_cannot_be_told_is_neither_sick_nor_well(
    settled: Unit, tree: hosttree.HostTree, spoil: Callable[[hosttree.HostTree], None], why: str
):
    spoil(tree)
    assert settled.run("update_status") == READY
    assert checks(settled)[f"health {FIRST}"] == ("ok", f"not known: {why}")


def test_without_a_reset_the_next_guest_meets_the_last_one(settled: Unit, tree: hosttree.HostTree):
    put(tree, "reset_method", "\n")
    assert settled.run("update_status") == READY
    assert checks(settled)[f"health {FIRST}"] == ("ok", "well; has no reset method")
    assert "meets what the last one left" in " ".join(shown(settled, "plan").split())


class TestMissing:
    """A function that was there and is not any more."""

    GONE = CLAIMED[:2]

    @pytest.fixture
    def unplugged(self, settled: Unit, tree: hosttree.HostTree) -> Unit:
        """The unit, whose first card is no more."""
        for address in self.GONE:
            tree.unplug(address)
        return settled

    def test_is_told_until_it_is_back(self, unplugged: Unit, tree: hosttree.HostTree):
        said = ops.ActiveStatus(f"sick: {FIRST} is missing; gpu: 1 ready")
        for _ in range(3):
            assert unplugged.run("update_status") == said
        assert unplugged.world.record().missing == {FIRST: {"id": GPU_ID, "serial": ""}}
        seen = f"sick: is missing ({GPU_ID} was there)"
        assert checks(unplugged)[f"health {FIRST}"] == ("fail", seen)
        for address in self.GONE:
            tree.plug(address)
        assert unplugged.run("update_status") == READY
        assert unplugged.world.record().missing == {}

    def test_a_settled_unit_only_looks(self, unplugged: Unit, runs: list[str]):
        for _ in range(4):
            unplugged.run("update_status")
        settled = len(runs)
        assert settled <= 2
        unplugged.run("update_status")
        assert len(runs) == settled

    def test_survives_a_refresh_and_an_edit(self, unplugged: Unit, tree: hosttree.HostTree):
        unplugged.run("update_status")
        tree.write(MODULES, "# edited\n")
        assert unplugged.run("upgrade_charm").message.startswith(f"sick: {FIRST} is missing")

    def test_all_of_them(self, unplugged: Unit, tree: hosttree.HostTree):
        for address in CLAIMED[2:]:
            tree.unplug(address)
        unplugged.run("update_status")
        unplugged.run("update_status")
        found = unplugged.run("update_status")
        assert found.message.startswith(f"sick: {FIRST} is missing (1 more: run the verify action)")

    def test_is_forgotten_when_no_item_asks_for_it(self, unplugged: Unit):
        unplugged.run("update_status")
        unplugged.run("config_changed", devices=f"gpu={GPU_ID}@{SECOND}")
        assert unplugged.world.record().missing == {}
        unplugged.run("config_changed", devices="")
        assert unplugged.world.record().is_empty

    def test_another_card_in_its_place_is_no_missing_one(
        self, unplugged: Unit, tree: hosttree.HostTree
    ):
        unplugged.run("update_status")
        tree.function(FIRST, "10de:20b5", 0x030200, parent="0000:80:01.0", group=77)
        unplugged.run("update_status")
        assert unplugged.world.record().missing == {}


def moved(ready: Any, tree: hosttree.HostTree, serial: str) -> dict[str, Any]:
    """Claim by model; take one card out of its slot, and have another slot tell ``serial``."""
    ready.hook(f"gpu={GPU_ID}@0000:8[34]:00.0, gpu={GPU_ID}@0000:91:00.0")
    for address in CLAIMED[:2]:
        tree.unplug(address)
    tree.function("0000:91:00.0", GPU_ID, 0x030000, parent="0000:80:01.0", group=91)
    if serial:
        tell_serial(tree, "0000:91:00.0", serial)
    ready.hook()
    return dict(ready.record().missing)


def test_a_card_in_another_slot_is_not_missing(ready, tree: hosttree.HostTree):
    tell_serial(tree, FIRST)
    assert moved(ready, tree, SERIAL) == {}


def test_another_card_in_another_slot_does_not_hide_it(ready, tree: hosttree.HostTree):
    tell_serial(tree, FIRST)
    other = SERIAL.replace("03", "04")
    assert moved(ready, tree, other) == {FIRST: {"id": GPU_ID, "serial": SERIAL}}


def test_a_card_that_tells_no_serial_may_be_the_one_that_is_new(ready, tree: hosttree.HostTree):
    assert moved(ready, tree, "") == {}


def test_vfs_come_and_go(make_host, monkeypatch: pytest.MonkeyPatch):
    from harness.world import World

    tree = make_host()
    tree.function("0000:18:00.0", "8086:1520", 0x020000, driver="igb", total_vfs=4)
    tree.virtual_functions("0000:18:00.0", ["0000:18:10.0"], "8086:1521", driver="igbvf")
    tree.iommu_on()
    world = World.of(tree, monkeypatch)
    world.hook("vf=8086:1521/VF")
    assert world.record().identities["0000:18:10.0"] == {
        "id": "8086:1521",
        "serial": "",
        "type": "type-VF",
    }
    tree.unplug("0000:18:10.0")
    world.hook()
    assert world.record().missing == {}


def test_a_former_revision_reads_a_record_with_a_missing_card(ready, tree: hosttree.HostTree):
    """Its format stays: what does not know the key does all that it did."""
    for address in CLAIMED[:2]:
        tree.unplug(address)
    ready.hook()
    path = tree.root / record.DIRECTORY / "pci-passthrough.json"
    data = json.loads(path.read_text())
    assert data["format"] == 4
    assert data["record"].pop("missing") == {FIRST: {"id": GPU_ID, "serial": ""}}
    path.write_text(json.dumps(data))
    assert ready.record().missing == {}
    assert record.find_unknown(ready.site) == ()


def test_a_missing_address_that_is_none_is_left_out(ready, tree: hosttree.HostTree):
    path = tree.root / record.DIRECTORY / "pci-passthrough.json"
    data = json.loads(path.read_text())
    data["record"]["missing"] = {"../../etc": {"id": GPU_ID, "serial": ""}}
    path.write_text(json.dumps(data))
    assert ready.record().missing == {}


def test_it_is_read_of_claimed_functions_alone(ready_unit: Unit, monkeypatch: pytest.MonkeyPatch):
    from passthrough.host import health as reader

    asked: list[str] = []
    real = reader.Reader._read

    def counted(self: reader.Reader, function: Any) -> Any:
        asked.append(function.address)
        return real(self, function)

    monkeypatch.setattr(reader.Reader, "_read", counted)
    ready_unit.run("update_status")
    asked.clear()
    ready_unit.run("update_status")
    assert sorted(asked) == sorted(CLAIMED), "once each"
