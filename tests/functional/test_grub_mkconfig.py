"""The real grub-mkconfig sources generated drop-ins: its shell gets our tokens and runs nothing.

Nor does GRUB: the grub.cfg that its 10_linux writes with them, without quotes, is a program too.

grub-mkconfig is this machine's own, in a host box, so what it reads is the box's /etc. Only
grub-probe is a stand-in there, since a box has no disk to find.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from fuzz import judge, mutation
from harness import hostbox, hosttree, missing

from passthrough import errors
from passthrough.config import options
from passthrough.planning import boot_files

PROGRAM = "/usr/sbin/grub-mkconfig"
LIBRARY = "/usr/share/grub/grub-mkconfig_lib"
# The script that writes the entries of the menu, and GRUB's own checker of what comes out.
LINUX = "/etc/grub.d/10_linux"
CHECKER = "/usr/bin/grub-script-check"
# Where the box has the program: under its own name the box puts a recorder in its place.
IN_BOX = "usr/lib/grub/mkconfig"
PROBE = """\
#!/bin/sh
case "$*" in
*--target=device*) echo /dev/vda1 ;;
*--target=fs_uuid*) echo 0f5a1c52-7f7e-4d57-9c7e-3f1f6a0d9b11 ;;
*) echo ext2 ;;
esac
"""
# What grub-mkconfig hands on to the scripts that write the menu.
SHOW = "#!/bin/sh\nprintf '<%s>' \"$GRUB_CMDLINE_LINUX_DEFAULT\"\n"
SHOWN = re.compile(r"### BEGIN /etc/grub.d/10_show ###\n<(.*)>### END", re.DOTALL)
DROP_INS = "etc/default/grub.d"
BEFORE = "quiet splash"  # hosttree's /etc/default/grub
GPUS = "10de:1bb0"  # all of them, so that any display driver may be kept off
ON = "intel_iommu=on"

# So many changed texts an option; the accepted ones are sourced, so many in one run.
TEXTS = 30_000
AT_ONCE = 100
# Were nearly everything refused, the shell would not be asked.
LEAST_ACCEPTED = 200
EVERYWHERE = ("boot", "dev", "etc", "run", "usr", "var")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hostbox.Box]:
    """A made-up host with this machine's grub-mkconfig."""
    lacking = [path for path in (PROGRAM, LIBRARY, LINUX, CHECKER) if not os.path.exists(path)]
    if lacking:
        missing.skip(f"{lacking[0]} is not there: install the package grub-common")
    place = tmp_path_factory.mktemp("grub")
    tree = hosttree.compute_host(place / "host")
    tree.write(IN_BOX, pathlib.Path(PROGRAM).read_text(encoding="utf-8"), mode=0o755)
    tree.write("usr/sbin/grub-probe", PROBE, mode=0o755)
    tree.write("etc/grub.d/10_show", SHOW, mode=0o755)
    with hostbox.Box(tree, place / "box") as started:
        yield started


@pytest.fixture
def menu(box: hostbox.Box) -> Iterator[Callable[[], str]]:
    """Runs grub-mkconfig with its own 10_linux; gives what that writes into grub.cfg."""
    script = box.tree.write(
        LINUX.removeprefix("/"), pathlib.Path(LINUX).read_text(encoding="utf-8"), mode=0o755
    )

    def generate() -> str:
        done = box.run([f"/{IN_BOX}"])
        assert done.returncode == 0, done.stderr
        found = re.search(rf"### BEGIN {LINUX} ###\n(.*)### END {LINUX}", done.stdout, re.DOTALL)
        assert found, done.stdout
        return found[1]

    yield generate
    script.unlink()


@pytest.fixture
def drop_ins(box: hostbox.Box) -> Iterator[pathlib.Path]:
    """The folder of drop-ins, empty again afterwards."""
    folder = box.tree.root / DROP_INS
    yield folder
    shutil.rmtree(folder)
    folder.mkdir()


def source(box: hostbox.Box) -> str:
    """Run grub-mkconfig; return the variable as its scripts see it."""
    done = box.run([f"/{IN_BOX}"])
    assert done.returncode == 0, done.stderr
    # Anything that the shell objects to, or that a drop-in prints, stands between these two.
    assert done.stderr.splitlines() == ["Generating grub configuration file ...", "done"]
    found = SHOWN.search(done.stdout)
    assert found, done.stdout
    return found[1]


