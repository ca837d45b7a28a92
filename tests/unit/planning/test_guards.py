"""The guards: one row, one reason; allow-in-use sets aside what may be, and that stays visible."""

from __future__ import annotations

import pytest
from harness import made

from passthrough.config import devices
from passthrough.host import pci
from passthrough.host.usage import Usage
from passthrough.host.uses import kinds
from passthrough.host.uses import kinds as use_kinds
from passthrough.planning import claims, guards, viability
from passthrough.reporting import words

NIC_ID, NVME_ID = "8086:1572", "144d:a808"
NIC, OTHER_NIC = "0000:3b:00.0", "0000:3b:00.1"
WAY_OUT = "; free it, or set allow-in-use: true on the item"


def nic(address: str = NIC, **values):
    return made.function(address, NIC_ID, made.ETHERNET, **{"driver": "i40e", **values})


def used(kind: kinds.Kind, *what: str, address: str = NIC) -> Usage:
    return Usage({address: tuple(kinds.Use(kind, each) for each in what)})


def decide(devices: str, *functions, usage: Usage) -> claims.Outcome:
    return made.decide(devices, *functions, usage=usage)


def reasons(decision: claims.Outcome) -> list[str]:
    return [f"{each.rule}: {words.refusal(each)}" for each in decision.refusals]


@pytest.mark.parametrize(
    ("guard", "kind", "what", "reason"),
    [
        ("mounted", kinds.Kind.MOUNT, "/ on vg0", "holds a mounted file system: / on vg0"),
        ("swap", kinds.Kind.SWAP, "sda2", "holds swap space: sda2"),
        (
            "storage-member",
            kinds.Kind.MEMBER,
            "sda is part of md0",
            "holds a part of the host's storage: sda is part of md0",
        ),
        (
            "configured",
            kinds.Kind.CONFIGURED,
            "/srv in /etc/fstab on sda2",
            "is meant for the host's own storage: /srv in /etc/fstab on sda2",
        ),
        (
            "default-route",
            kinds.Kind.ROUTE,
            "ens1 has the default route",
            "carries the host's traffic: ens1 has the default route",
        ),
        (
            "network-port",
            kinds.Kind.PORT,
            "ens1 is a port of the bond bond0",
            "carries the host's traffic: ens1 is a port of the bond bond0",
        ),
        (
            "network-address",
            kinds.Kind.ADDRESS,
            "ens1 is up with an IPv4 address",
            "carries the host's traffic: ens1 is up with an IPv4 address",
        ),
        (
            "network-namespace",
            kinds.Kind.NAMESPACE,
            "its interface is in another network namespace",
            "is in use: its interface is in another network namespace",
        ),
        (
            "subfunctions",
            kinds.Kind.PART,
            "subfunction mlx5_core.sf.4",
            "has parts that would go with its driver: subfunction mlx5_core.sf.4",
        ),
        (
            "dpdk",
            kinds.Kind.DPDK,
            "/etc/dpdk/interfaces names it",
            "is meant for DPDK on this host: /etc/dpdk/interfaces names it",
        ),
        (
            "console",
            kinds.Kind.CONSOLE,
            "the text console is on it",
            "is the boot VGA, and the text console is on it",
        ),
        (
            "host-console",
            kinds.Kind.HOST_CONSOLE,
            "the kernel writes to ttyS4",
            "carries the host's console: the kernel writes to ttyS4",
        ),
        (
            "mediated",
            kinds.Kind.MEDIATED,
            "nvidia-63 on it",
            "is cut up into mediated devices (vGPUs): nvidia-63 on it",
        ),
        (
            "program",
            kinds.Kind.PROGRAM,
            "/dev/uio0 is open in process 7 (ovs-vswitchd)",
            "is in use by a program of the host: /dev/uio0 is open in process 7 (ovs-vswitchd)",
        ),
        (
            "held",
            kinds.Kind.HELD,
            "something in the kernel has nvme0n1",
            "holds a disk that is in use: something in the kernel has nvme0n1",
        ),
        (
            "unknown",
            kinds.Kind.UNKNOWN,
            "it cannot be told what process 7 (x) has open",
            "may be in use: it cannot be told what process 7 (x) has open",
        ),
    ],
)
def test_a_use_refuses_with_its_reason(guard: str, kind: kinds.Kind, what: str, reason: str):
    usage = used(kind, what)
    decision = decide(NIC_ID, nic(), usage=usage)
    assert decision.claims == ()
    assert reasons(decision) == [f"{guard}: devices: item 1 {NIC_ID}: {NIC} {reason}{WAY_OUT}"]
    assert decision.blocking
    function = made.host(nic())
    objection = viability.object_to_card(nic(), function, usage)
    assert objection
    assert words.reason(objection, NIC) == f"{reason}{WAY_OUT}"


