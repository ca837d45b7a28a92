"""What stands on a network function in two steps, on two functions, or in another namespace."""

from __future__ import annotations

import errno
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import hosttree, missing, uses

from passthrough.host import pci, usage
from passthrough.host.uses import kinds
from passthrough.planning import guards
from passthrough.system import namespaces, procfs, sysfs

NIC, TWIN, USB, CONNECTX3 = "0000:3b:00.0", "0000:3b:00.1", "0000:00:14.0", "0000:5b:00.0"
FIRST_HALF, SECOND_HALF, IDLE_PORT = "0000:08:00.0", "0000:09:00.0", "0000:08:00.1"
UP, PROMISCUOUS = 0x1003, 0x1103
ELSEWHERE = "namespace: its interface is in another network namespace"


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    return uses.two_ports(tmp_path / "host", NIC, TWIN, USB)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let the kernel count one more interface in a ``net`` directory than it lists."""
    counted: dict[str, int] = {}
    read = sysfs._links_and_names

    def count(directory: str) -> tuple[int, list[str]]:
        links, names = read(directory)
        return counted.get(os.path.realpath(directory), links), names

    def move(directory: Path) -> None:
        counted[os.path.realpath(directory)] = 2 + len(os.listdir(directory)) + 1

    monkeypatch.setattr(sysfs, "_links_and_names", count)
    return move


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("bonding", "the bond x0"),
        ("bridge", "the bridge x0"),
        ("", "x0"),  # a team, a VRF
    ],
)
def test_a_port_of_something_else(host: hosttree.HostTree, find: Callable, kind: str, what: str):
    uses.upper(host, "ens1f0", "x0", kind, master=True)
    assert find() == {NIC: [f"port: ens1f0 is a port of {what}"]}


@pytest.mark.parametrize(
    "name", ["mv0", "macvtap0", "ipvl0", "ipvtap0", "ens1f0.100", "macsec0", "vxlan7", "ib0.8001"]
)
def test_what_an_interface_carries(host: hosttree.HostTree, find: Callable, name: str):
    uses.upper(host, "ens1f0", name, master=False)
    assert find() == {NIC: [f"port: ens1f0 carries {name}"]}


def test_one_of_two_interfaces_of_a_function_is_elsewhere(
    host: hosttree.HostTree, find: Callable, moved: Callable
):
    """Chelsio's, Netronome's and ConnectX-3 functions have an interface for each port."""
    assert find() == {}
    moved(host.directory(NIC) / "net")
    assert find() == {NIC: [ELSEWHERE]}


@pytest.mark.parametrize(
    ("driver", "below"), [("virtio-pci", "virtio3"), ("b43-pci-bridge", "ssb0:0"), ("mhi", "mhi0")]
)
def test_an_interface_a_step_below_a_function_is_elsewhere(
    host: hosttree.HostTree, find: Callable, moved: Callable, driver: str, below: str
):
    for address in ("0000:00:04.0", "0000:00:05.0"):
        host.function(address, "1af4:1041", 0x020000, driver=driver)
    place = host.directory("0000:00:04.0") / below
    uses.interface_below(host, place, "eth7", UP)
    (host.directory("0000:00:05.0") / "physfn").symlink_to(place)
    assert find() == {}
    moved(place / "net")
    assert find() == {"0000:00:04.0": [ELSEWHERE]}


@pytest.mark.parametrize("driver", ["mlx4_core", "cxgb4"])
@pytest.mark.parametrize(
    ("layers", "types", "elsewhere"),
    [
        (["Ethernet", "Ethernet"], ["1"], True),
        (["Ethernet", "InfiniBand"], ["32"], True),
        (["Ethernet", "Ethernet"], ["1", "1"], False),
        (["Ethernet", "InfiniBand"], ["1"], False),
        (["Ethernet"], ["1"], False),
        (["InfiniBand", "InfiniBand"], ["32"], False),
        (["Ethernet", "Ethernet"], [], False),
    ],
)
def test_a_function_with_fewer_interfaces_than_ports(
    host: hosttree.HostTree,
    find: Callable,
    driver: str,
    layers: list[str],
    types: list[str],
    elsewhere: bool,
):
    host.function(CONNECTX3, "15b3:1003", 0x028000, driver=driver)
    for number, layer in enumerate(layers, 1):
        place = host.directory(CONNECTX3) / f"infiniband/mlx4_0/ports/{number}"
        place.mkdir(parents=True)
        (place / "link_layer").write_text(f"{layer}\n")
    for number, kind in enumerate(types):
        directory = uses.interface(host, CONNECTX3, f"ens9d{number}", up=False)
        (directory / "type").write_text(f"{kind}\n")
    assert find() == ({CONNECTX3: [ELSEWHERE]} if elsewhere else {})


@pytest.mark.parametrize("driver", ["mlx4_core", "cxgb4"])
@pytest.mark.parametrize(
    ("first_layer", "numbers", "elsewhere"),
    [
        ("", ["1"], True),
        ("Ethernet", ["1"], True),
        ("InfiniBand", ["1"], False),
        ("", ["0", "2"], True),
        ("", ["0", "1"], False),
        ("", ["0"], False),
    ],
)
def test_a_port_without_an_interface_by_the_numbers_of_the_others(
    host: hosttree.HostTree,
    find: Callable,
    driver: str,
    first_layer: str,
    numbers: list[str],
    elsewhere: bool,
):
    """InfiniBand has an interface only where IPoIB is loaded."""
    host.function(CONNECTX3, "15b3:1003", 0x028000, driver=driver)
    for number in numbers:
        directory = uses.interface(host, CONNECTX3, f"ens9d{number}", up=False)
        (directory / "dev_port").write_text(f"{number}\n")
    if first_layer:
        place = host.directory(CONNECTX3) / "infiniband/mlx4_0/ports/1"
        place.mkdir(parents=True)
        (place / "link_layer").write_text(f"{first_layer}\n")
    assert find() == ({CONNECTX3: [ELSEWHERE]} if elsewhere else {})
    (host.directory(CONNECTX3) / "physfn").symlink_to(f"../{NIC}")
    assert find() == {}


def test_a_function_whose_driver_makes_one_interface_has_any_number_of_ports(
    host: hosttree.HostTree, find: Callable
):
    """As mlx5's, where one RDMA device shows the ports of two functions."""
    for number in (1, 2):
        (host.directory(NIC) / f"infiniband/mlx5_0/ports/{number}").mkdir(parents=True)
    assert find() == {}


