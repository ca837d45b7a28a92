"""What GRUB will boot, and which file spoils it."""

from __future__ import annotations

import os

import hypothesis
import pytest
from harness import hosttree
from harness.constants import GPUS, GRUB
from harness.world import World
from hypothesis import strategies

from passthrough.host import grub
from passthrough.reporting import words

TOKENS = ("intel_iommu=on", "iommu=pt")

# Cut from what grub-mkconfig 2.06 writes on Ubuntu 22.04, with its functions and conditions.
HEAD = """\
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
function gfxmode {
	set gfxpayload="${1}"
	if [ "${1}" = "keep" ]; then
		set vt_handoff=vt.handoff=7
	else
		set vt_handoff=
	fi
}
"""
ENTRY = """\
menuentry '@TITLE@' --class ubuntu --class os $menuentry_id_option '@NAME@' {
	recordfail
	load_video
	if [ x$feature_platform_search_hint = xy ]; then
		search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt2 0f5a1c52
	else
		search --no-floppy --fs-uuid --set=root 0f5a1c52
	fi
	linux	/boot/vmlinuz-@VERSION@ root=UUID=0f5a1c52 ro  @OPTIONS@ $vt_handoff
	initrd	/boot/microcode.cpio /boot/initrd.img-@VERSION@
}
"""


def entry(title: str, name: str, version: str, options: str) -> str:
    text = ENTRY.replace("@TITLE@", title).replace("@NAME@", name)
    return text.replace("@VERSION@", version).replace("@OPTIONS@", options)


def config(default: str = "0", options: str = "quiet intel_iommu=on iommu=pt") -> str:
    """A menu of three: the newest kernel, a submenu with an older and a recovery, firmware."""
    below = entry("Ubuntu, with Linux 6.8", "gnulinux-6.8-advanced", "6.8", "old") + entry(
        "Ubuntu, with Linux 6.8 (recovery mode)", "gnulinux-6.8-recovery", "6.8", "recovery"
    )
    below = "".join(f"\t{line}\n" for line in below.splitlines())
    return (
        HEAD.replace("DEFAULT", default)
        + entry("Ubuntu", "gnulinux-simple", "6.9", options)
        + "submenu 'Advanced options for Ubuntu' $menuentry_id_option 'gnulinux-advanced' {\n"
        + below
        + "}\nmenuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {\n"
        "\tfwsetup\n}\n"
    )


@pytest.mark.parametrize(
    ("default", "environment", "title"),
    [
        ("0", "", "Ubuntu"),
        ("", "", "Ubuntu"),
        ("1>0", "", "Ubuntu, with Linux 6.8"),
        ("1>1", "", "Ubuntu, with Linux 6.8 (recovery mode)"),
        ("1", "", "Ubuntu, with Linux 6.8"),
        ("gnulinux-advanced>gnulinux-6.8-advanced", "", "Ubuntu, with Linux 6.8"),
        ("Advanced options for Ubuntu>Ubuntu, with Linux 6.8", "", "Ubuntu, with Linux 6.8"),
        ("2", "", "UEFI Firmware Settings"),
        ("7", "", "Ubuntu"),
        ("no-such-entry", "", "Ubuntu"),
        ("${saved_entry}", "saved_entry=1>0\n", "Ubuntu, with Linux 6.8"),
        ("${saved_entry}", "# GRUB Environment Block\n####", "Ubuntu"),
        ("0", "next_entry=gnulinux-advanced>gnulinux-6.8-advanced\n", "Ubuntu, with Linux 6.8"),
    ],
)
def test_default_entry(default: str, environment: str, title: str):
    found = grub.default_entry(config(default), environment)
    assert found
    assert found.title == title


def test_entry_holds_the_kernels_arguments_and_its_images():
    found = grub.default_entry(config())
    assert found == grub.Entry(
        "Ubuntu",
        ("root=UUID=0f5a1c52", "ro", "quiet", "intel_iommu=on", "iommu=pt", "$vt_handoff"),
        ("/boot/microcode.cpio", "/boot/initrd.img-6.9"),
    )


@pytest.mark.parametrize("text", ["", "}\n}\n", "menuentry {\n", "menuentry 'x {\nlinux\n}"])
def test_no_entry_is_no_crash(text: str):
    found = grub.default_entry(text)
    assert found is None or found.arguments == ()


