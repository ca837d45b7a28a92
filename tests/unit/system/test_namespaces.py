"""What the kernel says of interfaces in other network namespaces, and of XDP."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from harness import missing

from passthrough.system import namespaces, netlink, open_files, procfs, sysfs

# All of it in namespaces of its own: this machine's are not touched.
PREPARE = """\
trap 'kill $(jobs -p) 2>/dev/null' EXIT
ip link add low0 type veth peer name low1 || exit 77
ip link add near0 type veth peer name far0 || exit 77
index=$(cut -d: -f1 <<<"$(ip -o link show low0)")
unshare --net sleep 600 & other=$!
while test "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/$$/ns/net)"; do sleep 0.1; done
ip link set far0 netns $other || exit 77
ask() { "$python" -c "$ask" "$index" "$@"; }
"""
ASK = """\
import json, os, sys
from pathlib import Path
from passthrough.system import namespaces, open_files, procfs
index, *processes = map(int, sys.argv[1:])
mounts = Path("/proc/self/mountinfo").read_text().splitlines()
opened = open_files.look(Path("/"), processes, mounts).networks
own = os.readlink("/proc/self/ns/net")
found = namespaces.find(processes, opened, mounts)
told = namespaces.look(found)
assert own == os.readlink("/proc/self/ns/net") and own not in found
uppers = sorted(name for name, lower in told.uppers if lower == index)
others = sorted(name for name, lower in told.uppers if lower != index)
print(json.dumps([uppers, others]))
"""
MOVED = """\
ip link add link low0 name mv0 type macvtap mode bridge || exit 77
ip link set mv0 netns $other || exit 77
"""
# As the CNI plugins make them: there from the start, so this namespace has no number for that one.
MADE_THERE = "ip link add link low0 name mv1 netns $other type macvlan mode bridge || exit 77\n"
CASES = {
    "moved, a process is there": f"{MOVED} ask $other",
    "made there, a process is there": f"{MADE_THERE} ask $other",
    "both": f"{MOVED} {MADE_THERE} ask $other",
    "moved, whoever keeps it is not known": f"{MOVED} ask",
    "made there, a mount keeps it": f"""{MADE_THERE}
        mount -t tmpfs none /mnt && touch "/mnt/a b" || exit 77
        mount --bind /proc/$other/ns/net "/mnt/a b" || exit 77
        kill $other; wait $other 2>/dev/null; ask $$""",
    "made there, a descriptor keeps it": f"""{MADE_THERE}
        exec 3</proc/$other/ns/net
        sleep 600 & keeper=$!
        exec 3<&-
        kill $other; wait $other 2>/dev/null; ask $keeper""",
}
EXPECTED = {case: ["mv0"] if "moved" in case else ["mv1"] for case in CASES} | {
    "both": ["mv0", "mv1"]
}


def run_apart(script: str, charm_root: Path) -> str:
    """Run bash in a network and a mount namespace of its own; gives its output."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", *user, "--net", "--mount", "bash", "-c", script],
        env={
            **os.environ,
            "PYTHONPATH": str(charm_root / "src"),
            "python": sys.executable,
            "ask": ASK,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # on a machine that is busy
    )
    if done.returncode == 77 or done.stderr.startswith("unshare: "):
        missing.skip(done.stderr)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_tells_of_interfaces_that_stand_on_ours(charm_root: Path, case: str):
    """The other namespace has an end of a veth pair, too, which stands on another of ours."""
    out = run_apart(PREPARE + CASES[case], charm_root)
    assert json.loads(out) == [EXPECTED[case], ["far0"]]


