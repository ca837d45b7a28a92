"""The lab's pure parts: what it reads of the host, and what it makes of its tables."""

import io
import lzma
import os
import pathlib
import re

import pytest

from lab import (
    accelerator,
    apt,
    cache,
    emulator,
    errors,
    guest,
    image,
    images,
    machine,
    matrix,
    progress,
    qemu,
    requirements,
)
from lab.inside import crashing, make_guest

TARGETS = """\
http://mirror.example/debian/|bookworm|main|Debian
http://mirror.example/debian/|bookworm|contrib|Debian
http://mirror.example/debian/|bookworm-updates|main|Debian
http://mirror.example/security/|bookworm-security|main|Debian
http://mirror.example/debian/|bookworm-backports|main|Debian
http://other.example/apt/|bookworm|main|Somebody
http://other.example/apt/|stable|main|Debian
"""


@pytest.mark.parametrize(
    ("os_release", "suite"),
    [
        pytest.param({"ID": "debian", "VERSION_CODENAME": "trixie"}, "trixie", id="debian"),
        pytest.param({"ID": "ubuntu", "VERSION_CODENAME": "noble"}, "bookworm", id="ubuntu"),
        pytest.param({"ID": "debian"}, "bookworm", id="debian unstable"),
    ],
)
def test_the_guest_is_the_hosts_debian_or_a_fixed_one(
    os_release: dict[str, str], suite: str
) -> None:
    assert apt.choose_suite(os_release) == suite


def test_sources_are_debians_own_of_that_suite() -> None:
    key = f"deb [signed-by={apt.KEYRING}]"
    assert apt.choose_sources("bookworm", TARGETS).splitlines() == [
        f"{key} http://mirror.example/debian/ bookworm main",
        f"{key} http://mirror.example/debian/ bookworm-updates main",
        f"{key} http://mirror.example/security/ bookworm-security main",
    ]


def test_backports_come_from_the_archive_of_the_suite() -> None:
    sources = apt.choose_sources("bookworm", TARGETS)
    added = apt.add_backports("bookworm", sources).removeprefix(sources)
    assert added == (
        f"deb [signed-by={apt.KEYRING}] http://mirror.example/debian/ bookworm-backports main\n"
    )


def test_another_release_comes_from_the_same_archives() -> None:
    key = f"deb [signed-by={apt.KEYRING}]"
    sources = f"{apt.choose_sources('bookworm', TARGETS)}{key} http://lab.example/ mine main\n"
    assert apt.change_suite(sources, "bookworm", "trixie").splitlines() == [
        f"{key} http://mirror.example/debian/ trixie main",
        f"{key} http://mirror.example/debian/ trixie-updates main",
        f"{key} http://mirror.example/security/ trixie-security main",
        f"{key} http://lab.example/ mine main",
    ]
    assert apt.change_suite(sources, "bookworm", "bookworm") == sources
    assert apt.change_suite("", "bookworm", "trixie") == ""


def test_no_sources_no_backports() -> None:
    assert apt.add_backports("bookworm", "") == ""


def test_requirements_are_packages_with_their_proof() -> None:
    listing = "# why\nqemu-utils   # qemu-img\n\nseabios # /usr/share/seabios\n"
    assert requirements.read(listing) == {
        "qemu-utils": "qemu-img",
        "seabios": "/usr/share/seabios",
    }


def test_every_listed_package_has_a_proof() -> None:
    assert all(requirements.read(requirements.LIST.read_text()).values())


@pytest.mark.parametrize("hardware", machine.MACHINES.values(), ids=machine.MACHINES)
def test_a_machine_has_every_name_and_address_once(hardware: machine.Machine) -> None:
    names = [device.name for device in hardware.devices]
    addresses = [address for device in hardware.devices for address in device.functions]
    assert len(set(names)) == len(names)
    assert len(set(addresses)) == len(addresses)
    assert hardware.image in images.IMAGES


def test_addresses_follow_from_bus_slot_and_place() -> None:
    assert list(machine.INTEL["gpu1"].functions) == ["0000:84:00.0", "0000:84:00.1"]
    assert list(machine.INTEL["oldpci"].functions) == [
        "0000:04:00.0",
        "0000:05:01.0",
        "0000:05:02.0",
    ]
    assert machine.INTEL["nodriver"].address == "0000:00:08.0"


def test_a_comma_in_the_path_of_a_disk_is_quoted(tmp_path: pathlib.Path) -> None:
    words = machine.qemu_arguments(machine.INTEL, tmp_path / "a,b c")
    assert any(f"file={tmp_path}/a,,b c/nvme.img," in word for word in words)