@pytest.mark.parametrize(
    ("identity", "class_code", "driver", "refused"),
    [
        ("8086:2020", 0x060000, None, "host-controller"),
        ("1022:790e", 0x060100, None, "host-controller"),
        ("1022:790b", 0x0C0500, "piix4_smbus", "host-controller"),
        ("8086:7113", 0x068000, None, "host-controller"),
        ("1002:4385", 0x068000, "piix4_smbus", "host-controller"),
        ("1022:1481", 0x080600, None, "host-controller"),
        ("8086:2024", 0x080700, None, "host-controller"),
        ("8086:0d93", 0x050210, "cxl_pci", "host-memory"),
        ("8086:0d93", 0x050210, None, None),
        ("10de:22a3", 0x068000, "nvidia-nvswitch", None),
        ("10de:22a3", 0x068000, None, None),
        ("8086:a36d", 0x0C0330, "xhci_hcd", None),
        ("8086:0b00", 0x088000, None, None),
        ("8086:9c60", 0x080100, None, "host-controller"),
        ("15b3:c2d3", 0x080100, None, None),
        ("1234:11e8", 0x00FF00, None, None),
    ],
)
def test_a_part_of_the_machine_by_its_class(
    identity: str, class_code: int, driver: str | None, refused: str | None
):
    function = made.function("0000:00:14.0", identity, class_code, driver=driver)
    decision = decide(identity, function, usage=Usage())
    assert [each.rule for each in decision.refusals] == ([refused] if refused else [])
    assert bool(decision.claims) is not bool(refused)


def test_a_guest_is_never_set_aside():
    usage = used(kinds.Kind.GUEST, "/dev/vhost-vdpa-0 is open in process 7 (qemu-kvm)")
    decision = decide(f"- {{id: '{NIC_ID}', allow-in-use: true}}", nic(), usage=usage)
    assert decision.claims == ()
    assert [each.rule for each in decision.refusals] == ["guest"]
    assert words.refusal(decision.refusals[0]).endswith(
        f"{NIC} is a guest's: /dev/vhost-vdpa-0 is open in process 7 (qemu-kvm); stop or migrate"
        " the guest first"
    )


def test_every_kind_of_use_has_its_guard():
    kinds = {
        getattr(use_kinds, name)
        for name in dir(use_kinds)
        if name.isupper() and not name.startswith("_")
    }
    found = {
        kind
        for kind in kinds
        for guard in guards.GUARDS
        if guard.fact(nic(), used(kind, "x")) is not None
    }
    assert found == kinds


def test_names_of_guards_are_unique_and_in_kebab_case():
    names = [guard.name for guard in guards.GUARDS]
    assert len(set(names)) == len(names)
    assert all(name == name.lower().replace("_", "-") for name in names)


def test_several_uses_of_a_kind_are_counted():
    usage = used(kinds.Kind.MOUNT, "/ on sda2", "/boot on sda1", "/srv on sda3")
    (reason,) = reasons(decide(NIC_ID, nic(), usage=usage))
    assert "holds a mounted file system: / on sda2 and 2 more; free it" in reason