@hypothesis.given(
    strategies.text(
        alphabet=strategies.sampled_from(
            "menuentry submenu{}'\"\\\n\t$linux initrd set default=>0"
        ),
        max_size=300,
    )
)
def test_any_text_is_read_without_a_crash(text: str):
    grub.default_entry(text, text)


class TestFindProblem:
    def find(self, entry_options: str, *erasers: str) -> str | None:
        texts = dict.fromkeys(erasers, 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n')
        return self.find_among(entry_options, texts)

    def find_among(self, entry_options: str, texts: dict[str, str]) -> str | None:
        found = grub.Grub(grub.default_entry(config(options=entry_options)), texts)
        problem = grub.find_problem(found, GRUB, TOKENS)
        return words.sentence(problem) if problem else None

    def test_none_where_all_options_are_there(self):
        assert self.find("quiet intel_iommu=on iommu=pt") is None

    def test_none_where_there_is_no_grub(self):
        assert grub.find_problem(grub.Grub(), GRUB, TOKENS) is None

    def test_an_earlier_file_is_nobody_that_spoils(self):
        assert self.find("intel_iommu=on iommu=pt", "etc/default/grub.d/90-sysconfig.cfg") is None

    def test_names_the_file_that_comes_later(self):
        erasers = (
            grub.SETTINGS,
            "etc/default/grub.d/90-sysconfig.cfg",
            "etc/default/grub.d/99-x.cfg",
        )
        assert self.find("quiet", *erasers) == (
            "/boot/grub/grub.cfg boots 'Ubuntu' without intel_iommu=on iommu=pt;"
            " /etc/default/grub.d/99-x.cfg sets GRUB_CMDLINE_LINUX_DEFAULT outright and is read"
            f" after /{GRUB}; let it begin with $GRUB_CMDLINE_LINUX_DEFAULT, then run"
            " update-grub"
        )

    def test_names_the_way_out_where_no_file_is_to_blame(self):
        assert self.find("quiet intel_iommu=on", grub.SETTINGS) == (
            "/boot/grub/grub.cfg boots 'Ubuntu' without iommu=pt; run update-grub, and see which"
            " entry GRUB_DEFAULT names in /etc/default/grub"
        )

    def test_names_a_later_value_that_wins(self):
        assert self.find("intel_iommu=on iommu=pt intel_iommu=off") == (
            "/boot/grub/grub.cfg boots 'Ubuntu' with intel_iommu=off after intel_iommu=on, and the"
            " last one counts; take intel_iommu=off out of the other settings, then run update-grub"
        )

    def test_names_the_files_that_hold_the_value_that_wins(self):
        append = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT {}"\n'
        before = {
            grub.SETTINGS: "GRUB_CMDLINE_LINUX=intel_iommu=off\n",
            "etc/default/grub.d/50-a.cfg": append.format("intel_iommu=off,sm_off"),
            "etc/default/grub.d/60-b.cfg": append.format("xintel_iommu=off intel_iommu=offline"),
            GRUB: append.format("intel_iommu=on iommu=pt"),
        }
        behind = dict.fromkeys(
            ("etc/default/grub.d/98-c.cfg", "etc/default/grub.d/99-d.cfg"),
            append.format("quiet intel_iommu=off"),
        )
        for texts, shown in (
            ({**before, **behind}, " and ".join(f"/{path}" for path in behind)),
            (before, "/etc/default/grub"),
        ):
            problem = self.find_among("intel_iommu=on iommu=pt intel_iommu=off", texts)
            assert problem
            assert problem.endswith(f"; take intel_iommu=off out of {shown}, then run update-grub")

    @pytest.mark.parametrize(
        "text",
        [
            "for each in intel_iommu=off quiet; do add $each; done\n",
            'add() {\n  GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX $1"\n}\nadd intel_iommu=off\n',
            'GRUB_CMDLINE_LINUX=$(printf "%s intel_iommu=off" "$GRUB_CMDLINE_LINUX")\n',
            "eval GRUB_CMDLINE_LINUX='intel_iommu=off'\n",
            ": ${GRUB_CMDLINE_LINUX:=intel_iommu=off}\n",
        ],
    )
    def test_names_the_file_that_mentions_it_where_only_a_run_would_tell(self, text: str):
        other = "# intel_iommu=off\nGRUB_CMDLINE_LINUX=xintel_iommu=off,x\n"
        texts = {"etc/default/grub.d/98-x.cfg": text, "etc/default/grub.d/99-x.cfg": other}
        said = self.find_among("intel_iommu=on iommu=pt intel_iommu=off", texts)
        assert said
        assert "; take intel_iommu=off out of /etc/default/grub.d/98-x.cfg, then" in said

    def test_what_goes_to_pid_1_is_not_the_kernels(self):
        text = {grub.SETTINGS: 'GRUB_CMDLINE_LINUX="quiet -- x"\n'}
        assert self.find_among("quiet -- x intel_iommu=on iommu=pt", text) == (
            "/boot/grub/grub.cfg boots 'Ubuntu' with intel_iommu=on iommu=pt behind --; the kernel"
            " reads no option of its own there: take -- out of /etc/default/grub, then run"
            " update-grub"
        )

    def test_an_earlier_value_loses(self):
        assert self.find("intel_iommu=off intel_iommu=on iommu=pt") is None

    def test_an_operators_own_value_after_ours_wins(self):
        tokens = ("intel_iommu=on", "iommu=pt", "intel_iommu=on,sm_on")
        found = grub.Grub(grub.default_entry(config(options=" ".join(tokens))))
        assert grub.find_problem(found, GRUB, tokens) is None

    def test_values_that_add_up_are_no_contradiction(self):
        found = grub.Grub(
            grub.default_entry(config(options="modprobe.blacklist=a modprobe.blacklist=b"))
        )
        assert grub.find_problem(found, GRUB, ("modprobe.blacklist=a",)) is None


@pytest.mark.parametrize(
    ("text", "erases"),
    [
        ('GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n', True),
        ("GRUB_CMDLINE_LINUX_DEFAULT=\n", True),
        ("  export GRUB_CMDLINE_LINUX_DEFAULT='a b'\n", True),
        ('GRUB_CMDLINE_LINUX_DEFAULT="a \\\n  b"\n', True),
        ('GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT a"\n', False),
        ('GRUB_CMDLINE_LINUX_DEFAULT="${GRUB_CMDLINE_LINUX_DEFAULT} a"\n', False),
        ('GRUB_CMDLINE_LINUX_DEFAULT="$(echo $GRUB_CMDLINE_LINUX_DEFAULT)"\n', False),
        ('GRUB_CMDLINE_LINUX_DEFAULT="a \\\n $GRUB_CMDLINE_LINUX_DEFAULT"\n', False),
        ('# GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n', False),
        ('GRUB_CMDLINE_LINUX="quiet"\n', False),
        ('GRUB_CMDLINE_LINUX_DEFAULT_XEN="quiet"\n', False),
        ('GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT_OTHER"\n', True),
        ('X=1; GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n', True),
        ('X=1;GRUB_CMDLINE_LINUX_DEFAULT=quiet; Y="$GRUB_CMDLINE_LINUX_DEFAULT"\n', True),
        ('X=1; GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT a;b"\n', False),
        ('GRUB_CMDLINE_LINUX_DEFAULT="a;b $GRUB_CMDLINE_LINUX_DEFAULT"\n', False),
        ('GRUB_CMDLINE_LINUX_DEFAULT="a\nb $GRUB_CMDLINE_LINUX_DEFAULT"\n', False),
        ('GRUB_CMDLINE_LINUX_DEFAULT=$(echo "$GRUB_CMDLINE_LINUX_DEFAULT" | cat)\n', False),
        ("if true; then GRUB_CMDLINE_LINUX_DEFAULT=quiet; fi\n", True),
        ("[ -e /x ] && GRUB_CMDLINE_LINUX_DEFAULT=quiet\n", True),
        ('X="${GRUB_CMDLINE_LINUX_DEFAULT=quiet}"\n', False),
        ("unset GRUB_CMDLINE_LINUX_DEFAULT\n", True),
        ("X=1; unset -v Y GRUB_CMDLINE_LINUX_DEFAULT\n", True),
        ("unset GRUB_CMDLINE_LINUX_DEFAULT_XEN\n", False),
        ("# X=1; GRUB_CMDLINE_LINUX_DEFAULT=quiet\n", False),
        ("  # X=1; unset GRUB_CMDLINE_LINUX_DEFAULT", False),
        ('GRUB_CMDLINE_LINUX_DEFAULT="quiet\n', True),
    ],
)
def test_a_file_that_erases(tree: hosttree.HostTree, text: str, erases: bool):
    tree.write("etc/default/grub.d/99-x.cfg", text)
    tree.write("etc/default/grub.d/.98-hidden.cfg", "GRUB_CMDLINE_LINUX_DEFAULT=x\n")
    tree.write("etc/default/grub.d/97-other.conf", "GRUB_CMDLINE_LINUX_DEFAULT=x\n")
    found = grub.read(tree.root).erasers
    assert found == (grub.SETTINGS, *(["etc/default/grub.d/99-x.cfg"] if erases else []))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ('GRUB_CMDLINE_LINUX="a"\nGRUB_CMDLINE_LINUX_DEFAULT="b c"\n', ("a", "b", "c")),
        # Only a run of it would tell: everything that it may put there.
        (
            'if x; then GRUB_CMDLINE_LINUX="a b"; fi\nGRUB_CMDLINE_LINUX_DEFAULT=c\n',
            ("a", "b", "c"),
        ),
        ('GRUB_CMDLINE_XEN="a"\n', ()),
    ],
)
def test_the_options_that_the_settings_make_without_ours(text: str, options: tuple[str, ...]):
    ours = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on"\n'
    found = grub.Grub(settings={grub.SETTINGS: text, GRUB: ours})
    assert grub.settled_options(found, GRUB) == options