def test_the_key_of_an_image_depends_on_all_its_inputs() -> None:
    base = images.IMAGES["base"]
    keys = {
        image.compute_key(base, "bookworm", "deb a"),
        image.compute_key(base, "bookworm", "deb b"),
        image.compute_key(base, "trixie", "deb a"),
        image.compute_key(images.Image("base", ("less",), base.trees), "bookworm", "deb a"),
        image.compute_key(images.Image("base", base.packages, ()), "bookworm", "deb a"),
    }
    assert len(keys) == 5
    assert image.compute_key(base, "bookworm", "deb a") in keys


def test_the_folder_of_a_killed_run_is_cleared_and_a_live_ones_is_kept(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "run-1-dead").mkdir()
    (tmp_path / "run-1-dead" / "in-use").touch()
    with cache.scratch(tmp_path, "run") as live, cache.scratch(tmp_path, "run") as other:
        assert not (tmp_path / "run-1-dead").exists()
        assert live.is_dir()
        assert other != live
    assert list(tmp_path.glob("run-*")) == []


def test_a_full_disk_is_refused_with_the_way_out(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.LabError, match=cache.CACHE_VARIABLE):
        cache.need_space(tmp_path, 1 << 60)


def test_the_tail_of_a_log_is_plain_text_without_gaps() -> None:
    assert errors.tail("one\r\n\n\x1b[0;32m two \x1b[0m\r\nthree\n", 2) == "     two\n    three"


def test_the_tail_of_nothing_says_so() -> None:
    assert errors.tail("\n\n") == "    (nothing)"


BROKEN = emulator.Emulator("/bin/false", "0.0")


def make_machine(folder: pathlib.Path, qemu: emulator.Emulator = BROKEN) -> guest.Guest:
    """A machine on this QEMU; by default on one that ends at once."""
    return guest.Guest(
        machine.BARE,
        folder / "disk",
        folder / "key",
        folder,
        progress.Progress(io.StringIO()),
        emulator=qemu,
        accelerator=accelerator.TCG,
    )


def test_a_machine_that_ends_at_once_fails_at_once_with_its_output(tmp_path: pathlib.Path) -> None:
    broken = make_machine(tmp_path)
    with pytest.raises(errors.LabError, match="went off while booting") as caught:
        broken.power_on()
    broken.close()
    assert "QEMU ended with status 1" in str(caught.value)


def test_a_machine_whose_emulator_aborts_is_switched_on_again(tmp_path: pathlib.Path) -> None:
    """A stand-in for QEMU: it aborts twice, as over an assertion, and then ends."""
    fake, starts = tmp_path / "fake-qemu", tmp_path / "starts"
    fake.write_text(
        f"#!/bin/sh\necho start >>{starts}\n[ $(wc -l <{starts}) -gt 2 ] && exit 3\nkill -ABRT $$\n"
    )
    fake.chmod(0o755)
    aborting = make_machine(tmp_path, emulator.Emulator(str(fake), "0.0"))
    with pytest.raises(errors.LabError, match="QEMU ended with status 3"):
        aborting.power_on()
    aborting.close()
    assert starts.read_text().count("start") == 3


def test_a_boot_that_cannot_end_is_told_from_a_slow_one(tmp_path: pathlib.Path) -> None:
    """A stand-in for QEMU: prints to the console file what a panicking kernel would, and stays."""
    fake = tmp_path / "fake-qemu"
    console = tmp_path / "console.log"
    fake.write_text(f"#!/bin/sh\necho 'Kernel panic - not syncing' >{console}\nexec sleep 60\n")
    fake.chmod(0o755)
    stuck = make_machine(tmp_path, emulator.Emulator(str(fake), "0.0"))
    try:
        with pytest.raises(errors.LabError, match="does not boot"):
            stuck.power_on()
    finally:
        stuck.close()


def test_the_report_of_a_process_that_ended_has_its_own_words(tmp_path: pathlib.Path) -> None:
    ended = qemu.Process(emulator.Emulator("/bin/ls", "0.0"), ["--nonsense"], tmp_path / "c.log")
    ended.wait_off(30)
    assert "unrecognized option" in ended.report()


def test_an_unknown_accelerator_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(accelerator.VARIABLE, "warp")
    with pytest.raises(errors.LabError, match="tcg or kvm"):
        accelerator.choose(BROKEN, tmp_path / "disk", progress.Progress(io.StringIO()))


