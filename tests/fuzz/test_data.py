"""Relation data and text found on the host: no crash, nothing that was not matched gets on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from charms.pci_passthrough.v0 import nova_pci
from harness import cpio, hosttree

from fuzz import judge, mutation
from passthrough import pci_address
from passthrough.host import disks, grub, initramfs, pci
from passthrough.host.uses import at_rest, console, kinds, network, storage
from passthrough.nova import conf as nova_conf
from passthrough.site import Site
from passthrough.state import record, stuck
from passthrough.system import procfs

pytestmark = pytest.mark.faults

RELATION = 12_000
HOST = 8_000
NIC = "0000:3b:00.0"


def _read(text: str, kind: type) -> list[Any]:
    return nova_pci._read({"key": text}, "remote/0", "key", kind)


def test_relation_data_is_read_strictly():
    accepted = 0
    for text in mutation.variants("relation", mutation.seeds("relation"), RELATION):
        for kind in (nova_pci.Alias, nova_pci.DeviceSpec):
            try:
                found = _read(text, kind)
            except nova_pci.DataError as error:
                judge.check_message(error)
                continue
            for each in found:
                accepted += 1
                values = json.loads(each.to_json())
                assert all(judge.WORD.fullmatch(value) for value in values.values()), values
    assert accepted > 100


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> hosttree.HostTree:
    tree = hosttree.HostTree(tmp_path_factory.mktemp("fuzz") / "host")
    tree.function("0000:02:00.0", "144d:a808", 0x010802, driver="nvme")
    tree.function(NIC, "8086:1572", 0x020000, driver="i40e")
    tree.nic(NIC, "ens1", mac="b4:2e:99:00:00:01", up=True)
    for name, number in (("nvme0n1", "259:0"), ("nvme0n1p2", "259:2")):
        directory = tree.directory("0000:02:00.0") / "block" / name
        directory.mkdir(parents=True)
        (directory / "dev").write_text(f"{number}\n")
        link = tree.root / "sys/class/block" / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path("../../..") / directory.relative_to(tree.root.resolve()))
    return tree


def find_storage(root: Path) -> list[tuple[str, kinds.Use]]:
    known = disks.read(root)
    mounted = storage.find_mounts(root, known, procfs.Processes(root).mounts)
    swaps = frozenset(storage.find_swaps(root, known))
    running = storage.find(root, known, mounted, swaps)
    return [*running, *at_rest.find(root, known, (), mounted.keys() | swaps)]


def test_text_on_the_host_is_read_without_a_crash(host: hosttree.HostTree):
    root, functions = host.root, pci.read(host.root)
    targets = {
        "proc/1/mountinfo": lambda: find_storage(root),
        "proc/swaps": lambda: find_storage(root),
        "etc/fstab": lambda: find_storage(root),
        "etc/crypttab": lambda: find_storage(root),
        "run/udev/data/b259:0": lambda: find_storage(root),
        "proc/net/route": lambda: list(network.find(root, functions)),
        "proc/net/if_inet6": lambda: list(network.find(root, functions)),
        "proc/net/ipv6_route": lambda: list(network.find(root, functions)),
        "proc/net/tcp6": lambda: list(network.find(root, functions)),
        "proc/4711/stat": lambda: procfs.started_if_there(root, 4711),
        "boot/grub/grub.cfg": lambda: grub.read(root),
        "boot/grub/grubenv": lambda: grub.read(root),
        "etc/default/grub.d/99-x.cfg": lambda: grub.read(root),
        "etc/nova/nova.conf": lambda: nova_conf.read(root, ("nova-compute",)),
    }
    texts = mutation.variants("host", mutation.seeds("host"), HOST)
    names = list(targets)
    for number, text in enumerate(texts):
        name = names[number % len(names)]
        host.write(name, text.encode("utf-8", "surrogatepass"))
        targets[name]()
        for address, what in (*find_storage(root), *network.find(root, functions)):
            assert address in functions.functions
            assert what.what.isprintable(), ascii(what.what)
        host.write(name, "")
    assert list(console.find(root, functions)) == []


def test_a_record_is_read_whole_or_refused(tmp_path: Path):
    seeds = [text for text in mutation.seeds("host") if text.startswith("{")]
    path = tmp_path / record.DIRECTORY / "x.json"
    path.parent.mkdir(parents=True)
    for text in mutation.variants("record", seeds, HOST // 4):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            found = record.read(Site(tmp_path, "x"))
        except record.RecordError as error:
            judge.check_message(error)
            continue
        assert all(pci_address.is_exact(each) for each in found.taken)


def test_a_note_of_a_stuck_driver_is_read_without_a_crash(tmp_path: Path):
    path = tmp_path / stuck.PATH
    path.parent.mkdir(parents=True)
    for text in mutation.variants("stuck", ["0000:83:00.0 4711 100\n"], HOST // 4):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        stuck.check_responsive(tmp_path)


def test_an_image_is_read_or_refused(tmp_path: Path):
    path = tmp_path / "initrd.img"
    seeds = [
        cpio.image({"scripts/x": b"#!/bin/sh\n", "lib/vfio-pci.ko": b"m"}, each).decode("latin-1")
        for each in ("none", "gzip", "xz")
    ]
    for text in mutation.variants("image", seeds, HOST // 4):
        path.write_bytes(text.encode("latin-1", "replace"))
        try:
            initramfs.read(path, [b"#!/bin/sh\n"])
        except initramfs.ImageError as error:
            judge.check_message(error)