def test_a_subfunction_and_its_interface_count_for_the_function(
    host: hosttree.HostTree, find: Callable
):
    place = uses.subfunction(host, NIC, "mlx5_core.sf.4")
    uses.interface_below(host, place, "ens1f0s4", UP)
    uses.route(host, "ens1f0s4", default=False)
    uses.on_bus(host, "auxiliary", "mlx5_core.rdma.1", host.directory(TWIN) / "mlx5_core.rdma.1")
    assert find() == {
        NIC: [
            "address: ens1f0s4 is up with an IPv4 address",
            "part: subfunction mlx5_core.sf.4",
        ]
    }


def test_a_subfunction_whose_interface_is_elsewhere(host: hosttree.HostTree, find: Callable):
    place = uses.subfunction(host, NIC, "mlx5_core.sf.4")
    (place / "net").mkdir()
    assert find() == {NIC: [ELSEWHERE, "part: subfunction mlx5_core.sf.4"]}


def test_vdpa_devices_of_a_function_and_of_a_subfunction(host: hosttree.HostTree, find: Callable):
    uses.on_bus(host, "vdpa", "vdpa0", host.directory(TWIN) / "vdpa0")
    place = uses.subfunction(host, NIC, "mlx5_core.sf.4")
    uses.on_bus(host, "vdpa", "vdpa1", place / "vdpa1")
    assert find() == {
        NIC: ["part: subfunction mlx5_core.sf.4", "part: vDPA device vdpa1"],
        TWIN: ["part: vDPA device vdpa0"],
    }


def test_usb_interfaces_count_for_the_controller(
    host: hosttree.HostTree, find: Callable, moved: Callable
):
    place = uses.usb_interface(host, USB, "1-2:1.0")
    uses.interface_below(host, place, "enx02", UP)
    uses.usb_interface(host, USB, "1-3:1.0")  # a keyboard
    assert find() == {}
    moved(place / "net")
    assert find() == {USB: [ELSEWHERE]}
    uses.upper(host, "enx02", "br0", "bridge", master=True)
    assert find() == {USB: [ELSEWHERE, "port: enx02 is a port of the bridge br0"]}