def test_a_failed_probe_of_kvm_means_software_emulation_and_is_remembered(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(accelerator.VARIABLE, raising=False)
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(accelerator, "DEVICE", tmp_path)  # can be read and written, as /dev/kvm
    said = io.StringIO()
    for _ in range(2):
        chosen = accelerator.choose(BROKEN, tmp_path / "disk", progress.Progress(said))
        assert chosen == accelerator.TCG
    assert said.getvalue().count("probe KVM with a short boot …") == 1


def test_the_table_of_times_adds_up_and_has_the_failed_step() -> None:
    steps = progress.Progress(io.StringIO())
    with steps.step("one"), pytest.raises(ValueError, match="two"), steps.step("two"):
        raise ValueError("two")
    titles = [line.split("  ")[0].strip() for line in steps.table().splitlines()]
    assert titles == ["two", "one", "in between", "in all"]


def test_a_power_cut_on_a_forgetful_disk_is_refused(tmp_path: pathlib.Path) -> None:
    forgetful = make_machine(tmp_path)
    with pytest.raises(errors.LabError, match="cache=unsafe"):
        forgetful.cut_power()
    forgetful.close()


def test_always_leaves_the_nightly_rows_out_and_all_has_them() -> None:
    assert {row.always for row in matrix.choose("always")} == {True}
    assert matrix.choose("all") == matrix.ROWS


def test_rows_are_chosen_by_their_own_or_their_machines_name() -> None:
    assert [row.name for row in matrix.choose("dracut,no-match")] == ["no-match", "dracut"]
    of_intel = [row.name for row in matrix.ROWS if row.machine is machine.INTEL]
    assert len(of_intel) > 1
    assert [row.name for row in matrix.choose("intel")] == of_intel


def test_an_unknown_row_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no row or machine nix: there are .*dracut"):
        matrix.choose("dracut,nix")


def test_every_row_has_tests_and_every_test_a_row_of_the_table() -> None:
    sources = [path.read_text() for path in pathlib.Path(__file__).parent.glob("test_*.py")]
    marks = {name for text in sources for name in re.findall(r'mark\.row\("([^"]+)"\)', text)}
    assert marks == {row.name for row in matrix.ROWS}


def test_the_matrix_sums_up_the_tests_of_each_row() -> None:
    outcomes = [
        matrix.Outcome("dracut", matrix.PASSED, 200.4),
        matrix.Outcome("dracut", matrix.FAILED, 1.0),
        matrix.Outcome("no-iommu", matrix.SKIPPED, 0.1, "no QEMU"),
        matrix.Outcome("no-match", matrix.PASSED, 60.0),
    ]
    found = matrix.describe(matrix.choose("initramfs-tools,no-match,dracut,no-iommu"), outcomes)
    assert [(each["name"], each["result"], each["tests"], each["seconds"]) for each in found] == [
        ("initramfs-tools", "not run", 0, 0),
        ("no-match", "passed", 1, 60),
        ("dracut", "failed", 2, 201),
        ("no-iommu", "skipped", 1, 0),
    ]
    head, *lines = matrix.format_table(found).splitlines()
    assert head.split() == ["ROW", "MACHINE", "RESULT", "TESTS", "TIME", "PROVED"]
    # What was not proved stands in brackets, and why it was not tried stands below it.
    assert ["(" in line for line in lines] == [True, False, True, True, False]
    assert lines[-1].strip() == "no QEMU"


def test_a_guests_kernel_is_unpacked_out_of_what_the_boot_loader_starts() -> None:
    kernel = make_guest.ELF + b"the kernel itself"
    packed = b"a loader " + lzma.compress(kernel) + b" and what follows"
    assert make_guest.unpack_kernel(packed) == kernel


def test_a_kernel_packed_in_another_way_is_refused() -> None:
    with pytest.raises(SystemExit, match="neither with xz nor with zstd"):
        make_guest.unpack_kernel(b"a loader and nothing that is known")


@pytest.mark.parametrize(
    ("event", "values", "step"),
    [
        ("os.rename", ("/etc/.x.new", "/etc/x", -1, -1), "replace /etc/x"),
        ("os.remove", ("/boot/no-such-file", -1), ""),
        (
            "open",
            ("/sys/bus/pci/drivers_probe", "w", os.O_WRONLY),
            "write /sys/bus/pci/drivers_probe",
        ),
        ("open", ("/sys/bus/pci/rescan", "r", os.O_RDONLY), ""),
        ("open", ("/etc/.x.new", None, os.O_WRONLY | os.O_CREAT), ""),
        (
            "subprocess.Popen",
            ("modprobe", ["/sbin/modprobe", "vfio-pci"], None, None),
            "run modprobe",
        ),
        ("subprocess.Popen", ("dpkg-query", ["dpkg-query", "-W"], None, None), ""),
    ],
)
def test_a_kill_comes_before_what_others_can_see(event: str, values: tuple, step: str) -> None:
    assert crashing.describe(event, values) == step


def test_what_plays_with_a_machines_files_runs_nowhere_but_in_the_lab() -> None:
    with pytest.raises(SystemExit, match="for machines of the lab"):
        crashing.main("/charm", "{}", "learn")


def test_a_qemu_that_is_too_new_for_a_machine_is_refused_with_the_way_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\necho QEMU emulator version 10.0.2\n")
    fake.chmod(0o755)
    monkeypatch.setenv(emulator.BINARY_VARIABLE, str(fake))
    said = progress.Progress(io.StringIO())
    assert emulator.choose(said).version == "10.0.2"
    with pytest.raises(errors.UnableError, match=f"before 10, .* {emulator.BINARY_VARIABLE}"):
        emulator.choose(said, before=10)