@pytest.mark.parametrize(
    ("driver", "count", "refused"),
    [("ixgbe", 4, True), ("ixgbe", 0, False), ("vfio-pci", 4, False)],
)
def test_vfs_keep_their_parent(driver: str, count: int, refused: bool):
    parent = nic(driver=driver, total_vfs=63, num_vfs=count)
    decision = decide(f"- {{id: {NIC_ID}, device-type: type-PF}}", parent, usage=Usage())
    assert bool(decision.refusals) is refused
    if refused:
        assert decision.refusals[0].rule == "vfs-in-use"
        assert "has 4 VFs, which would go with its driver" in words.refusal(decision.refusals[0])


def test_a_use_of_the_companion_refuses_the_card():
    usage = used(kinds.Kind.MOUNT, "/media on sdb", address="0000:83:00.1")
    decision = decide("gpu=10de:1bb0", *made.gpus("83"), usage=usage)
    assert decision.claims == ()
    assert reasons(decision) == [
        "mounted: devices: item 1 gpu=10de:1bb0: 0000:83:00.0 with its companion 0000:83:00.1: it"
        f" holds a mounted file system: /media on sdb{WAY_OUT}; set companions: false to leave it"
        " out"
    ]


class TestGroup:
    USAGE = used(kinds.Kind.ROUTE, "ens1 has the default route")
    SHARED = (*made.gpus("83", group=15), nic(group=15))

    def test_a_used_sibling_refuses_and_is_named(self):
        decision = decide("gpu=10de:1bb0", *self.SHARED, usage=self.USAGE)
        assert decision.claims == ()
        assert [each.rule for each in decision.refusals] == ["group-in-use"]
        assert words.refusal(decision.refusals[0]).endswith(
            f"0000:83:00.0 shares IOMMU group 15 with {NIC}, which carries the host's traffic:"
            " ens1 has the default route; free that, or move the card to a slot with a group of"
            " its own"
        )

    def test_a_used_sibling_that_is_asked_for_too_is_refused_first(self):
        decision = decide(f"gpu=10de:1bb0 {NIC_ID}", *self.SHARED, usage=self.USAGE)
        assert decision.claims == ()
        assert {each.rule for each in decision.refusals} == {"group-in-use", "default-route"}

    def test_a_used_sibling_that_is_claimed_in_spite_of_it_refuses_nothing(self):
        devices = f"[gpu=10de:1bb0, {{id: '{NIC_ID}', allow-in-use: true}}]"
        decision = decide(devices, *self.SHARED, usage=self.USAGE)
        assert decision.addresses == (NIC, "0000:83:00.0", "0000:83:00.1")

    def test_overriding_does_not_make_a_group_viable(self):
        devices = "- {id: 10de:1bb0, allow-in-use: true}"
        decision = decide(devices, *self.SHARED, usage=self.USAGE)
        assert [each.rule for each in decision.refusals] == ["group-not-viable"]

    def test_a_used_sibling_without_a_driver_can_be_overridden(self):
        console = made.function(
            "0000:06:00.0", "1a03:2000", made.DISPLAY, boot_vga=True, group=15, driver=None
        )
        usage = used(kinds.Kind.CONSOLE, "the text console is on it", address=console.address)
        cards = (*made.gpus("83", group=15), console)
        assert decide("gpu=10de:1bb0", *cards, usage=usage).claims == ()
        decision = decide("- {id: 10de:1bb0, allow-in-use: true}", *cards, usage=usage)
        assert decision.addresses == ("0000:83:00.0", "0000:83:00.1")
        assert [each.guard for each in decision.claims[0].overridden] == ["group-in-use"]

    def test_the_machines_own_controllers_do_not_count_as_siblings(self):
        """The audio function of a chipset shares its group with an ISA bridge without a driver."""
        isa = made.function("0000:00:1f.0", "8086:a306", 0x060100, group=9)
        card = made.function("0000:00:1b.0", "8086:a348", made.AUDIO, group=9)
        assert decide("8086:a348", isa, card, usage=Usage()).addresses == ("0000:00:1b.0",)

    @pytest.fixture
    def behind_a_bridge(self) -> tuple[tuple[pci.Function, ...], Usage]:
        """Two cards and their bridge, of one group; the first is used, and so below the bridge."""
        bridge = made.function("0000:04:00.0", "1b36:000e", made.PCI_BRIDGE, group=15)
        cards = [nic(f"0000:05:0{slot}.0", group=15) for slot in (1, 2)]
        carries = (kinds.Use(kinds.Kind.ADDRESS, "ens1 is up with an IPv4 address"),)
        used_by = Usage(dict.fromkeys(("0000:04:00.0", "0000:05:01.0"), carries))
        return (bridge, *cards), used_by

    def test_behind_a_bridge_the_used_card_is_named_and_not_the_bridge(self, behind_a_bridge):
        functions, usage = behind_a_bridge
        decision = decide(f"{NIC_ID}@0000:05:02.0", *functions, usage=usage)
        assert [each.rule for each in decision.refusals] == ["group-in-use"]
        (reason,) = reasons(decision)
        assert "shares IOMMU group 15 with 0000:05:01.0, which" in reason

    def test_behind_a_bridge_overriding_the_used_card_frees_the_other(self, behind_a_bridge):
        functions, usage = behind_a_bridge
        devices = (
            f"[{NIC_ID}@0000:05:02.0,"
            f" {{id: '{NIC_ID}', address: '0000:05:01.0', allow-in-use: true}}]"
        )
        decision = decide(devices, *functions, usage=usage)
        assert decision.addresses == ("0000:05:01.0", "0000:05:02.0")

    def test_whose_sibling_is_used_keeps_the_kernel_options(self):
        """Without them the next boot would know no group, and the charm would claim again."""
        assert guards.Rule.GROUP_IN_USE in claims.GROUP_RULES