def test_what_is_promiscuous_is_in_use(host: hosttree.HostTree, find: Callable):
    """As Suricata's, and a port of Open vSwitch's netdev datapath, which is no port to sysfs."""
    (host.directory(NIC) / "net/ens1f0/flags").write_text(f"{PROMISCUOUS:#x}\n")
    (host.directory(TWIN) / "net/ens1f1/flags").write_text(f"{PROMISCUOUS & ~1:#x}\n")
    what = "ens1f0 is promiscuous, as for a capture, or a switch that is a program"
    assert find() == {NIC: [f"port: {what}"]}


def test_a_port_of_a_bridge_is_promiscuous_for_the_bridge(host: hosttree.HostTree, find: Callable):
    (host.directory(NIC) / "net/ens1f0/flags").write_text(f"{PROMISCUOUS:#x}\n")
    uses.upper(host, "ens1f0", "br0", "bridge", master=True)
    assert find() == {NIC: ["port: ens1f0 is a port of the bridge br0"]}


def test_contrails_router_stands_on_the_interface_whose_address_it_has(
    host: hosttree.HostTree, find: Callable
):
    (host.directory(TWIN) / "net/ens1f1/address").write_text("b4:2e:99:00:00:02\n")
    assert find() == {}
    router = host.root / "sys/devices/virtual/net/vhost0"
    router.mkdir(parents=True)
    (router / "address").write_text("b4:2e:99:00:00:02\n")
    os.symlink(router, host.root / "sys/class/net/vhost0")
    assert find() == {TWIN: ["port: ens1f1 carries vhost0 of Contrail"]}


def test_a_pppoe_session_has_no_link_in_sysfs(host: hosttree.HostTree, find: Callable):
    head = "Id       Address              Device\n"
    host.write("proc/net/pppoe", f"{head}0000002A 00:11:22:33:44:55    ens1f1\n")
    assert find() == {TWIN: ["port: ens1f1 carries a PPPoE session"]}


def test_the_kernels_own_messages_leave_by_an_interface(host: hosttree.HostTree, find: Callable):
    host.write("sys/kernel/config/netconsole/lab/dev_name", "ens1f1\n")
    host.write("sys/kernel/config/netconsole/lab/enabled", "0\n")
    assert find() == {}
    host.write("sys/kernel/config/netconsole/lab/enabled", "1\n")
    assert find() == {TWIN: ["port: ens1f1 carries netconsole"]}


def test_rdma_in_software_stands_on_an_interface(host: hosttree.HostTree, find: Callable):
    host.write("sys/class/infiniband/rxe0/parent", "ens1f1\n")
    assert find() == {TWIN: ["port: ens1f1 carries rxe0 (RDMA)"]}


@pytest.fixture
def halves(host: hosttree.HostTree) -> hosttree.HostTree:
    """A card on two sockets, whose second function has no interface, and its idle second port."""
    for address in (FIRST_HALF, IDLE_PORT, SECOND_HALF):
        host.function(address, "15b3:1021", 0x020000, driver="mlx5_core")
    uses.interface(host, FIRST_HALF, "enp8s0f0np0")
    uses.interface(host, IDLE_PORT, "enp8s0f1np1")
    return host


def test_an_interface_that_stands_on_two_functions(halves: hosttree.HostTree, find: Callable):
    assert find() == {}
    uses.route(halves, "enp8s0f0np0", default=False)
    use = "address: enp8s0f0np0 is up with an IPv4 address"
    assert find() == {
        FIRST_HALF: [use],
        SECOND_HALF: [f"{use}, which may stand on this function too (Socket Direct)"],
    }


def test_a_look_at_a_few_functions_sees_the_other_half(halves: hosttree.HostTree):
    """As the last one, immediately before a function's driver changes."""
    uses.route(halves, "enp8s0f0np0", default=False)
    found = usage.read(halves.root, pci.read_some(halves.root, [SECOND_HALF]))
    use = "enp8s0f0np0 is up with an IPv4 address"
    assert found.of(SECOND_HALF, kinds.Kind.ADDRESS) == (
        f"{use}, which may stand on this function too (Socket Direct)",
    )


