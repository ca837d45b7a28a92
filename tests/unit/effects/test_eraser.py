"""A controller on the host's driver is opened, erased, and read back."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from harness import uses
from harness.fakekernel import FakeKernel
from harness.fakenvme import SECRET, FakeNvme
from harness.hosttree import HostTree

from passthrough.effects import eraser
from passthrough.effects.eraser import EraseError
from passthrough.host import held_disks
from passthrough.host.uses import kinds
from passthrough.planning.erasure import Method
from passthrough.system import nvme_admin

NVME = "0000:02:00.0"
BY_BLOCK, BY_KEY = 0b10, 0b01


@pytest.fixture
def nvme(tree: HostTree, monkeypatch: pytest.MonkeyPatch) -> FakeNvme:
    """The host's NVMe, on nvme, with two namespaces."""
    return FakeNvme(FakeKernel(tree, monkeypatch), NVME, monkeypatch, 1 << 20, 12288)


def erase(nvme: FakeNvme) -> tuple[Method, dict[int, eraser.Seen], list[str]]:
    said: list[str] = []
    with eraser.opened(nvme.root, NVME, nvme.means) as disk:
        before = eraser.sample(disk, nvme.means)
        eraser.erase(disk, nvme.means, said.append)
        after = eraser.sample(disk, nvme.means)
    return disk.method, {each: eraser.compare(before[each], after[each]) for each in before}, said


def refuse(nvme: FakeNvme) -> str:
    """Why it is not opened; nothing was erased."""
    with pytest.raises((EraseError, nvme_admin.NvmeError)) as caught:
        erase(nvme)
    assert nvme.opcodes() == []
    assert not nvme.is_erased
    return str(caught.value)


