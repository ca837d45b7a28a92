"""The functions that libvirt's defined domains name."""

from __future__ import annotations

import pathlib

import pytest

from passthrough.host import domains

HOSTDEV = """
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <driver name='vfio'/>
      <source>
        <address domain='0x0000' bus='0x84' slot='0x00' function='0x1'/>
      </source>
      <address type='pci' domain='0x0000' bus='0x06' slot='0x00' function='0x0'/>
    </hostdev>"""
INTERFACE = """
    <interface type='hostdev' managed='yes'>
      <source>
        <address type="pci" domain="0x10000" bus="0xe1" slot="0x1f" function="0x7"/>
      </source>
    </interface>"""


def define(root: pathlib.Path, name: str, devices: str = HOSTDEV) -> pathlib.Path:
    """Define a domain with these devices."""
    path = root / domains.DIRECTORY / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<domain type='kvm'>\n  <devices>{devices}\n  </devices>\n</domain>\n")
    return path


def test_what_they_name(tmp_path: pathlib.Path):
    define(tmp_path, "instance-00000002")
    define(tmp_path, "instance-00000001", HOSTDEV + INTERFACE)
    assert domains.named(tmp_path) == {
        "0000:84:00.1": ("instance-00000001", "instance-00000002"),
        "10000:e1:1f.7": ("instance-00000001",),
    }


@pytest.mark.parametrize(
    "devices",
    [
        "",
        "<source file='/x'/><address type='pci' bus='0x06' slot='0x01' function='0x0'/>",
        "<hostdev type='usb'><source><address bus='3' device='4'/></source></hostdev>",
    ],
)
def test_what_is_no_function_of_the_host(tmp_path: pathlib.Path, devices: str):
    define(tmp_path, "instance-00000001", devices)
    assert domains.named(tmp_path) == {}


def test_without_libvirt(tmp_path: pathlib.Path):
    assert domains.named(tmp_path) == {}


def test_a_file_that_cannot_be_read_is_not_a_domain_less(tmp_path: pathlib.Path):
    path = define(tmp_path, "instance-00000001")
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="instance-00000001"):
        domains.named(tmp_path)
