"""IPv4 addresses as the kernel lists them over netlink."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import missing

from passthrough.system import netlink

# RTM_NEWADDR of linux/rtnetlink.h: some versions of ip refuse labels that the kernel takes.
SHOW_IPV4 = """\
import pathlib, socket, struct, sys
from passthrough.system import netlink
attributes = b""
for kind, value in (1, bytes([10, 9, 9, 9])), (2, bytes([10, 9, 9, 9])), (3, sys.argv[1].encode()):
    length = 4 + len(value)
    attributes += struct.pack("=HH", length, kind) + value + bytes(-length % 4)
body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, socket.if_nametoindex("lo")) + attributes
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as plug:
    plug.send(struct.pack("=IHHII", 16 + len(body), 20, 0x605, 1, 0) + body)
    answer = plug.recv(4096)
assert struct.unpack_from("=Hxx8xi", answer, 4) == (2, 0), answer
assert not pathlib.Path("/proc/net/route").read_text().splitlines()[1:]
print(sorted(netlink.interfaces_with_ipv4()))
"""


@pytest.mark.parametrize("label", ["lo", "lo:vip", "lovip"])
def test_an_address_without_a_route_counts_whatever_its_label(charm_root: Path, label: str):
    """As keepalived and the like set them; in a network namespace of its own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", *user, "--net", sys.executable, "-c", SHOW_IPV4, label],
        env={**os.environ, "PYTHONPATH": str(charm_root / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if done.stderr.startswith("unshare: "):
        missing.skip(done.stderr)
    assert (done.stderr, done.stdout) == ("", "['lo']\n")


def message(kind: int, body: bytes, flags: int = 0x2) -> bytes:
    """One message of a netlink answer, padded as the kernel does."""
    head = struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0)
    return (head + body).ljust(-(-(16 + len(body)) // 4) * 4, b"\0")


ADDRESSES = [message(20, struct.pack("=BBBBI", 2, 32, 0, 0, number) + b"x") for number in (2, 7)]
DONE = message(3, bytes(4))


@pytest.mark.parametrize(
    ("datagrams", "indexes"),
    [
        ([DONE], frozenset()),
        ([b"".join(ADDRESSES), DONE], frozenset({2, 7})),
        ([*ADDRESSES, message(1, b""), DONE], frozenset({2, 7})),
        ([ADDRESSES[0], message(20, bytes(8), flags=0x12), DONE], None),
        ([ADDRESSES[0], message(3, bytes(4), flags=0x12)], None),
    ],
    ids=["none", "in-one", "in-several", "changed", "changed-at-the-end"],
)
def test_the_kernels_list_of_addresses(datagrams: list[bytes], indexes: frozenset[int] | None):
    assert netlink.read_indexes(datagrams) == indexes


@pytest.mark.parametrize(
    ("datagrams", "said"),
    [
        ([message(2, struct.pack("=i", -1))], "Operation not permitted"),
        (ADDRESSES, "has no end"),
        ([bytes(16)], "has no end"),
    ],
    ids=["refused", "cut-off", "empty"],
)
def test_addresses_that_cannot_be_read_are_no_none(datagrams: list[bytes], said: str):
    with pytest.raises(OSError, match=said):
        netlink.read_indexes(datagrams)


def test_addresses_that_never_hold_still_are_no_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(netlink, "_ask_for_ipv4", lambda: [message(3, bytes(4), flags=0x12)])
    with pytest.raises(OSError, match="change too often"):
        netlink.interfaces_with_ipv4()


class Answers:
    """A socket on which the kernel has given its answers, and that notes the questions."""

    def __init__(self, *datagrams: bytes):
        self.datagrams = list(datagrams)
        self.asked: list[bytes] = []

    def send(self, question: bytes) -> None:
        self.asked.append(question)

    def recv(self, size: int) -> bytes:
        assert size >= 1 << 15  # the kernel makes no longer ones
        return self.datagrams.pop(0)


def test_a_question_has_one_answer():
    asking: Any = Answers(message(88, b"1234"))
    assert netlink.ask(asking, 90, b"abcd") == [b"1234"]
    assert asking.asked == [struct.pack("=IHHII", 20, 90, 0x1, 0, 0) + b"abcd"]


def test_a_list_that_changed_is_asked_for_again():
    first, last = message(16, b"1234"), message(16, b"5678")
    changed = message(16, b"0000", flags=0x12)
    asking: Any = Answers(first, changed + DONE, first + last, DONE)
    assert netlink.dump(asking, 18, b"") == [b"1234", b"5678"]
    assert asking.asked == [struct.pack("=IHHII", 16, 18, 0x301, 0, 0)] * 2


@pytest.mark.parametrize(
    ("datagrams", "said"),
    [
        ([message(2, struct.pack("=i", -1))], "Operation not permitted"),
        ([message(16, b"") + message(3, struct.pack("=i", -22))], "Invalid argument"),
        ([message(3, bytes(4), flags=0x12)] * 10, "changes too often"),
    ],
    ids=["refused", "an-error-at-the-end", "changed"],
)
def test_a_list_that_cannot_be_read_is_not_empty(datagrams: list[bytes], said: str):
    asking: Any = Answers(*datagrams)
    with pytest.raises(OSError, match=said):
        netlink.dump(asking, 18, b"")


def test_attributes_are_read_as_they_are_written():
    body = b"head" + netlink.attribute(3, b"abcd") + netlink.attribute(0x8000 | 43, b"efgh")
    assert list(netlink.attributes(body, 4)) == [(3, b"abcd"), (43, b"efgh")]
    assert list(netlink.attributes(struct.pack("=HHHH", 0, 1, 4, 2))) == [(1, b""), (2, b"")]
