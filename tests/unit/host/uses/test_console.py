"""What carries the host's console stays with the host, whatever its class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import hosttree, uses

from passthrough.host import pci, usage
from passthrough.planning import guards

CARD, VGA, UART, USB = "0000:83:00.0", "0000:02:00.0", "0000:00:16.3", "0000:00:14.0"
ON_FRAMEBUFFER = "host-console: carries the host's console: the console is on its framebuffer fb0"


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    tree = hosttree.HostTree(tmp_path / "host")
    tree.function(CARD, "1002:740f", 0x038000, driver="amdgpu")
    tree.function(VGA, "1a03:2000", 0x030000, driver="ast", boot_vga=True)
    tree.function(UART, "8086:a13d", 0x070002, driver="serial")
    tree.function(USB, "8086:a36d", 0x0C0330, driver="xhci_hcd")
    uses.device(tree, UART, "tty/ttyS4", "tty")
    uses.device(tree, USB, "usb1/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0", "tty")
    return tree


@pytest.fixture
def objection(host: hosttree.HostTree) -> Callable[[str], str | None]:
    """The guard that objects to a function, and why: ``guard: fact``; None for none."""

    def ask(address: str) -> str | None:
        functions = pci.read(host.root)
        found = guards.object_to(functions.functions[address], usage.read(host.root, functions))
        return f"{found.guard}: {found.fact}" if found else None

    return ask


def path_of(host: hosttree.HostTree, address: str) -> str:
    return str(host.directory(address).relative_to(host.root / "sys/devices"))


@pytest.mark.parametrize(
    ("name", "address"), [("ttyS4", UART), ("ttyUSB0", USB)], ids=["serial", "usb"]
)
def test_a_port_that_the_kernel_writes_to(
    host: hosttree.HostTree, objection: Callable, name: str, address: str
):
    host.write("proc/consoles", "ttyS0                -W- (EC   p a)    4:64\n")
    assert objection(address) is None
    host.write(
        "proc/consoles",
        f"tty0                 -WU (EC p  )    4:1\n{name:<20} -W- (E    p a)    4:68\n",
    )
    assert objection(address) == (
        f"host-console: carries the host's console: the kernel writes to {name}"
    )
    assert objection(CARD) is None


class TestDisplay:
    @pytest.fixture(autouse=True)
    def shown(self, host: hosttree.HostTree) -> None:
        uses.framebuffer(host, "fb0", path_of(host, CARD))
        uses.console(host, 0, "(S) dummy device", bound=False)
        uses.console(host, 1, "(M) frame buffer device", bound=True)
        host.write("proc/consoles", "tty0                 -WU (EC p  )    4:1\n")

    def test_one_of_any_class_that_the_console_is_on(self, objection: Callable):
        assert objection(CARD) == ON_FRAMEBUFFER
        assert objection(VGA) is None

    def test_another_one_is_free(self, host: hosttree.HostTree, objection: Callable):
        host.function("0000:84:00.0", "1002:740f", 0x038000, driver="amdgpu")
        uses.framebuffer(host, "fb1", path_of(host, "0000:84:00.0"))
        assert objection("0000:84:00.0") is None

    @pytest.mark.parametrize(
        ("consoles", "counts"),
        [
            ("tty0                 -WU (EC p  )    4:1\n", True),
            ("ttyS0                -W- (EC   p a)    4:64\n", False),
            ("ttyS0 -W- (EC p a) 4:64\ntty1 -WU (E p) 4:1\n", True),
        ],
    )
    def test_a_kernel_that_writes_to_serial_ports_alone_has_no_console_on_it(
        self, host: hosttree.HostTree, objection: Callable, consoles: str, counts: bool
    ):
        host.write("proc/consoles", consoles)
        assert objection(CARD) == (ON_FRAMEBUFFER if counts else None)

    def test_one_that_was_unbound_is_free(self, host: hosttree.HostTree, objection: Callable):
        (host.root / "sys/class/vtconsole/vtcon1/bind").write_text("0\n")
        assert objection(CARD) is None