def test_what_may_be_for_another_machine_is_what_the_last_run_has_put_there():
    text = "if x; then GRUB_CMDLINE_LINUX=iommu=off; fi\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\n"
    for options, settled in (("quiet", ("quiet",)), ("iommu=off quiet", ("iommu=off", "quiet"))):
        entry = grub.default_entry(config(options=options))
        assert grub.settled_options(grub.Grub(entry, {grub.SETTINGS: text}), GRUB) == settled


class TestOtherWriters:
    """On a host whose update-grub really sources the files, as grub-mkconfig does."""

    @pytest.fixture
    def world(self, world: World) -> World:
        world.config = {"devices": GPUS, "iommu_passthrough": True}
        return world

    @pytest.mark.parametrize("name", ["50-cloudimg-settings", "50-curtin-settings", "90-sysconfig"])
    def test_that_come_first_erase_nothing_of_ours(self, world: World, name: str):
        world.tree.write(f"etc/default/grub.d/{name}.cfg", 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n')
        world.hook()
        world.reboot()
        world.hook()
        assert world.status == "active: gpu: 2 ready"

    def test_that_come_later_are_named_before_any_reboot(self, world: World):
        world.tree.write("etc/default/grub.d/99-zz.cfg", 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n')
        world.hook()
        said, planned = world.status, world.result.decision.plan
        assert said.startswith("blocked: /boot/grub/grub.cfg boots 'Ubuntu' without intel_iommu=on")
        assert "/etc/default/grub.d/99-zz.cfg sets GRUB_CMDLINE_LINUX_DEFAULT outright" in said
        assert planned.reboot

    def test_that_add_what_undoes_ours_are_named(self, world: World):
        text = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=off"\n'
        world.tree.write("etc/default/grub.d/98-other.cfg", text)
        world.hook()
        said = world.status
        assert said.startswith("blocked: /boot/grub/grub.cfg boots 'Ubuntu' with intel_iommu=off")
        assert "take intel_iommu=off out of /etc/default/grub.d/98-other.cfg, then" in said

    def test_that_mend_their_ways_are_noticed(self, world: World):
        spoiler = "etc/default/grub.d/99-zz.cfg"
        world.tree.write(spoiler, 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n')
        world.hook()
        world.tools.calls.clear()
        world.hook()
        assert world.status.startswith("blocked: /boot/grub/grub.cfg")
        assert world.tools.calls == []  # running update-grub again would bring the same
        self.age(world.tree, "boot/grub/grub.cfg")
        world.tree.write(
            spoiler, 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT quiet"\n'
        )
        world.hook()
        assert world.status.startswith("blocked: reboot required: ")
        assert world.tools.calls == ["rebuild grub"]
        world.tools.calls.clear()
        world.hook()
        assert world.tools.calls == []

    def test_that_run_update_grub_later_are_noticed_while_all_is_well(self, world: World):
        world.hook()
        world.reboot()
        world.hook()
        assert world.status == "active: gpu: 2 ready"
        world.tree.write("etc/default/grub.d/99-zz.cfg", 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n')
        world.tools.rebuild("grub", lambda said: None)
        world.hook()
        said, planned = world.status, world.result.decision.plan
        assert said.startswith("blocked: /boot/grub/grub.cfg boots 'Ubuntu' without intel_iommu=on")
        assert not planned.reboot

    @staticmethod
    def age(tree: hosttree.HostTree, path: str) -> None:
        """Let a file be older than whatever is written from now on."""
        os.utime(tree.root / path, (1, 1))
