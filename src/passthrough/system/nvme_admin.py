"""Speak to an NVMe controller: Identify, log pages, Format NVM, Sanitize.

Requests and the bytes that answer them are pure; only `connect` touches the host. Sources: the NVM
Express Base Specification 2.0 and, for namespaces, the NVM Command Set Specification 1.0, by the
names of commands and fields; and the kernel's include/uapi/linux/nvme_ioctl.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

from passthrough.errors import PassthroughError

# struct nvme_passthru_cmd: opcode, flags, rsvd1, nsid, cdw2, cdw3, metadata, addr, metadata_len,
# data_len, cdw10 to cdw15, timeout_ms, result. NVME_IOCTL_ADMIN_CMD is _IOWR('N', 0x41, of it).
_COMMAND = struct.Struct("=BBHIIIQQII6III")
IOCTL = (3 << 30) | (_COMMAND.size << 16) | (ord("N") << 8) | 0x41

# Opcodes of admin commands.
GET_LOG_PAGE, IDENTIFY, FORMAT_NVM, SANITIZE = 0x02, 0x06, 0x80, 0x84
# What Identify gives: its field CNS (Controller or Namespace Structure).
NAMESPACE, CONTROLLER, ACTIVE, ALLOCATED, CONTROLLERS = 0x00, 0x01, 0x02, 0x10, 0x13
ALL_NAMESPACES = 0xFFFFFFFF
_PAGE = 4096
_SANITIZE_STATUS, _SANITIZE_STATUS_BYTES = 0x81, 512
# Format NVM's field SES (Secure Erase Settings): user data erase, which every controller with
# Format NVM knows. 0 erases nothing, so nothing here can ask for it.
_USER_DATA_ERASE = 1
# Sanitize's field SANACT.
BLOCK_ERASE, CRYPTO_ERASE = 2, 4
# Seconds. The kernel resets a controller that has not answered by then.
_ANSWER = 60.0
FORMATS = 4 * 3600.0
# Of an estimate in the sanitize log: the controller tells none.
_NO_ESTIMATE = 0xFFFFFFFF


class NvmeError(PassthroughError):
    """A controller refuses a command, or does not take any."""


class Request(NamedTuple):
    """An admin command.

    Attributes:
        opcode: which one.
        nsid: the namespace; 0 for none.
        words: its command dwords from 10 on.
        length: how many bytes it answers.
        seconds: how long that can take.
    """

    opcode: int
    nsid: int = 0
    words: tuple[int, ...] = ()
    length: int = 0
    seconds: float = _ANSWER


# Sends a request, and gives what it answers; raises NvmeError.
Send = Callable[[Request], bytes]


class Controller(NamedTuple):
    """What a controller tells of itself (Identify Controller).

    Attributes:
        serial: its serial number (SN).
        model: its model (MN).
        id: its number in its subsystem (CNTLID).
        may_have_others: whether its subsystem may have other controllers or ports (CMIC).
        is_vf: whether it belongs to a VF (CMIC).
        formats: whether it knows Format NVM (OACS).
        manages_namespaces: whether namespaces can be made and deleted on it (OACS).
        unallocated: how many bytes are in no namespace (UNVMCAP); 0 where it does not say.
        sanitizes_by_block: whether it knows Sanitize with a block erase (SANICAP).
        sanitizes_by_key: the same with a crypto erase.
    """

    serial: str
    model: str
    id: int = 0
    may_have_others: bool = False
    is_vf: bool = False
    formats: bool = False
    manages_namespaces: bool = False
    unallocated: int = 0
    sanitizes_by_block: bool = False
    sanitizes_by_key: bool = False

    @property
    def told(self) -> str:
        """Its model and serial number, for a message."""
        return f"{self.model} {self.serial}".strip()


class Namespace(NamedTuple):
    """What a controller tells of a namespace (Identify Namespace).

    Attributes:
        id: its number (NSID).
        blocks: how many logical blocks it has (NSZE).
        block_bytes: how many bytes of data one has (LBADS).
        is_shared: whether several controllers can have it at once (NMIC).
        settings: what Format NVM has to be told to leave its format as it is: dword 10 without SES.
    """

    id: int
    blocks: int
    block_bytes: int
    is_shared: bool
    settings: int

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.blocks * self.block_bytes


class Sanitizing(NamedTuple):
    """What the Sanitize Status log page says.

    Attributes:
        runs: whether a sanitize operation is in progress (SSTAT).
        is_done: whether the last one came to its end with success.
        share: how much of the one in progress is done, from 0 to 1 (SPROG).
        block_seconds: how long a block erase takes; None where the controller does not say.
        key_seconds: the same of a crypto erase.
    """

    runs: bool
    is_done: bool
    share: float
    block_seconds: int | None
    key_seconds: int | None


def identify(cns: int, nsid: int = 0, controller: int = 0) -> Request:
    """Ask with Identify: ``cns`` says for what, ``controller`` is where a list begins."""
    return Request(IDENTIFY, nsid, (controller << 16 | cns,), _PAGE)


def sanitize_status() -> Request:
    """Ask for the Sanitize Status log page."""
    dwords = _SANITIZE_STATUS_BYTES // 4 - 1
    words = (dwords << 16 | _SANITIZE_STATUS,)
    return Request(GET_LOG_PAGE, ALL_NAMESPACES, words, _SANITIZE_STATUS_BYTES)


def format_nvm(namespace: Namespace) -> Request:
    """Erase the user data of a namespace, and leave its format as it is.

    A controller may have this erase all its namespaces (FNA); the caller asks for each anyway.
    """
    words = (namespace.settings | _USER_DATA_ERASE << 9,)
    return Request(FORMAT_NVM, namespace.id, words, seconds=FORMATS)


def sanitize(action: int) -> Request:
    """Begin to sanitize; the log page tells when it is done.

    A failure leaves the controller closed until another sanitize succeeds (AUSE is 0).

    Args:
        action: BLOCK_ERASE or CRYPTO_ERASE.
    """
    return Request(SANITIZE, 0, (action,))


def parse_controller(page: bytes) -> Controller:
    """Parse what Identify gives for CONTROLLER."""
    cmic = page[76]
    oacs = int.from_bytes(page[256:258], "little")
    sanicap = int.from_bytes(page[328:332], "little")
    return Controller(
        serial=_text(page[4:24]),
        model=_text(page[24:64]),
        id=int.from_bytes(page[78:80], "little"),
        may_have_others=bool(cmic & 0b11),
        is_vf=bool(cmic & 0b100),
        formats=bool(oacs & 0b10),
        manages_namespaces=bool(oacs & 0b1000),
        unallocated=int.from_bytes(page[296:312], "little"),
        sanitizes_by_block=bool(sanicap & 0b10),
        sanitizes_by_key=bool(sanicap & 0b1),
    )


def parse_namespace(nsid: int, page: bytes) -> Namespace:
    """Parse what Identify gives for NAMESPACE."""
    flbas, dps = page[26], page[29]
    low, extended, high = flbas & 0b1111, flbas >> 4 & 1, flbas >> 5 & 0b11
    at = 128 + 4 * (high << 4 | low)
    # Dword 10 of Format NVM: LBAFL, MSET, PI, PIL, and LBAFU behind SES.
    settings = low | extended << 4 | (dps & 0b111) << 5 | (dps >> 3 & 1) << 8 | high << 12
    return Namespace(
        nsid,
        blocks=int.from_bytes(page[0:8], "little"),
        block_bytes=1 << page[at + 2],
        is_shared=bool(page[30] & 1),
        settings=settings,
    )


def parse_namespaces(page: bytes) -> tuple[int, ...]:
    """Parse a list of namespaces, as Identify gives it for ACTIVE and ALLOCATED."""
    numbers = struct.unpack("<1024I", page)
    return numbers[: numbers.index(0)] if 0 in numbers else numbers


def parse_controllers(page: bytes) -> tuple[int, ...]:
    """Parse a list of controllers, as Identify gives it for CONTROLLERS."""
    count, *numbers = struct.unpack("<2048H", page)
    return tuple(numbers[:count])


def parse_sanitizing(page: bytes) -> Sanitizing:
    """Parse the Sanitize Status log page."""
    progress, status = struct.unpack_from("<HH", page)
    _, block, key = (None if each == _NO_ESTIMATE else each for each in _estimates(page))
    state = status & 0b111
    return Sanitizing(state == 2, state in (1, 4), progress / 65536, block, key)


def _estimates(page: bytes) -> tuple[int, int, int]:
    return struct.unpack_from("<3I", page, 8)


def _text(field: bytes) -> str:
    """A field of ASCII, which a controller fills up with blanks; what is none is shown as such."""
    return field.decode("ascii", "backslashreplace").strip("\0 ")


@contextlib.contextmanager
def connect(path: Path, number: str) -> Generator[Send]:
    """Have a controller's own node open while the block runs.

    Args:
        path: the node.
        number: its device number as sysfs spells it, ``237:0``.

    Raises:
        NvmeError: when the node is another one's.
        OSError: when it cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        is_it = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" == number
        if not (stat.S_ISCHR(found.st_mode) and is_it):
            raise NvmeError(f"/dev/{path.name} is not the node of the controller {number}")
        yield lambda request: _send(handle, request)
    finally:
        os.close(handle)


def _send(handle: int, request: Request) -> bytes:
    data = ctypes.create_string_buffer(max(request.length, 1))
    words = (*request.words, *(0,) * (6 - len(request.words)))
    spelled = bytearray(
        _COMMAND.pack(
            *(request.opcode, 0, 0, request.nsid, 0, 0, 0),
            ctypes.addressof(data) if request.length else 0,
            *(0, request.length, *words, int(request.seconds * 1000), 0),
        )
    )
    try:
        status = fcntl.ioctl(handle, IOCTL, spelled)
    except OSError as error:
        raise NvmeError(
            f"the controller does not take the command {request.opcode:#04x}: {error.strerror}"
        ) from error
    if status:
        # The status field without its phase bit: code in bits 7:0, its type in bits 10:8.
        raise NvmeError(
            f"the controller refuses the command {request.opcode:#04x} (status {status & 0x7FF:#x})"
        )
    return data.raw[: request.length]