def attribute(kind: int, value: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(value), kind) + value).ljust(
        4 + -(-len(value) // 4) * 4, b"\0"
    )


def link(*attributes: bytes, index: int = 7) -> bytes:
    return struct.pack("=BxHiII", 0, 1, index, 0x1003, 0) + b"".join(attributes)


def number(value: int) -> bytes:
    return struct.pack("=i", value)


NAME, LOWER, NAMESPACE = attribute(3, b"mv0\0"), attribute(5, number(4)), attribute(37, number(0))


@pytest.mark.parametrize(
    ("body", "home", "upper"),
    [
        (link(NAME, LOWER, NAMESPACE), 0, ("mv0", 4)),
        (link(NAME, LOWER, NAMESPACE), 3, None),
        (link(NAME, LOWER, NAMESPACE), None, None),
        (link(NAME, LOWER), 0, None),
        (link(NAME), 0, None),
    ],
    ids=["on-ours", "on-a-third-namespaces", "nothing-is-from-ours", "on-its-own", "on-nothing"],
)
def test_an_interface_of_another_namespace(body: bytes, home: int | None, upper: tuple | None):
    assert namespaces.read_upper(body, home) == upper


@pytest.mark.parametrize(
    ("attached", "index"), [(0, None), (1, 7), (2, 7), (3, 7), (4, 7), (None, None)]
)
def test_an_xdp_program(attached: int | None, index: int | None):
    xdp = [] if attached is None else [attribute(43, attribute(2, bytes([attached])))]
    assert namespaces.read_programmed(link(NAME, *xdp)) == index


# A kernel that is made up: what it says of each namespace, to whoever has entered it.
HOME, FIRST, SECOND = "home", "net:[1]", "net:[2]"


class Kernel:
    """Answers questions about the namespace that a socket was opened in.

    ``numbers`` are what the reader's namespace calls others, ``gone`` those that are no more.
    """

    def __init__(self, links: dict[str, list[bytes]], numbers: dict[int, str]):
        self.links, self.numbers = links, numbers
        self.gone: dict[int, int] = {}
        self.here = HOME
        self.entered: list[str] = []

    def enter(self, name: str, paths: Iterable[str]) -> int | None:
        if name not in self.links:
            return None
        self.here = name
        self.entered.append(name)
        assert list(paths) == [f"/{name}"]
        return os.open(os.devnull, os.O_RDONLY)

    def open(self, protocol: int) -> Asking:
        assert protocol == socket.NETLINK_ROUTE
        return Asking(self, self.here)


class Asking:
    """A socket of a namespace."""

    def __init__(self, kernel: Kernel, where: str):
        self.kernel, self.where = kernel, where
        self.answers: list[bytes] = []

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.answers == []  # nobody leaves half of an answer

    def send(self, question: bytes) -> None:
        length, kind, flags = struct.unpack_from("=IHH", question)
        assert length == len(question)
        found = dict(netlink.attributes(question, 16 + (16 if kind == 18 else 4)))
        if kind == 18:
            assert found[29] == number(8)  # no statistics
            self.answers = [message(16, each) for each in self._links(found.get(46))]
        elif flags & 0x300:
            assert self.where == HOME
            self.answers = [message(88, nsid(each)) for each in self.kernel.numbers]
        else:
            (handle,) = struct.unpack("=I", found[3])
            is_own = os.readlink(f"/proc/self/fd/{handle}") != os.devnull
            known = {name: number for number, name in self.kernel.numbers.items()}
            named = 0 if is_own else known.get(self.kernel.entered[-1], -1)
            self.answers = [message(88, nsid(named))]
            return
        self.answers.append(message(3, number(0)))

    def _links(self, target: bytes | None) -> list[bytes]:
        if target is None:
            return self.kernel.links[self.where]
        (asked,) = struct.unpack("=i", target)
        if asked in self.kernel.gone:
            code = self.kernel.gone[asked]
            raise OSError(code, os.strerror(code))
        return self.kernel.links[self.kernel.numbers[asked]]

    def recv(self, size: int) -> bytes:
        assert size >= 1 << 15
        return self.answers.pop(0)


def message(kind: int, body: bytes) -> bytes:
    padded = body.ljust(-(-len(body) // 4) * 4, b"\0")
    return struct.pack("=IHHII", 16 + len(body), kind, 0x2, 0, 0) + padded


def nsid(value: int) -> bytes:
    return bytes(4) + attribute(1, number(value))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Two namespaces with a macvlan of ours each; ours has a number for the second one alone."""
    other = attribute(3, b"mv1\0") + LOWER + NAMESPACE
    made = Kernel(
        {FIRST: [link(NAME, LOWER, NAMESPACE), link(NAME)], SECOND: [link(other)]}, {5: SECOND}
    )
    monkeypatch.setattr(namespaces, "_enter", made.enter)
    monkeypatch.setattr(namespaces, "_open", made.open)
    return made


def visit(*names: str) -> list[str]:
    return [each.name for each in namespaces._visit({name: [f"/{name}"] for name in names})]


def test_each_namespace_is_asked_once(kernel: Kernel):
    assert visit(FIRST, "net:[3]", SECOND) == ["mv0", "mv1"]
    assert kernel.entered == [FIRST, SECOND]  # the third is gone


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EACCES])
def test_a_namespace_that_is_known_by_number_alone_may_be_gone(kernel: Kernel, code: int):
    kernel.gone[5] = code
    if code == errno.EINVAL:
        assert visit(FIRST) == ["mv0"]
    else:
        with pytest.raises(OSError, match="Permission denied"):
            visit(FIRST)


def test_a_namespace_that_nobody_is_seen_to_keep_is_asked_by_its_number(kernel: Kernel):
    assert visit(FIRST) == ["mv0", "mv1"]
    assert kernel.entered == [FIRST]


def test_what_is_too_short_for_an_attribute_is_passed_over(kernel: Kernel):
    kernel.links[FIRST] = [link(attribute(5, b"") + b"\3")]
    assert visit(FIRST, SECOND) == ["mv1"]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (struct.error("unpack requires 16 bytes"), "damaged: unpack requires 16 bytes"),
        (ValueError("too many values"), "damaged: too many values"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "not permitted"),
    ],
)
def test_what_fails_beside_the_reader_fails(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, said: str
):
    def fail(asked: object) -> list[namespaces.Upper]:
        raise failure

    monkeypatch.setattr(namespaces, "_visit", fail)
    with pytest.raises(OSError, match=said):
        namespaces._look_elsewhere({})


def test_a_namespace_is_entered_by_the_first_file_that_is_still_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    entered: list[int] = []

    class Library:
        def __init__(self, name: None, use_errno: bool):
            assert (name, use_errno) == (None, True)

        def setns(self, handle: int, kind: int) -> int:
            assert kind == 0x40000000
            entered.append(handle)
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    paths = [tmp_path / name for name in ("gone", "reused", "own", "further")]
    for path in paths[1:]:
        path.write_text("")
    name = f"net:[{os.stat(paths[2]).st_ino}]"
    handle = namespaces._enter(name, map(str, paths))
    assert handle is not None
    assert entered == [handle]
    assert os.fstat(handle).st_ino == os.stat(paths[2]).st_ino
    os.close(handle)


PROTOCOLS = "protocol  size sockets  memory press maxhdr  slab module     cl co\n"


@pytest.mark.parametrize(
    ("lines", "some"),
    [
        (["XDP       1088      2      -1   NI       0   no   kernel      n  n"], True),
        (["XDP       1088      0      -1   NI       0   no   kernel      n  n"], False),
        (["PACKET    1600      3      -1   NI       0   no   kernel      n  n"], False),
        ([], False),
    ],
)
def test_whether_there_are_af_xdp_sockets(lines: list[str], some: bool):
    assert namespaces.has_xdp_sockets([PROTOCOLS, *lines]) is some


def test_where_an_af_xdp_socket_is_bound():
    head = struct.pack("=BBHIII", 44, 3, 0, 4711, 0, 0)
    assert namespaces.read_bound(head + attribute(1, struct.pack("=II", 7, 0))) == 7
    assert namespaces.read_bound(head) == 0  # it is not bound yet


def test_af_xdp_sockets_that_cannot_be_told_of_are_not_none(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> list[bytes]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    bound = struct.pack("=BBHIII", 44, 3, 0, 4711, 0, 0) + attribute(1, struct.pack("=II", 7, 0))
    monkeypatch.setattr(namespaces, "has_xdp_sockets", lambda lines: True)
    monkeypatch.setattr(netlink, "dump", lambda *_: [bound])
    assert namespaces._xdp_sockets() == {7}
    monkeypatch.setattr(netlink, "dump", refuse)
    assert namespaces._xdp_sockets() is None


def test_this_very_machines_interfaces_are_read():
    told = namespaces.look({})
    assert told.programmed <= {index for index, _ in socket.if_nameindex()}


def test_a_namespace_that_is_gone_has_nothing():
    gone = f"/proc/{2**22 + 1}/ns/net"
    assert namespaces._enter("net:[1]", [gone]) is None
    # Nor is another one entered, whose process has the number of one that has ended.
    assert namespaces._enter("net:[1]", ["/proc/self/ns/net"]) is None


def test_a_namespace_that_cannot_be_opened_or_entered_is_not_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "net").write_text("")
    file = os.stat(tmp_path / "net").st_ino
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        namespaces.look({"net:[1]": [str(loop)]})
    with pytest.raises(OSError, match=r"Invalid argument|Operation not permitted"):
        namespaces.look({f"net:[{file}]": [str(tmp_path / "net")]})


def test_a_process_that_cannot_be_looked_at_is_not_none(monkeypatch: pytest.MonkeyPatch):
    read = os.readlink

    def readlink(path: str) -> str:
        if path == "/proc/812/ns/net":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return "net:[9]" if path in ("/proc/7/ns/net", "/proc/8/ns/net") else read(path)

    monkeypatch.setattr(os, "readlink", readlink)
    assert namespaces.find([os.getpid(), 2**22 + 1], {}, []) == {}
    opened = {"net:[9]": ["/proc/6/fd/3"], read("/proc/self/ns/net"): ["/proc/6/fd/4"]}
    assert namespaces.find([7, 8], opened, []) == {
        "net:[9]": ["/proc/6/fd/3", "/proc/7/ns/net", "/proc/8/ns/net"]
    }
    with pytest.raises(PermissionError):
        namespaces.find([812], {}, [])


MOUNT = "75 28 0:4 {name} {place} rw shared:40 - nsfs nsfs rw"
ROOT = "28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw"


@pytest.mark.parametrize(
    ("above", "reached"),
    [
        ([ROOT], True),
        ([ROOT, "30 28 0:25 / /run rw - tmpfs tmpfs rw"], True),
        ([ROOT, "30 28 0:25 / /run rw - fuse.sshfs a:/ rw"], False),
        ([ROOT, "30 28 0:25 / /runs rw - nfs4 a:/ rw"], True),
        (["28 1 0:31 / / rw - nfs a:/ rw"], False),
    ],
    ids=["local", "both-local", "a-server-on-the-way", "beside-it", "a-root-that-is-served"],
)
def test_a_namespace_that_only_a_mount_keeps(
    monkeypatch: pytest.MonkeyPatch, above: list[str], reached: bool
):
    """Nothing is opened behind a file system that might never answer."""
    lines = [*above, "x", MOUNT.format(name="net:[42]", place="/run/netns/a\\040b")]
    files = {"/proc/self/mountinfo": above, "/proc/7/mountinfo": lines}

    def lines_or_raise(path: str) -> list[str]:
        if path not in files:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return files[path]

    monkeypatch.setattr(sysfs, "lines_or_raise", lines_or_raise)
    if reached:
        found = namespaces._find_mounted([6, 7, 8], {"net:[42]"})
        assert found == {"net:[42]": ["/proc/7/root/run/netns/a b"]}
    else:
        with pytest.raises(OSError, match=re.escape("out of reach: 'net:[42]'")):
            namespaces._find_mounted([6, 7, 8], {"net:[42]"})


def test_a_tree_has_no_kernel_to_be_asked(tmp_path: Path):
    assert procfs.Processes(tmp_path).interfaces is None
    assert procfs.Processes.none().interfaces is None


def test_root_asks_the_kernel(monkeypatch: pytest.MonkeyPatch):
    told = namespaces.Interfaces(programmed=frozenset({7}))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(procfs.Processes, "opened", namespaces_open({"net:[1]": ("a",)}))
    monkeypatch.setattr(procfs.Processes, "mounts", ("m",))
    monkeypatch.setattr(procfs.Processes, "numbers", (1, 2))
    monkeypatch.setattr(namespaces, "find", lambda *given: {"net:[2]": given})
    asked = []
    monkeypatch.setattr(namespaces, "look", lambda found: asked.append(found) or told)
    assert procfs.Processes(Path("/")).interfaces == told
    assert asked == [{"net:[2]": ((1, 2), {"net:[1]": ("a",)}, ("m",))}]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert procfs.Processes(Path("/")).interfaces is None


def namespaces_open(networks: dict[str, tuple[str, ...]]) -> open_files.Opened:
    return open_files.Opened({}, {}, {}, (), networks=networks)
