"""An NVMe controller on a made-up host: what sysfs shows of it, and how it answers commands.

It is there while its function is on the driver nvme. What its namespaces hold lies in files of the
tree, so that a run that is killed leaves what it has left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import uses
from harness.fakekernel import FakeKernel

from passthrough.effects import drivers, eraser
from passthrough.system import nvme_admin
from passthrough.system.nvme_admin import NvmeError, Request

SECRET = b"a tenant's volume group "
MODEL, SERIAL = "Lab NVMe", "S3CR37"
_BLOCK = 512
_DONE, _RUNS, _FAILED = 1, 2, 3


class FakeNvme:
    """A controller with namespaces, each full of what a guest has written.

    Attributes:
        cmic, oacs, sanicap, unallocated: what Identify Controller gives.
        shared: whether its namespaces may be shared (NMIC).
        controllers: the numbers of all controllers in its subsystem; None where it does not tell.
        detached: namespaces that are there and not attached.
        lazy: whether Format NVM says that it has erased, and has not.
        broken: whether a sanitize fails.
        slow: how often a sanitize is asked for its status before it is done.
        seen: the commands that it took.
    """

    def __init__(
        self, kernel: FakeKernel, address: str, monkeypatch: pytest.MonkeyPatch, *sizes: int
    ):
        self.kernel, self.root, self.address = kernel, kernel.root, address
        self.sizes = dict(enumerate(sizes or (1 << 20,), 1))
        self.cmic, self.oacs, self.sanicap, self.unallocated = 0, 0b10, 0, 0
        self.shared = False
        self.controllers: tuple[int, ...] | None = (0,)
        self.detached: tuple[int, ...] = ()
        self.lazy = self.broken = False
        self.slow = 0
        self.state, self.hidden = "live", False
        self.seen: list[Request] = []
        self.now = 0.0
        self.unreadable = False
        for each, size in self.sizes.items():
            self._store(each).parent.mkdir(parents=True, exist_ok=True)
            self._store(each).write_bytes((SECRET * (size // len(SECRET) + 1))[:size])
        self._status = 0
        self._write = kernel.write
        kernel.write = self.write  # type: ignore[method-assign]
        monkeypatch.setattr(drivers, "write", self.write)
        self.means = eraser.Means(
            connect=self.connect, read=self.read, sleep=self.sleep, clock=lambda: self.now
        )
        self.show()

    def content(self, number: int = 1) -> bytes:
        """What a namespace holds."""
        return self._store(number).read_bytes()

    @property
    def is_erased(self) -> bool:
        """Whether no namespace holds what the guest wrote."""
        return not any(SECRET in self.content(each) for each in self.sizes)

    def opcodes(self) -> list[int]:
        """The commands that change something."""
        return [
            each.opcode
            for each in self.seen
            if each.opcode in (nvme_admin.FORMAT_NVM, nvme_admin.SANITIZE)
        ]

    def write(self, path: Path, text: str) -> None:
        """Write to sysfs: the controller comes and goes with its driver."""
        self._write(path, text)
        self.show()

    def show(self) -> None:
        """Show in sysfs what there is."""
        tree = self.kernel.tree
        place = tree.directory(self.address) / "nvme"
        shutil.rmtree(place, ignore_errors=True)
        for each in self.sizes:
            (self.root / f"sys/class/block/nvme9n{each}").unlink(missing_ok=True)
        if tree.driver_of(self.address) != "nvme":
            return
        controller = place / "nvme9"
        controller.mkdir(parents=True)
        shown = {"state": self.state, "dev": "237:9", "model": MODEL, "serial": SERIAL}
        for name, text in shown.items():
            (controller / name).write_text(f"{text}\n")
        for each in self.sizes if not self.hidden else ():
            disk = uses.disk(tree, self.address, f"nvme9n{each}", f"259:{each}", "nvme/nvme9")
            (disk / "nsid").write_text(f"{each}\n")

    @contextlib.contextmanager
    def connect(self, path: Path, number: str) -> Iterator[nvme_admin.Send]:
        """Stand in for `nvme_admin.connect`."""
        assert (path, number) == (self.root / "dev/nvme9", "237:9")
        yield self.send

    def read(self, path: Path, offset: int, length: int) -> bytes:
        """Stand in for `direct_read.read`."""
        assert offset % _BLOCK == length % _BLOCK == 0
        if self.unreadable:
            raise OSError(5, "Input/output error")
        data = self.content(int(path.name.removeprefix("nvme9n")))[offset : offset + length]
        assert len(data) == length
        return data

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds

    def send(self, request: Request) -> bytes:
        """Answer a command."""
        self.seen.append(request)
        if request.opcode == nvme_admin.IDENTIFY:
            return self._identify(request)
        if request.opcode == nvme_admin.GET_LOG_PAGE:
            return self._sanitize_status()
        if request.opcode == nvme_admin.FORMAT_NVM:
            assert request.words[0] >> 9 & 0b111 == 1, "the only SES that erases user data"
            self._erase(request.nsid, b"\0")
            return b""
        assert request.opcode == nvme_admin.SANITIZE
        self._status = self.slow + 1
        for each in self.sizes:
            self._erase(each, b"\xff" if request.words[0] == nvme_admin.BLOCK_ERASE else b"?")
        return b""

    def _identify(self, request: Request) -> bytes:
        cns = request.words[0] & 0xFF
        page = bytearray(4096)
        if cns == nvme_admin.CONTROLLER:
            page[4:24], page[24:64] = SERIAL.ljust(20).encode(), MODEL.ljust(40).encode()
            page[76] = self.cmic
            page[256:258] = self.oacs.to_bytes(2, "little")
            page[296:312] = self.unallocated.to_bytes(16, "little")
            page[328:332] = self.sanicap.to_bytes(4, "little")
        elif cns == nvme_admin.NAMESPACE:
            page[0:8] = (self.sizes[request.nsid] // _BLOCK).to_bytes(8, "little")
            page[30] = int(self.shared)
            page[130] = 9
        elif cns == nvme_admin.CONTROLLERS:
            if self.controllers is None:
                raise NvmeError("the controller refuses the command 0x06 (status 0x2)")
            struct.pack_into(
                f"<{len(self.controllers) + 1}H",
                *(page, 0, len(self.controllers), *self.controllers),
            )
        else:
            known = [*self.sizes, *(self.detached if cns == nvme_admin.ALLOCATED else ())]
            struct.pack_into(f"<{len(known)}I", page, 0, *known)
        return bytes(page)

    def _sanitize_status(self) -> bytes:
        state = 0
        if self._status:
            self._status = max(self._status - 1, 1)
            ended = _FAILED if self.broken else _DONE
            state = _RUNS if self._status > 1 else ended
        page = bytearray(512)
        struct.pack_into("<HH", page, 0, 32768, state)
        struct.pack_into("<3I", page, 8, 0xFFFFFFFF, 2, 0xFFFFFFFF)
        return bytes(page)

    def begin_to_sanitize(self) -> None:
        """Let a run before have told it to sanitize, which it still does."""
        self._status = self.slow + 2

    def _erase(self, number: int, blank: bytes) -> None:
        if self.lazy:
            return
        handle = os.open(self._store(number), os.O_WRONLY)
        os.pwrite(handle, blank * self.sizes[number], 0)
        os.close(handle)

    def _store(self, number: int) -> Path:
        return self.root / f".made/nvme-{self.address}/{number}"