def test_what_is_no_second_half(halves: hosttree.HostTree, find: Callable):
    """Another model, another driver, an adapter in InfiniBand mode, one with an interface."""
    uses.interface(halves, SECOND_HALF, "enp9s0f0np0")
    for address, identity, class_code, driver in (
        ("0000:a1:00.0", "15b3:1021", 0x020000, None),
        ("0000:a2:00.0", "15b3:1021", 0x020700, "mlx5_core"),
        ("0000:a3:00.0", "15b3:101d", 0x020000, "mlx5_core"),
    ):
        halves.function(address, identity, class_code, driver=driver)
    uses.route(halves, "enp8s0f0np0", default=False)
    assert find() == {FIRST_HALF: ["address: enp8s0f0np0 is up with an IPv4 address"]}


# What only the kernel tells


@pytest.fixture
def objection(host: hosttree.HostTree) -> Callable[[str], str | None]:
    """The guard that objects to a function, and why: ``guard: fact``; None for none."""

    def ask(address: str) -> str | None:
        functions = pci.read(host.root)
        found = guards.object_to(functions.functions[address], usage.read(host.root, functions))
        return f"{found.guard}: {found.fact}" if found else None

    return ask


@pytest.fixture
def tell(host: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the kernel tell of the host's interfaces; ens1f0 is number 2, ens1f1 number 3."""
    (host.directory(TWIN) / "net/ens1f1/ifindex").write_text("3\n")

    def tell(**told: Any) -> None:
        monkeypatch.setattr(procfs.Processes, "interfaces", namespaces.Interfaces(**told))

    tell()
    return tell


@pytest.mark.parametrize("name", ["mv0", "macvtap0", "ipvl0", "ipvtap0", "vlan.100", "macsec0"])
def test_an_upper_device_that_moved_away_keeps_its_lower(
    objection: Callable, tell: Callable, name: str
):
    assert objection(NIC) is None
    tell(uppers=(namespaces.Upper(name, 2), namespaces.Upper("eth0", 99)))
    what = f"ens1f0 carries {name} in another network namespace"
    assert objection(NIC) == f"network-port: carries the host's traffic: {what}"
    assert objection(TWIN) is None


def test_what_stands_on_a_subfunctions_interface_elsewhere(
    host: hosttree.HostTree, objection: Callable, tell: Callable
):
    place = uses.usb_interface(host, USB, "1-2:1.0")
    (uses.interface_below(host, place, "enx02", UP) / "ifindex").write_text("9\n")
    assert objection(USB) is None
    tell(uppers=(namespaces.Upper("mv0", 9),))
    what = "enx02 carries mv0 in another network namespace"
    assert objection(USB) == f"network-port: carries the host's traffic: {what}"


def test_what_stands_elsewhere_on_an_interface_of_two_functions(
    halves: hosttree.HostTree, objection: Callable, tell: Callable
):
    (halves.directory(FIRST_HALF) / "net/enp8s0f0np0/ifindex").write_text("7\n")
    (halves.directory(IDLE_PORT) / "net/enp8s0f1np1/ifindex").write_text("8\n")
    assert objection(SECOND_HALF) is None
    tell(uppers=(namespaces.Upper("mv0", 7),))
    what = "enp8s0f0np0 carries mv0 in another network namespace"
    expected = f"network-port: carries the host's traffic: {what}"
    assert [objection(each) for each in (FIRST_HALF, SECOND_HALF)] == [expected] * 2
    assert objection(IDLE_PORT) is None


def test_xdp(objection: Callable, tell: Callable):
    """A program on an interface has its traffic first; a socket of AF_XDP has some of it."""
    tell(programmed=frozenset({2}))
    expected = "network-port: carries the host's traffic: ens1f0 has an XDP program"
    assert (objection(NIC), objection(TWIN)) == (expected, None)
    tell(sockets=frozenset({3}))
    what = "an AF_XDP socket is bound to ens1f1"
    expected = f"program: is in use by a program of the host: {what}"
    assert (objection(NIC), objection(TWIN)) == (None, expected)
    tell(sockets=None)
    what = "it cannot be told whether an AF_XDP socket is bound to ens1f0"
    assert objection(NIC) == f"unknown: may be in use: {what}"


def test_a_kernel_that_does_not_tell_is_not_none(
    objection: Callable, monkeypatch: pytest.MonkeyPatch
):
    def refuse(self: procfs.Processes) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(procfs.Processes, "interfaces", property(refuse))
    what = "it cannot be told what stands on its interfaces (Operation not permitted)"
    assert objection(NIC) == f"unknown: may be in use: {what}"


def test_the_kernel_is_asked_for_functions_with_interfaces_alone(
    host: hosttree.HostTree, objection: Callable, monkeypatch: pytest.MonkeyPatch
):
    def fail(self: procfs.Processes) -> None:
        raise AssertionError

    monkeypatch.setattr(procfs.Processes, "interfaces", property(fail))
    assert objection(USB) is None
    host.bind(NIC, "vfio-pci")
    assert objection(NIC) is None


def test_a_look_costs_each_interface_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Twice as many interfaces are twice as many reads, and the kernel is asked once for all."""
    reads: list[str] = []
    asked: list[namespaces.Interfaces] = []

    def count(name: str) -> None:
        real = getattr(os, name)

        def counted(*given: Any, **more: Any) -> Any:
            reads.append(name)
            return real(*given, **more)

        monkeypatch.setattr(os, name, counted)

    def tell(self: procfs.Processes) -> namespaces.Interfaces:
        asked.append(namespaces.Interfaces())
        return asked[-1]

    told = functools.cached_property(tell)
    told.__set_name__(procfs.Processes, "interfaces")
    monkeypatch.setattr(procfs.Processes, "interfaces", told)
    trees = {number: many_interfaces(tmp_path / str(number), number) for number in (8, 16, 32)}
    for name in ("readlink", "listdir", "stat", "open"):
        count(name)
    cost: dict[int, int] = {}
    for number, tree in trees.items():
        reads.clear()
        asked.clear()
        functions = pci.read(tree.root)
        found = usage.read(tree.root, functions)
        assert not any(guards.object_to(each, found) for each in functions.functions.values())
        cost[number] = len(reads)
        assert len(asked) == 1
    assert (cost[32] - cost[16]) == 2 * (cost[16] - cost[8]) > 0


def many_interfaces(root: Path, number: int) -> hosttree.HostTree:
    """Functions with an idle interface each, and as many without one."""
    tree = hosttree.HostTree(root)
    for slot in range(number):
        tree.function(f"0000:20:{slot:02x}.0", "8086:1572", 0x020000, driver="i40e")
        uses.interface(tree, f"0000:20:{slot:02x}.0", f"eth{slot}")
        tree.function(f"0000:21:{slot:02x}.0", "15b3:101d", 0x020000, driver="mlx5_core")
    return tree


# As root of a user namespace or of the machine: what is made ends with the namespaces.
COUNT = """\
trap 'kill $other 2>/dev/null' EXIT
mount -t sysfs none /sys || exit 77
ip link add near0 type veth peer name near1 || exit 77
before=$("$1" -c "$2")
unshare --net sleep 600 & other=$!
while test "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)"; do sleep 0.1; done
ip link set near1 netns $other || exit 77
echo "$before $("$1" -c "$2")"
"""
ASK = """\
from passthrough.host.uses import kinds
from passthrough.planning import guards
from passthrough.system import namespaces, procfs, sysfs
links, names = sysfs._links_and_names("/sys/devices/virtual/net")
print(links - len(names), "near1" in names, sysfs.hides_some_or_raise("/sys/devices/virtual/net"))
"""


def test_the_kernel_counts_what_it_does_not_list(charm_root: Path):
    """The interfaces of other namespaces stand in the same directory of sysfs, and are not seen."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", *user, "--net", "--mount", "sh", "-c", COUNT, "sh", sys.executable, ASK],
        env={**os.environ, "PYTHONPATH": str(charm_root / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # on a machine that is busy
    )
    if done.returncode == 77 or done.stderr.startswith("unshare: "):
        missing.skip(done.stderr)
    before, seen, hides, after, seen_then, hides_then = done.stdout.split()
    assert (done.stderr, seen, seen_then) == ("", "True", "False")
    # The machine's other namespaces are counted too, each with a loopback interface at least.
    assert int(after) >= int(before) + 1
    assert hides == hides_then == "True"