def generate(option: str, corpus: str) -> dict[str, tuple[str, ...]]:
    """Return every different drop-in that changed texts of an option give, with our tokens."""
    found: dict[str, tuple[str, ...]] = {}
    for text in mutation.variants(f"grub-{option}", mutation.seeds(corpus), TEXTS):
        try:
            wanted = options.parse({"devices": GPUS, option: text})
            contents = judge.check_boot_files(wanted, judge.GENERATORS[0])
        except errors.OptionError:
            continue
        named = wanted.blacklist_drivers
        drivers = ",".join(boot_files.DISPLAY_DRIVERS["10de"] if named is None else named)
        tokens = (ON, *([f"modprobe.blacklist={drivers}"] if drivers else []))
        for content in contents:
            found[content] = (*tokens, *wanted.kernel_options)
    return found


@pytest.mark.parametrize("option", ["kernel-options", "blacklist-drivers"])
def test_the_shell_gets_what_was_there_and_our_tokens_and_nothing_else(
    box: hostbox.Box, drop_ins: pathlib.Path, option: str
):
    made = list(generate(option, option).items())
    assert len(made) > LEAST_ACCEPTED
    for begin in range(0, len(made), AT_ONCE):
        batch = made[begin : begin + AT_ONCE]
        # Each appends to what the ones before it left.
        for number, (content, _) in enumerate(batch):
            (drop_ins / f"95-{number:04}.cfg").write_text(content, encoding="utf-8")
        before = box.tree.snapshot(*EVERYWHERE)
        tokens = [token for _, each in batch for token in each]
        assert all(re.fullmatch(judge.OPTION, token) for token in tokens)
        assert source(box) == " ".join([BEFORE, *tokens])
        assert box.tree.snapshot(*EVERYWHERE) == before
        assert box.calls() == []
        for file in drop_ins.iterdir():
            file.unlink()


def meanings(config: str) -> list[list[str]]:
    """What GRUB would not take for a plain word, in each line that starts a kernel."""
    return [re.findall(r"[;{}|&<>$]", line) for line in config.splitlines() if "\tlinux\t" in line]


def is_a_script(config: str) -> bool:
    """Ask GRUB's own checker."""
    found = subprocess.run([CHECKER], input=config, text=True, capture_output=True, check=False)
    return found.returncode == 0


def test_grub_gets_the_same_program_with_our_tokens_as_without(
    menu: Callable[[], str], drop_ins: pathlib.Path
):
    before = menu()
    assert len(meanings(before)) > 1
    assert is_a_script(before)
    made = list(generate("kernel-options", "kernel-options").items())
    for begin in range(0, len(made), AT_ONCE):
        batch = made[begin : begin + AT_ONCE]
        for number, (content, _) in enumerate(batch):
            (drop_ins / f"95-{number:04}.cfg").write_text(content, encoding="utf-8")
        after = menu()
        added = "".join(f" {token}" for _, each in batch for token in each)
        assert meanings(after) == meanings(before)
        # A recovery entry has none of ours.
        assert 0 < after.count(added) < len(meanings(after))
        assert after.replace(added, "") == before
        assert is_a_script(after)
        for file in drop_ins.iterdir():
            file.unlink()


@pytest.mark.parametrize("token", ["x=1;halt", "x=${cmd}", "x=a}", "x=a|b"])
def test_a_token_that_grub_gives_a_meaning_to_would_be_noticed(
    menu: Callable[[], str], drop_ins: pathlib.Path, token: str
):
    before = menu()
    (drop_ins / "95-hostile.cfg").write_text(
        f"GRUB_CMDLINE_LINUX_DEFAULT='quiet {token}'\n", encoding="utf-8"
    )
    assert meanings(menu()) != meanings(before)


HOSTILE = {
    "substitution": '$GRUB_CMDLINE_LINUX_DEFAULT x=$(touch /boot/pwned)"',
    "backquotes": '$GRUB_CMDLINE_LINUX_DEFAULT x=`touch /boot/pwned`"',
    "a quote that ends it": '$GRUB_CMDLINE_LINUX_DEFAULT x="; touch /boot/pwned; y="z"',
}


@pytest.mark.parametrize("rest", HOSTILE.values(), ids=list(HOSTILE))
def test_a_drop_in_with_code_would_be_noticed(box: hostbox.Box, drop_ins: pathlib.Path, rest: str):
    """What the test above looks at does change when something slips through."""
    before = box.tree.snapshot(*EVERYWHERE)
    (drop_ins / "95-hostile.cfg").write_text(f'GRUB_CMDLINE_LINUX_DEFAULT="{rest}\n')
    box.run([f"/{IN_BOX}"])
    after = box.tree.snapshot(*EVERYWHERE)
    assert set(after) - set(before) == {"boot/pwned", f"{DROP_INS}/95-hostile.cfg"}
    (box.tree.root / "boot/pwned").unlink()
