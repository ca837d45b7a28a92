"""Admin commands in bytes, as the NVMe specification has them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from passthrough.system import nvme_admin
from passthrough.system.nvme_admin import NvmeError, Request


def page(length: int = 4096, **fields: bytes) -> bytes:
    """A page of zeroes but for the bytes at these places, ``at_76=b"..."``."""
    made = bytearray(length)
    for name, value in fields.items():
        at = int(name.removeprefix("at_"))
        made[at : at + len(value)] = value
    return bytes(made)


class TestIdentify:
    def test_the_controller(self):
        found = nvme_admin.parse_controller(
            page(
                at_4=b"S123                ",
                at_24=b"Maker's disk".ljust(40),
                at_78=b"\x07\x01",
                at_256=b"\x0a\x00",
                at_296=(1 << 40).to_bytes(16, "little"),
                at_328=b"\x03\x00\x00\x00",
                at_76=b"\x07",
            )
        )
        assert found == nvme_admin.Controller(
            serial="S123",
            model="Maker's disk",
            id=0x107,
            may_have_others=True,
            is_vf=True,
            formats=True,
            manages_namespaces=True,
            unallocated=1 << 40,
            sanitizes_by_block=True,
            sanitizes_by_key=True,
        )
        assert found.told == "Maker's disk S123"

    def test_one_that_knows_nothing(self):
        assert nvme_admin.parse_controller(page()) == nvme_admin.Controller("", "")

    @pytest.mark.parametrize(("cmic", "others"), [(0, False), (1, True), (2, True), (8, False)])
    def test_ports_and_controllers_are_others(self, cmic: int, others: bool):
        found = nvme_admin.parse_controller(page(at_76=bytes([cmic])))
        assert found.may_have_others == others

    def test_bytes_that_are_no_ascii_are_shown(self):
        assert nvme_admin.parse_controller(page(at_4=b"\xffx")).serial == "\\xffx"

    def test_a_namespace(self):
        # The second format: 4096 bytes; metadata within the data, protection of type 1, first.
        found = nvme_admin.parse_namespace(
            3, page(at_0=b"\x00\x10", at_26=b"\x11", at_29=b"\x09", at_30=b"\x01", at_134=b"\x0c")
        )
        assert found == nvme_admin.Namespace(3, 4096, 4096, True, 1 | 1 << 4 | 1 << 5 | 1 << 8)
        assert found.bytes == 1 << 24

    def test_a_format_beyond_the_sixteenth(self):
        found = nvme_admin.parse_namespace(1, page(at_26=b"\x21", at_198=b"\x09"))
        assert (found.block_bytes, found.settings) == (512, 1 | 1 << 12)

    def test_lists(self):
        assert nvme_admin.parse_namespaces(page(at_0=struct.pack("<2I", 1, 5))) == (1, 5)
        assert len(nvme_admin.parse_namespaces(b"\1\0\0\0" * 1024)) == 1024
        assert nvme_admin.parse_controllers(page(at_0=struct.pack("<3H", 2, 0, 9))) == (0, 9)

    def test_its_requests(self):
        assert nvme_admin.identify(nvme_admin.NAMESPACE, nsid=2) == Request(6, 2, (0,), 4096)
        assert nvme_admin.identify(nvme_admin.CONTROLLERS, controller=3).words == (3 << 16 | 0x13,)


class TestErasing:
    def test_a_format_is_a_user_data_erase_and_leaves_the_format(self):
        namespace = nvme_admin.Namespace(4, 8, 512, False, settings=0x1131)
        request = nvme_admin.format_nvm(namespace)
        assert (request.opcode, request.nsid) == (0x80, 4)
        assert request.words == (0x1131 | 1 << 9,)
        assert request.seconds >= 3600

    def test_a_sanitize_stays_restricted_and_overwrites_nothing(self):
        assert nvme_admin.sanitize(nvme_admin.BLOCK_ERASE) == Request(0x84, 0, (2,))
        assert nvme_admin.sanitize(nvme_admin.CRYPTO_ERASE).words == (4,)

    def test_the_status_page_is_asked_for_whole(self):
        assert nvme_admin.sanitize_status() == Request(2, 0xFFFFFFFF, (127 << 16 | 0x81,), 512)

    @pytest.mark.parametrize(
        ("state", "runs", "is_done"),
        [(0, False, False), (1, False, True), (2, True, False), (3, False, False)],
    )
    def test_its_state(self, state: int, runs: bool, is_done: bool):
        status = struct.pack("<HHIIII", 0x4000, 0x100 | state, 0, 1, 30, 0xFFFFFFFF)
        found = nvme_admin.parse_sanitizing(page(512, at_0=status))
        assert found == nvme_admin.Sanitizing(runs, is_done, 0.25, 30, None)


class TestConnect:
    @pytest.fixture
    def node(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A node that looks like a controller's: the one of /dev/null, 1:3."""
        path = tmp_path / "nvme0"
        path.symlink_to(os.devnull)
        return path

    def test_sends_the_kernels_structure(self, node: Path, monkeypatch: pytest.MonkeyPatch):
        sent: dict[str, Any] = {}

        def ioctl(_: int, number: int, command: bytearray) -> int:
            fields = struct.unpack("=BBHIIIQQII6III", command)
            sent.update(number=number, fields=fields)
            ctypes.memmove(fields[7], b"answer", 6)
            return 0

        monkeypatch.setattr(fcntl, "ioctl", ioctl)
        with nvme_admin.connect(node, "1:3") as send:
            assert send(Request(6, 7, (1, 2), 8, seconds=2.5)) == b"answer\0\0"
        assert sent["number"] == 0xC0484E41
        opcode, flags, _, nsid, *_, address, metadata_bytes, length = sent["fields"][:10]
        assert (opcode, flags, nsid, metadata_bytes, length) == (6, 0, 7, 0, 8)
        assert address
        assert sent["fields"][10:] == (1, 2, 0, 0, 0, 0, 2500, 0)

    def test_one_without_an_answer_has_no_buffer(self, node: Path, monkeypatch: pytest.MonkeyPatch):
        def ioctl(_: int, __: int, command: bytearray) -> int:
            assert struct.unpack("=BBHIIIQQII6III", command)[7] == 0
            return 0

        monkeypatch.setattr(fcntl, "ioctl", ioctl)
        with nvme_admin.connect(node, "1:3") as send:
            assert send(Request(0x84)) == b""

    def test_a_refusal_has_its_status(self, node: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(fcntl, "ioctl", lambda *_: 0x4002)
        with nvme_admin.connect(node, "1:3") as send, pytest.raises(NvmeError) as caught:
            send(Request(0x80))
        assert str(caught.value) == "the controller refuses the command 0x80 (status 0x2)"

    def test_so_does_what_is_no_controller(self, node: Path):
        with nvme_admin.connect(node, "1:3") as send, pytest.raises(NvmeError) as caught:
            send(Request(0x80))
        assert str(caught.value) == (
            f"the controller does not take the command 0x80: {os.strerror(errno.ENOTTY)}"
        )

    def test_another_ones_node_is_not_taken(self, node: Path):
        with (
            pytest.raises(NvmeError, match="/dev/nvme0 is not the node of the controller 237:0"),
            nvme_admin.connect(node, "237:0"),
        ):
            pass