class TestErase:
    def test_by_a_format_of_each_namespace(self, nvme: FakeNvme):
        method, seen, said = erase(nvme)
        assert method is Method.FORMAT
        assert nvme.is_erased
        assert [each.nsid for each in nvme.seen if each.opcode == nvme_admin.FORMAT_NVM] == [1, 2]
        assert said == ["namespace 1: formatted", "namespace 2: formatted"]
        assert {each: found.wrong for each, found in seen.items()} == {1: 0, 2: 0}
        assert seen[1].counts == {"zeroes": 16, "ones": 0, "other": 0}
        assert seen[2] == eraser.Seen(1, {"zeroes": 1, "ones": 0, "other": 0}, 0)

    @pytest.mark.parametrize(
        ("sanicap", "method", "action", "kind"),
        [
            (BY_BLOCK | BY_KEY, Method.SANITIZE_BLOCK, nvme_admin.BLOCK_ERASE, "ones"),
            (BY_KEY, Method.SANITIZE_CRYPTO, nvme_admin.CRYPTO_ERASE, "other"),
        ],
    )
    def test_by_a_sanitize_of_all(
        self, nvme: FakeNvme, sanicap: int, method: Method, action: int, kind: str
    ):
        nvme.sanicap = sanicap
        found, seen, _ = erase(nvme)
        assert found is method
        assert nvme.is_erased
        (request,) = [each for each in nvme.seen if each.opcode == nvme_admin.SANITIZE]
        assert request.words == (action,)
        assert seen[1].counts[kind] == seen[1].samples

    def test_a_long_sanitize_tells_how_far_it_is(self, nvme: FakeNvme):
        nvme.sanicap, nvme.slow = BY_BLOCK, 150
        _, _, said = erase(nvme)
        assert said == ["sanitize: 50% after 60 s", "sanitize: 50% after 120 s"]

    def test_one_beyond_all_estimates_is_not_done(self, nvme: FakeNvme):
        nvme.sanicap, nvme.slow = BY_BLOCK, 10**6
        with pytest.raises(EraseError, match="it is not done after 601 s, at 50%"):
            erase(nvme)

    def test_one_that_fails_is_not_done(self, nvme: FakeNvme):
        nvme.sanicap, nvme.broken = BY_BLOCK, True
        with pytest.raises(EraseError, match="the controller says that sanitize failed"):
            erase(nvme)

    def test_one_that_a_run_before_began_is_waited_for(self, nvme: FakeNvme):
        nvme.sanicap, nvme.slow = BY_BLOCK, 5
        nvme.begin_to_sanitize()
        erase(nvme)
        assert nvme.opcodes() == [nvme_admin.SANITIZE]
        assert nvme.now >= 5

    def test_a_long_format_tells_that_it_goes_on(
        self, nvme: FakeNvme, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(eraser, "_TELLS_EVERY", 0.01)
        told: list[str] = []

        def format_slowly(_: nvme_admin.Request) -> bytes:
            while len(told) < 2:
                pass
            return b""

        namespace = nvme_admin.Namespace(1, 8, 512, False, 0)
        part = eraser.Part(namespace, nvme.root)
        controller = nvme_admin.Controller("", "")
        disk = eraser.Disk(format_slowly, controller, Method.FORMAT, [part])
        eraser.erase(disk, nvme.means, told.append)
        assert told[0] == "namespace 1: formatting for 0 s"
        assert told[-1] == "namespace 1: formatted"

    def test_a_refused_format_says_so(self, nvme: FakeNvme, monkeypatch: pytest.MonkeyPatch):
        def refused(*_: object) -> None:
            raise nvme_admin.NvmeError("the controller refuses the command 0x80 (status 0x15)")

        monkeypatch.setattr(nvme, "_erase", refused)
        with pytest.raises(nvme_admin.NvmeError, match="status 0x15"):
            erase(nvme)


class TestCompare:
    OLD, NEW, ZEROES = b"old", b"new", b"\0\0\0"

    @pytest.mark.parametrize(
        ("then", "now", "kind"),
        [
            (OLD, ZEROES, "zeroes"),
            (OLD, b"\xff\xff\xff", "ones"),
            (OLD, NEW, "other"),
            (ZEROES, ZEROES, "zeroes"),
            (None, ZEROES, "zeroes"),
        ],
    )
    def test_what_counts_as_erased(self, then: bytes | None, now: bytes, kind: str):
        found = eraser.compare([then], [now])
        assert found.counts[kind] == 1
        assert found.wrong == 0

    @pytest.mark.parametrize(
        ("then", "now"), [(OLD, OLD), (OLD, None), (None, None), (None, NEW), (ZEROES, None)]
    )
    def test_what_does_not(self, then: bytes | None, now: bytes | None):
        assert eraser.compare([then], [now]).wrong == 1

    def test_a_controller_that_only_says_so_is_found_out(self, nvme: FakeNvme):
        nvme.lazy = True
        _, seen, _ = erase(nvme)
        assert {each: found.wrong for each, found in seen.items()} == {1: 16, 2: 1}

    def test_neither_is_what_cannot_be_read_called_erased(self, nvme: FakeNvme):
        nvme.unreadable = True
        _, seen, _ = erase(nvme)
        assert {each: found.wrong for each, found in seen.items()} == {1: 16, 2: 1}


class TestSample:
    @pytest.mark.parametrize("size", [512, 4096, 65536, 65536 * 2, 100_000 * 512, 1 << 40])
    def test_the_first_and_the_last_are_among_them(self, size: int):
        places = eraser._places(size)
        assert places[0][0] == 0
        assert sum(places[-1]) == size
        assert len(places) <= 64
        assert all(start % 512 == length % 512 == 0 for start, length in places)
        assert len({start for start, _ in places}) == len(places)

    def test_a_size_that_is_none_is_not_read_back(self, tmp_path: Path):
        """A guest may have put firmware of its own on the disk, which says whatever it likes."""
        path = tmp_path / "disk"
        path.write_bytes(bytes(4096))
        start, length = eraser._places((1 << 64) * (1 << 255))[-1]
        assert eraser._read(path, start, length, eraser.HOST) is None

    def test_nothing_of_nothing(self):
        assert eraser._places(0) == []


class TestIsNotOpened:
    def test_that_has_other_controllers(self, nvme: FakeNvme):
        nvme.controllers = (0, 1)
        assert refuse(nvme).startswith("its NVM subsystem has other controllers")

    def test_that_may_have_some(self, nvme: FakeNvme):
        nvme.cmic, nvme.controllers = 0b10, None
        assert "and it does not tell which there are" in refuse(nvme)

    def test_with_namespaces_that_are_not_attached(self, nvme: FakeNvme):
        nvme.oacs, nvme.detached = 0b1010, (7,)
        assert refuse(nvme).startswith("namespaces 7 are not attached")

    def test_that_does_not_come_up(self, nvme: FakeNvme):
        nvme.state = "connecting"
        nvme.show()
        assert refuse(nvme) == "its controller does not come up (state connecting); see dmesg"

    def test_whose_namespaces_the_kernel_does_not_show(self, nvme: FakeNvme):
        nvme.hidden = True
        nvme.show()
        assert refuse(nvme).startswith("the kernel gives namespace 1, 2 no block device")

    def test_that_the_kernel_calls_otherwise(self, nvme: FakeNvme):
        place = nvme.kernel.tree.directory(NVME) / "nvme/nvme9/serial"
        place.write_text("S-OTHER\n")
        assert refuse(nvme) == "/dev/nvme9 says serial S3CR37, and the kernel S-OTHER"

    def test_whose_disk_somebody_has(self, nvme: FakeNvme, monkeypatch: pytest.MonkeyPatch):
        used = kinds.Use(kinds.Kind.HELD, "something in the kernel has nvme9n1")
        monkeypatch.setattr(held_disks, "hold", lambda *_: contextlib.nullcontext((used,)))
        assert refuse(nvme) == "something in the kernel has nvme9n1; free it first"


def test_a_head_of_a_multipath_subsystem_is_the_namespaces_device(nvme: FakeNvme, tree: HostTree):
    nvme.hidden = True
    nvme.show()
    for each in nvme.sizes:
        controllers = {f"nvme{each}": NVME}
        uses.multipath_namespace(tree, f"nvme9n{each}", f"259:{each}", controllers)
        (tree.root / f"sys/class/block/nvme9n{each}/nsid").write_text(f"{each}\n")
    erase(nvme)
    assert nvme.is_erased
    assert SECRET not in nvme.content()