class TestAllowInUse:
    ITEM = f"- {{id: '{NIC_ID}', allow-in-use: true}}"
    USAGE = used(kinds.Kind.ROUTE, "ens1 has the default route")

    def test_claims_and_remembers_what_was_set_aside(self):
        (claim,) = decide(self.ITEM, nic(), usage=self.USAGE).claims
        assert [(each.guard, each.fact) for each in claim.overridden] == [
            ("default-route", "carries the host's traffic: ens1 has the default route")
        ]

    def test_remembers_nothing_where_no_guard_objects(self):
        (claim,) = decide(self.ITEM, nic(), usage=Usage()).claims
        assert claim.overridden == ()

    def test_holds_for_its_item_alone(self):
        items = f"[{{id: '{NIC_ID}', address: '3b:00.0', allow-in-use: true}}, {NIC_ID}@3b:00.1]"
        usage = Usage({each: (kinds.Use(kinds.Kind.SWAP, "sda2"),) for each in (NIC, OTHER_NIC)})
        decision = decide(items, nic(), nic(OTHER_NIC), usage=usage)
        assert decision.addresses == (NIC,)
        assert [each.address for each in decision.refusals] == [OTHER_NIC]

    def test_never_sets_a_bridge_aside(self):
        bridge = made.function("0000:00:01.0", "8086:1901", made.PCI_BRIDGE)
        usage = used(kinds.Kind.MOUNT, "/ on sda", address="0000:00:01.0")
        decision = decide("- {id: 8086:1901, allow-in-use: true}", bridge, usage=usage)
        assert [each.rule for each in decision.refusals] == ["pci-bridge"]


def test_object_to_puts_first_what_cannot_be_overridden():
    bridge = made.function(NIC, "8086:1901", made.PCI_BRIDGE)
    objection = guards.object_to(bridge, used(kinds.Kind.MOUNT, "/ on sda"))
    assert objection
    assert objection.guard == "pci-bridge"
    assert guards.object_to(nic()) is None
    assert devices.parse(NIC_ID).items[0].allow_in_use is False
