"""Who has what of a host, as the column STATE says it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from harness import hosttree
from harness.constants import CLAIMED, GPU_ID, GPUS, SPARED
from harness.unit import Unit
from harness.world import World

from passthrough import cli
from passthrough.host import pci
from passthrough.host.health import Signs
from passthrough.host.uses import kinds
from passthrough.planning import guards, health
from passthrough.reporting import holdings, inventory, inventory_tree
from passthrough.reporting import taken as reading_taken
from passthrough.state import record
from passthrough.system import procfs

FIRST, AUDIO = CLAIMED[:2]
UUID = "6a3c1a4e-52a5-4f0c-9b58-0c9a7d1f2e3d"
DOMAIN = """\
<!--
WARNING: THIS IS AN AUTO-GENERATED FILE.
-->
<domstatus state='running' reason='booted' pid='{pid}'>
  <monitor path='/var/lib/libvirt/qemu/domain-3-instance-0000002a/monitor.sock' type='unix'/>
  <domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
    <name>{name}</name>
    <uuid>{uuid}</uuid>
    <metadata>
      <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
        <nova:name>Ünser größter Gast</nova:name>
      </nova:instance>
    </metadata>
  </domain>
</domstatus>
"""


def states(tree: hosttree.HostTree, devices: str = GPUS) -> dict[str, str]:
    """The state of every function, where the unit was told these devices."""
    host, processes = pci.read(tree.root), procfs.Processes(tree.root)
    taken = reading_taken.read(
        tree.root, host, processes, {"pci-passthrough": {"devices": devices}}
    )
    rows = inventory.describe(tree.root, host, processes, taken=taken)
    return {row["address"]: row["state"] for row in rows}


def hold(ready: World, name: str = "instance-0000002a", uuid: str = UUID) -> int:
    """Let a guest have the first card, which libvirt knows under a name."""
    process = 4711
    ready.kernel.hold(FIRST, process)
    text = DOMAIN.format(pid=process, name=name, uuid=uuid)
    ready.tree.write("run/libvirt/qemu/instance-0000002a.xml", text)
    return process


def test_of_a_host_that_is_ready(ready: World):
    found = states(ready.tree)
    assert {found[each] for each in CLAIMED} == {"gpu, ready"}
    assert {found[each] for each in SPARED} == {"free"}
    assert found["0000:80:01.0"] == "host"
    assert found["0000:00:00.0"] == "host"


def test_of_a_guest_that_libvirt_knows(ready: World):
    hold(ready)
    assert states(ready.tree)[FIRST] == f"gpu, held by instance-0000002a ({UUID})"


@pytest.mark.parametrize(
    ("name", "uuid"),
    [
        ("x</name><name>y", UUID),
        ("../../etc/passwd", UUID),
        ("\x1b[31mred", UUID),
        ("", UUID),
        ("instance-0000002a", "none"),
        ("instance-0000002a", UUID.upper()),
        ("instance-0000002a", f"{UUID}0"),
    ],
)
def test_of_a_domain_that_is_none_the_process_is_told(ready: World, name: str, uuid: str):
    process = hold(ready, name, uuid)
    assert states(ready.tree)[FIRST].startswith(f"gpu, held by process {process} (")


def test_of_a_domain_whose_file_cannot_be_read(ready: World):
    process = 4711
    ready.kernel.hold(FIRST, process)
    (ready.root / "run/libvirt/qemu/x.xml").mkdir(parents=True)
    ready.tree.write("run/libvirt/qemu/empty.xml", "")
    assert states(ready.tree)[FIRST].startswith(f"gpu, held by process {process} (")


def test_of_what_is_sick_who_holds_it_is_told_too(ready: World):
    path = ready.tree.directory(FIRST) / "config"
    path.write_bytes(b"\xff" * 64)
    assert states(ready.tree)[FIRST] == "sick: fell off the bus"
    hold(ready)
    expected = f"sick: fell off the bus; held by instance-0000002a ({UUID})"
    assert states(ready.tree)[FIRST] == expected


def test_before_the_reboot(world: World):
    world.hook(GPUS)
    found = states(world.tree)
    assert {found[each] for each in CLAIMED} == {"gpu, after the next reboot"}


def test_not_bound(ready: World):
    ready.tree.bind(FIRST, "nouveau")
    assert states(ready.tree)[FIRST] == "gpu, not on vfio-pci yet"


def test_an_item_without_an_alias_has_its_id_for_a_name(ready: World):
    assert states(ready.tree, GPUS.replace("gpu=", ""))[FIRST] == f"{GPU_ID}, ready"


def test_what_no_item_asks_for_any_more(ready: World):
    assert states(ready.tree, "")[FIRST] == "given back by the next hook"
    hold(ready)
    expected = f"held by instance-0000002a ({UUID}), then given back"
    assert states(ready.tree, "")[FIRST] == expected


@pytest.mark.parametrize("devices", ["gpu=", f"{GPU_ID}, {GPU_ID}"])
def test_options_that_are_not_accepted_name_nothing(ready: World, devices: str):
    assert states(ready.tree, devices)[FIRST] == "pci-passthrough, ready"


def test_a_record_that_cannot_be_read_is_not_the_same_as_none(ready: World):
    ready.tree.write(f"{record.DIRECTORY}/pci-passthrough.json", "{")
    found = states(ready.tree)
    assert found[FIRST] == "not known: a record of the charm cannot be read"
    assert found[SPARED[0]] == "free"


def test_of_another_application(ready: World):
    other = ready.beside("other")
    other.hook("spare=10de:1bb0@0000:85:00.0")
    found = states(ready.tree)
    assert found[FIRST] == "gpu, ready"
    assert found[SPARED[0]] == "other, ready"


def test_what_the_host_uses_is_said_in_the_guards_words(ready: World):
    tree = ready.tree
    tree.nic("0000:3b:00.0", "ens1f0", mac="02:00:00:00:00:01", up=True)
    tree.write("proc/net/route", "Iface\tDestination\tGateway\nens1f0\t00000000\t0100000A\n")
    host, processes = pci.read(tree.root), procfs.Processes(tree.root)
    (row,) = [
        row
        for row in inventory.describe(tree.root, host, processes)
        if row["address"] == "0000:3b:00.0"
    ]
    assert row["state"].startswith("host: ")
    assert row["state"].removeprefix("host: ") in row["reason"]


def test_every_guard_of_a_use_has_its_kind():
    assert set(holdings.USES) == {each.name for each in guards.GUARDS if each.of_use}
    assert sorted(holdings.USES.values()) == sorted(kinds.Kind)


def test_the_fields_of_before_are_as_they_were(ready: World):
    """Other programs read them, so what they hold does not depend on what is taken."""
    tree = ready.tree
    host = pci.read(tree.root)
    hold(ready)
    taken = reading_taken.read(tree.root, host, procfs.Processes(tree.root))
    with_taken = list(inventory.describe(tree.root, host, taken=taken))
    without = list(inventory.describe(tree.root, host))
    added = {"state", "health", "quarantine"}
    assert [{key: row[key] for key in row if key not in added} for row in with_taken] == [
        {key: row[key] for key in row if key not in added} for row in without
    ]
    assert list(without[0]) == [
        "schema",
        "address",
        "id",
        "name",
        "model",
        "class",
        "class-code",
        "driver",
        "numa-node",
        "iommu-group",
        "group-members",
        "device-type",
        "sriov-total-vfs",
        "sriov-vfs",
        "claimable",
        "reason",
        "devices",
        "lent",
        "state",
        "health",
        "quarantine",
        "erasing",
    ]


def test_the_health_is_told_of_what_is_taken_alone(ready: World):
    host, processes = pci.read(ready.root), procfs.Processes(ready.root)
    taken = reading_taken.read(ready.root, host, processes)
    rows = {
        row["address"]: row["health"]
        for row in inventory.describe(ready.root, host, processes, taken=taken)
    }
    assert {each for each in rows if rows[each]} == set(CLAIMED)
    assert rows[FIRST]["verdict"] == "well"


def shown(tree: hosttree.HostTree, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["--root", os.fspath(tree.root), "list"]) == 0
    return capsys.readouterr().out


def test_what_the_table_has_no_room_for_stands_below(
    ready_unit: Unit, tree: hosttree.HostTree, capsys: pytest.CaptureFixture[str]
):
    ready_unit.run("config_changed")
    hold(ready_unit.world)
    text = shown(tree, capsys)
    assert "STATE" in text
    assert "gpu, held b…" in text
    assert f"{FIRST}: gpu, held by instance-0000002a ({UUID})" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_a_wider_terminal_has_room(ready: World):
    hold(ready)
    host, processes = pci.read(ready.root), procfs.Processes(ready.root)
    taken = reading_taken.read(ready.root, host, processes, {"pci-passthrough": {"devices": GPUS}})
    rows = list(inventory.describe(ready.root, host, processes, taken=taken))
    text = inventory_tree.format_tree(rows, inventory_tree.tables.Style(width=160))
    assert f"gpu, held by instance-0000002a ({UUID})  " in text


def test_below_the_table_stands_what_is_sick_and_what_to_do(
    ready_unit: Unit, tree: hosttree.HostTree, capsys: pytest.CaptureFixture[str]
):
    for address in (FIRST, AUDIO):
        (tree.directory(address) / "config").write_bytes(b"\xff" * 64)
    (tree.directory(FIRST) / "reset_method").write_text("\n")
    text = " ".join(shown(tree, capsys).split())
    assert f"sick: {FIRST} {AUDIO} fell off the bus (its configuration space reads as" in text
    assert f"note: {FIRST} has no reset method; the next guest meets" in text


def test_a_missing_one_is_told_by_the_action_and_on_the_host(
    ready_unit: Unit, tree: hosttree.HostTree, capsys: pytest.CaptureFixture[str]
):
    for address in (FIRST, AUDIO):
        tree.unplug(address)
    ready_unit.run("update_status")
    said = f"sick: {FIRST} is missing ({GPU_ID} was there); look for it"
    assert said in " ".join(shown(tree, capsys).split())
    table = ready_unit.act("list-devices", format="table")["table"]
    assert said in " ".join(table.split())
    rows: list[dict[str, Any]] = ready_unit.act("list-devices", format="json")["devices"]
    assert FIRST not in {row["address"] for row in rows}


def test_the_action_names_by_the_options_that_are_set(ready_unit: Unit):
    rows = ready_unit.act("list-devices", format="json")["devices"]
    assert {row["state"] for row in rows if row["address"] in CLAIMED} == {"gpu, ready"}


def test_without_the_options_the_application_is_the_name(
    ready_unit: Unit, tree: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch
):
    def refused(*_: object) -> dict[str, Any]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading_taken.settled, "kept_options", refused)
    host, processes = pci.read(tree.root), procfs.Processes(tree.root)
    assert reading_taken.read(tree.root, host, processes).taken[FIRST].name == "pci-passthrough"


def test_verify_tells_the_same(ready_unit: Unit):
    hold(ready_unit.world)
    checks = {each["name"]: each for each in ready_unit.act("verify", format="json")["checks"]}
    found = checks[f"state {FIRST}"]
    assert (found["status"], found["seen"]) == (
        "ok",
        f"gpu, held by instance-0000002a ({UUID})",
    )
    assert checks[f"state {CLAIMED[2]}"]["seen"] == "gpu, ready"


def test_verify_knows_what_waits_for_a_reboot(unit: Unit):
    unit.run("config_changed", devices=GPUS)
    _, results = unit.act_in_vain("verify", format="json")
    checks = {each["name"]: each["seen"] for each in json.loads(results["checks"])}
    assert checks[f"state {FIRST}"] == "gpu, after the next reboot"


@pytest.mark.parametrize(
    ("holders", "said"),
    [
        (("a",), "gpu, held by a"),
        (("a", "b"), "gpu, held by a, b"),
        (("a", "b", "c", "d"), "gpu, held by a, b and 2 more"),
    ],
)
def test_many_holders_are_counted(ready: World, holders: tuple[str, ...], said: str):
    function = pci.read(ready.root).functions[FIRST]
    judged = health.judge(FIRST, Signs())
    found = holdings.state_of_claim("gpu", function, holders, judged, waits_for_boot=False)
    assert found == said
