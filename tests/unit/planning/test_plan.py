"""What would change: the plan that reconcile applies, for each state a host can be in."""

from __future__ import annotations

import dataclasses

import pytest
from harness import hosttree, made
from harness.constants import CLAIMED, GPUS, GRUB, INIT_TOP, INITRAMFS_HOOK, MODULES, NATIVE, RULES
from harness.made import CARDS_OFF, CARDS_ON

from passthrough import enums, errors
from passthrough.host import generators, grub, machine, modules, pci
from passthrough.planning import boot_files, plan, prerequisites
from passthrough.planning.plan import Binding
from passthrough.reporting import plan_text, words
from passthrough.state.record import Record
from passthrough.system import files

WANTED = made.wanted(GPUS)
BOUND = [
    dataclasses.replace(each, driver="vfio-pci", override="vfio-pci")
    if each.address in CLAIMED
    else each
    for each in CARDS_ON
]


def settled(**values) -> plan.Plan:
    """The plan of a host on which everything was applied and that has rebooted since."""
    first = made.decision(WANTED, *CARDS_OFF)
    given = {"machine": made.IOMMU_ON, **made.applied(first), **values}
    functions = given.pop("functions", BOUND)
    return made.decision(given.pop("wanted", WANTED), *functions, **given).plan


class TestFreshHost:
    def test_with_the_iommu_off_writes_rebuilds_and_waits_for_a_reboot(self):
        found = made.decision(WANTED, *CARDS_OFF).plan
        assert [change.file.path for change in found.files] == [
            GRUB, MODULES, RULES, INITRAMFS_HOOK, INIT_TOP
        ]  # fmt: skip
        assert all(change.old is None for change in found.files)
        assert found.rebuild == ("initramfs", "grub")
        assert found.bind == ()
        assert found.at_boot == CLAIMED
        assert [words.sentence(each) for each in found.reboot] == [
            "the IOMMU is off until the kernel starts with intel_iommu=on"
        ]
        assert found.record.taken == NATIVE
        assert set(found.record.activated) == {"initramfs", "grub"}
        assert found.changes_host

    def test_with_the_iommu_on_binds_at_once_and_needs_no_reboot(self):
        found = made.decision(WANTED, *CARDS_ON, machine=made.IOMMU_ON).plan
        assert found.bind == tuple(
            Binding(address, NATIVE[address], "vfio-pci") for address in CLAIMED
        )
        assert found.rebuild == ("initramfs", "grub")
        assert found.at_boot == ()
        assert found.reboot == ()

    def test_names_the_tokens_that_the_running_kernel_lacks(self):
        wanted = made.wanted(GPUS, kernel_options="pci=realloc quiet", iommu_passthrough=True)
        found = made.decision(wanted, *CARDS_ON, machine=made.IOMMU_ON).plan
        assert [words.sentence(each) for each in found.reboot] == [
            "the running kernel lacks iommu=pt pci=realloc"
        ]

    def test_keeps_an_option_that_left_the_list_where_the_drop_in_holds_it(self):
        """An earlier revision of the charm took it, and this host may have come to need it."""
        wanted = made.wanted(GPUS, kernel_options="quiet net.ifnames=0")
        path = boot_files.grub_path("pci-passthrough")
        line = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT quiet net.ifnames=0"\n'
        there = files.Present(f"# ours\n{line}", 0o644)
        facts = dataclasses.replace(
            made.IOMMU_ON, command_line=(*made.IOMMU_ON.command_line, "net.ifnames=0")
        )
        found = made.decision(wanted, *CARDS_ON, machine=facts, present={path: there})
        assert found.plan.kept_options == ("net.ifnames=0",)
        assert found.plan.kernel_options[-2:] == ("quiet", "net.ifnames=0")
        told = (
            "kernel-options: net.ifnames=0 is taken no more, and stays while it is set: move it"
            " into a file of your own in /etc/default/grub.d"
        )
        assert told in " ".join(plan_text.plan_text(found).split())
        assert plan_text.describe_plan(found)["kept-options"] == ["net.ifnames=0"]

    @pytest.mark.parametrize("activated", [True, False])
    def test_keeps_it_where_only_the_kernel_that_we_made_boot_so_tells(self, activated: bool):
        """Somebody has taken the drop-in away; without a record of ours it is new here."""
        wanted = made.wanted(GPUS, kernel_options="net.ifnames=0")
        facts = dataclasses.replace(made.IOMMU_ON, command_line=("quiet", "net.ifnames=0"))
        known = Record(activated={"grub": "x"} if activated else {})
        found, error = made.attempt(made.decision, wanted, *CARDS_ON, machine=facts, record=known)
        assert (found is not None) is activated
        assert error is None or error.option == "kernel-options"

    def test_leaves_a_host_without_such_devices_alone_whatever_the_options_name(self):
        wanted = made.wanted("10de:ffff", kernel_options="net.ifnames=0")
        assert not made.decision(wanted, *CARDS_ON).plan.changes_host

    def test_counts_a_token_that_stands_there_twice(self):
        """Each hugepagesz= has its own hugepages= behind it."""
        asked = "hugepagesz=1G hugepages=16 hugepagesz=2M hugepages=16"
        wanted = made.wanted(GPUS, kernel_options=asked)
        line = (*made.IOMMU_ON.command_line, *asked.split())
        for running, lacking in ((line, ()), (line[:-1], ("hugepages=16",))):
            facts = dataclasses.replace(made.IOMMU_ON, command_line=running)
            found = made.decision(wanted, *CARDS_ON, machine=facts).plan
            assert found.kernel_options[-4:] == tuple(asked.split())
            assert [words.sentence(each) for each in found.reboot] == [
                f"the running kernel lacks {each}" for each in lacking
            ]

    def test_asks_no_reboot_for_a_blacklist_or_for_an_iommu_that_runs_anyhow(self):
        wanted = made.wanted("10de:1bb0", blacklist_drivers="nouveau")
        facts = dataclasses.replace(made.IOMMU_ON, command_line=("quiet",))
        found = made.decision(wanted, *CARDS_ON, machine=facts).plan
        assert "modprobe.blacklist=nouveau" in str(found.files[0].file.content)
        assert found.reboot == ()

    @pytest.mark.parametrize(
        "devices", ["", "x=1234:5678", "x=1234:5678@83:00.0", "x=10de:1bb0@01:00.0"]
    )
    def test_without_a_match_does_nothing_at_all(self, devices: str):
        found = made.decision(made.wanted(devices, kernel_options="quiet"), *CARDS_OFF).plan
        assert found == plan.Plan()
        assert not found.changes_host

    def test_binds_what_vfio_has_only_for_want_of_an_override(self):
        """A module option gave it to vfio-pci: without an override a later probe may take it."""
        card = made.function("0000:83:00.0", driver="vfio-pci", group=15)
        found = made.decision(made.wanted("10de:1bb0"), card, machine=made.IOMMU_ON).plan
        assert found.bind == (Binding("0000:83:00.0", "vfio-pci", "vfio-pci"),)
        assert found.record.taken == {"0000:83:00.0": None}


class TestSettledHost:
    def test_changes_nothing(self):
        found = settled()
        assert dataclasses.replace(found, record=Record(), kernel_options=()) == plan.Plan()
        assert found.record.taken == NATIVE
        assert not found.changes_host

    def test_keeps_the_native_drivers_in_the_record(self):
        assert settled().record == made.decision(WANTED, *CARDS_OFF).plan.record

    @pytest.mark.parametrize(
        ("path", "rebuild"),
        [
            (GRUB, ("grub",)),
            (INITRAMFS_HOOK, ("initramfs",)),
            (INIT_TOP, ("initramfs",)),
            (MODULES, ()),
            (RULES, ("initramfs",)),
        ],
        ids=["grub", "hook", "init-top", "modules-load", "udev"],
    )
    @pytest.mark.parametrize("damage", ["edited", "removed", "mode"])
    def test_mends_one_file_and_rebuilds_only_what_it_feeds(
        self, path: str, rebuild: tuple[str, ...], damage: str
    ):
        present = made.applied(made.decision(WANTED, *CARDS_OFF))["present"]
        good = present[path]
        bad = {
            "edited": files.Present(f"{good.content}# edited\n", good.mode),
            "removed": None,
            "mode": files.Present(good.content, 0o600),
        }[damage]
        found = settled(present={**present, path: bad})
        assert [(change.file.path, change.old) for change in found.files] == [(path, bad)]
        assert found.files[0].file.content == good.content
        assert found.rebuild == rebuild
        assert found.changes_host

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_repeats_a_rebuild_that_is_not_known_to_have_ended(self, what: str):
        activated = made.decision(WANTED, *CARDS_OFF).plan.record.activated
        others = {key: value for key, value in activated.items() if key != what}
        for stale in (others, {**others, what: "other files"}):
            found = settled(record=Record(NATIVE, stale))
            assert found.files == ()
            assert found.rebuild == (what,)

    def test_binds_again_what_was_taken_from_vfio(self):
        functions = [dataclasses.replace(BOUND[0], driver="nouveau"), *BOUND[1:]]
        found = settled(functions=functions)
        assert found.bind == (Binding("0000:83:00.0", "nouveau", "vfio-pci"),)
        assert found.reboot == ()
        assert found.changes_host


class TestDrift:
    """A file that once was as it should be was changed by somebody else, and is told apart."""

    @pytest.mark.parametrize("path", [GRUB, INITRAMFS_HOOK, MODULES, RULES])
    def test_is_what_changed_since_it_was_activated(self, path: str):
        present = made.applied(made.decision(WANTED, *CARDS_OFF))["present"]
        edited = files.Present("mine\n", 0o644)
        (change,) = settled(present={**present, path: edited}).files
        assert (change.file.path, change.drifted) == (path, True)

    def test_is_not_what_a_new_configuration_changes(self):
        found = settled(wanted=made.wanted(GPUS, kernel_options="nosmt"))
        assert [(change.file.path, change.drifted) for change in found.files] == [(GRUB, False)]

    def test_is_not_what_was_never_there(self):
        found = made.decision(WANTED, *CARDS_OFF).plan
        assert not any(change.drifted for change in found.files)

    def test_is_not_what_a_removal_leaves_to_do(self):
        assert not any(change.drifted for change in settled(wanted=made.wanted()).files)


class TestGrub:
    """Somebody's settings, read after ours, have thrown our option out of grub.cfg."""

    SPOILED = grub.Grub(
        grub.Entry("Ubuntu", ("quiet",)),
        {"etc/default/grub.d/99-x.cfg": "GRUB_CMDLINE_LINUX_DEFAULT=quiet\n"},
    )

    def test_that_boots_without_our_option_is_a_problem(self):
        facts = dataclasses.replace(made.IOMMU_ON, grub=self.SPOILED)
        found = settled(machine=facts)
        assert found.grub_problem is not None
        said = words.sentence(found.grub_problem)
        assert "/etc/default/grub.d/99-x.cfg sets GRUB_CMDLINE_LINUX_DEFAULT" in said
        assert found.rebuild == ()

    def test_is_built_again_once_the_settings_are_newer(self):
        stale = dataclasses.replace(self.SPOILED, is_stale=True)
        found = settled(machine=dataclasses.replace(made.IOMMU_ON, grub=stale))
        assert (found.rebuild, found.grub_problem) == (("grub",), None)

    def test_is_no_problem_before_ours_is_in_it(self):
        facts = dataclasses.replace(made.IOMMU_OFF, grub=self.SPOILED)
        found = made.decision(WANTED, *CARDS_OFF, machine=facts).plan
        assert found.grub_problem is None
        assert "grub" in found.rebuild

    @pytest.mark.parametrize("is_stale", [True, False])
    def test_is_not_ours_to_build_while_it_has_our_option(self, is_stale: bool):
        """Whoever changed the settings runs update-grub, or means not to yet."""
        good = grub.Grub(grub.Entry("Ubuntu", ("intel_iommu=on",)), is_stale=is_stale)
        found = settled(machine=dataclasses.replace(made.IOMMU_ON, grub=good))
        assert (found.rebuild, found.grub_problem) == ((), None)

    def test_is_not_looked_at_where_nothing_is_claimed(self):
        facts = dataclasses.replace(made.IOMMU_ON, grub=self.SPOILED)
        found = made.decision(made.wanted("x=1234:5678"), *CARDS_ON, machine=facts).plan
        assert found == plan.Plan()


class TestRemoval:
    CARD = made.function("0000:83:00.0", driver="vfio-pci", override="vfio-pci", group=15)

    def give_back(self, card: pci.Function, native: str | None, **values) -> plan.Plan:
        """The plan for a card that is in the record, and that nobody asks for any more."""
        taken = Record({card.address: native})
        return made.decision(
            made.wanted(), card, machine=made.IOMMU_ON, record=taken, **values
        ).plan

    @pytest.mark.parametrize(
        ("names", "target"),
        [("nouveau", None), ("nova-core", "nouveau"), ("nouveau nova-core", None), ("", "nouveau")],
        ids=["driver", "another", "all", "none"],
    )
    def test_expects_no_driver_that_the_blacklist_keeps_off(self, names, target):
        taken = Record({self.CARD.address: "nouveau"})
        wanted = made.wanted("x=8086:1572", blacklist_drivers=names)
        nic = made.function("0000:3b:00.0", "8086:1572", made.ETHERNET, group=3)
        found = made.decision(wanted, self.CARD, nic, machine=made.IOMMU_ON, record=taken)
        assert found.plan.release == (Binding(self.CARD.address, "vfio-pci", target),)

    def test_expects_no_driver_whose_module_the_blacklist_keeps_off(self, tmp_path):
        tree = hosttree.HostTree(tmp_path / "host")
        tree.aliases("pci:v00008086d000037C8sv*sd*bc*sc*i* qat_c62x")
        card = made.function(
            "0000:b1:00.0",
            "8086:37c8",
            0x0B4000,
            driver="vfio-pci",
            group=4,
            modalias="pci:v00008086d000037C8sv00008086sd00000000bc0Bsc40i00",
        )
        nic = made.function("0000:3b:00.0", "8086:1572", made.ETHERNET, group=3)
        for names, target in (("qat_c62x", None), ("qat_4xxx", "c6xx")):
            found = made.decision(
                made.wanted("x=8086:1572", blacklist_drivers=names),
                card,
                nic,
                machine=made.IOMMU_ON,
                record=Record({card.address: "c6xx"}),
                aliases=modules.Aliases(tree.root),
            )
            assert found.plan.release == (Binding(card.address, "vfio-pci", target),)

    def test_of_one_card_releases_it_and_rewrites_the_rest(self):
        found = settled(wanted=made.wanted("gpu=10de:1bb0@83:00.0"))
        assert found.release == (
            Binding("0000:84:00.0", "vfio-pci", "nouveau"),
            Binding("0000:84:00.1", "vfio-pci", "snd_hda_intel"),
        )
        assert [change.file.path for change in found.files] == [RULES, INIT_TOP]
        assert all(change.file.content for change in found.files)
        assert found.rebuild == ("initramfs",)
        assert found.record.taken == {
            "0000:83:00.0": "nouveau",
            "0000:83:00.1": "snd_hda_intel",
        }

    def test_of_everything_leaves_no_file_and_no_record(self):
        found = settled(wanted=made.wanted())
        assert [binding.address for binding in found.release] == list(CLAIMED)
        assert {change.file.path for change in found.files} == {
            GRUB, MODULES, RULES, INITRAMFS_HOOK, INIT_TOP
        }  # fmt: skip
        assert {change.file.content for change in found.files} == {None}
        assert found.rebuild == ("initramfs", "grub")
        assert found.record.is_empty
        assert found.reboot == ()

    def test_before_the_reboot_touches_no_driver(self):
        found = settled(wanted=made.wanted(), functions=CARDS_OFF, machine=made.IOMMU_OFF)
        assert found.release == ()
        assert found.rebuild == ("initramfs", "grub")
        assert found.record.is_empty

    def test_clears_an_override_that_a_native_driver_outlived(self):
        card = made.function("0000:83:00.0", driver="nouveau", override="vfio-pci", group=15)
        found = settled(wanted=made.wanted(), functions=[card])
        assert found.release == (Binding("0000:83:00.0", "nouveau", "nouveau"),)

    def test_passes_over_a_card_that_was_pulled(self):
        found = settled(functions=[each for each in BOUND if ":84:" not in each.address])
        assert found.release == ()
        assert set(found.record.taken) == {"0000:83:00.0", "0000:83:00.1"}

    def test_never_releases_what_another_tool_put_on_vfio(self):
        foreign = made.function(
            "0000:86:00.0", "8086:1572", driver="vfio-pci", override="vfio-pci", group=30
        )
        found = settled(wanted=made.wanted(), functions=[*BOUND, foreign])
        assert "0000:86:00.0" not in [binding.address for binding in found.release]

    @pytest.mark.parametrize(
        ("driver", "native", "released"),
        [
            (None, "nouveau", True),
            (None, None, False),
            ("nouveau", "nouveau", False),
            ("vfio-pci", None, True),
        ],
        ids=["crashed-halfway", "never-had-one", "has-its-own", "native-unknown"],
    )
    def test_releases_what_has_not_come_home(
        self, driver: str | None, native: str | None, released: bool
    ):
        card = made.function(self.CARD.address, driver=driver, group=15)
        found = self.give_back(card, native)
        assert [binding.address for binding in found.release] == [card.address] * released
        assert found.changes_host is released

    def test_leaves_to_another_application_what_that_has_taken_since(self):
        found = self.give_back(self.CARD, "nouveau", taken={self.CARD.address: "more"})
        assert found.release == ()

    def test_waits_for_the_guest_that_holds_it(self):
        found = self.give_back(self.CARD, "nouveau", held={self.CARD.address: (4711,)})
        assert found.release == ()
        assert found.pending == (Binding(self.CARD.address, "vfio-pci", "nouveau"),)
        assert found.record.taken == {self.CARD.address: "nouveau"}
        assert not found.changes_host


class TestGroupThatIsNotViable:
    STRANGER = made.function("0000:3b:00.0", "8086:1572", made.ETHERNET, driver="i40e", group=15)

    def test_keeps_the_iommu_option_so_that_the_group_stays_known(self):
        """Without it the next boot would know no group, claim again, and so on for ever."""
        found = settled(functions=[*BOUND[:2], self.STRANGER], wanted=made.wanted("10de:1bb0"))
        changed = {change.file.path for change in found.files}
        assert changed == {MODULES, RULES, INITRAMFS_HOOK, INIT_TOP}
        assert found.rebuild == ("initramfs",)
        assert [binding.address for binding in found.release] == list(CLAIMED[:2])

    def test_writes_no_option_where_there_was_none(self):
        functions = [*made.gpus("83", group=15), self.STRANGER]
        facts = dataclasses.replace(made.IOMMU_ON, command_line=())
        assert made.decision(WANTED, *functions, machine=facts).plan == plan.Plan()


class TestTwoApplications:
    def test_own_files_and_records_of_their_own(self):
        first = made.decision(made.wanted("gpu=10de:1bb0@83:00.0"), *CARDS_OFF)
        second = made.decision(
            made.wanted("more=10de:1bb0@84:00.0"),
            *CARDS_OFF,
            application="more",
            taken=dict.fromkeys(first.plan.record.taken, "pci-passthrough"),
        )
        paths = [{change.file.path for change in each.plan.files} for each in (first, second)]
        assert not paths[0] & paths[1]
        assert set(second.plan.record.taken) == {"0000:84:00.0", "0000:84:00.1"}


HOSTS_THAT_CANNOT = {
    "container": (
        dataclasses.replace(made.IOMMU_OFF, is_container=True),
        {},
        "this unit is in a container, which has no kernel or boot loader of its own; deploy"
        " nova-compute and this charm on a machine",
    ),
    "no-grub": (
        dataclasses.replace(made.IOMMU_OFF, has_grub=False),
        {"kernel_options": "quiet pci=realloc"},
        "this host does not boot with GRUB, so its kernel command line cannot be set; add"
        " intel_iommu=on pci=realloc by its boot loader's own means. Nothing was changed",
    ),
    "no-iommu": (
        dataclasses.replace(made.IOMMU_OFF, iommu_table=None),
        {},
        "the firmware offers no IOMMU (no DMAR, IVRS or IORT table); enable VT-d, AMD-Vi or the"
        " SMMU in its settings. Nothing was changed",
    ),
    "iommu-off-option": (
        made.IOMMU_OFF,
        {"iommu": "off"},
        "the running kernel has no active IOMMU: the option iommu=manual keeps this charm from"
        " turning it on; set iommu=auto. Nothing was changed",
    ),
    "amd-with-intels-option": (
        dataclasses.replace(made.IOMMU_OFF, iommu_table="IVRS"),
        {"kernel_options": "intel_iommu=on"},
        "the running kernel has no active IOMMU; check AMD-Vi (IOMMU) in the firmware's settings,"
        " and dmesg. Nothing was changed",
    ),
    "amd-with-iommu-off-option": (
        dataclasses.replace(made.IOMMU_OFF, iommu_table="IVRS"),
        {"iommu": "off"},
        "the running kernel has no active IOMMU; check AMD-Vi (IOMMU) in the firmware's settings,"
        " and dmesg. Nothing was changed",
    ),
    "intel-on-in-vain": (
        made.IOMMU_ON,
        {},
        "the running kernel has no active IOMMU: it was started with intel_iommu=on; check VT-d"
        " in the firmware's settings. Nothing was changed",
    ),
    "amd-off": (
        dataclasses.replace(made.IOMMU_OFF, iommu_table="IVRS"),
        {},
        "the running kernel has no active IOMMU; check AMD-Vi (IOMMU) in the firmware's settings,"
        " and dmesg. Nothing was changed",
    ),
}


@pytest.mark.parametrize(
    ("facts", "config", "message"), HOSTS_THAT_CANNOT.values(), ids=HOSTS_THAT_CANNOT
)
def test_host_that_cannot_is_refused_with_the_way_out(facts, config, message: str):
    with pytest.raises(prerequisites.UnsupportedHostError) as caught:
        made.decision(made.wanted(GPUS, **config), *CARDS_OFF, machine=facts)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "facts", [row[0] for row in HOSTS_THAT_CANNOT.values()], ids=HOSTS_THAT_CANNOT
)
def test_host_that_cannot_is_no_matter_where_nothing_is_claimed(facts: machine.Platform):
    assert made.decision(made.wanted("x=1234:5678"), *CARDS_OFF, machine=facts).plan == plan.Plan()


def test_generators_of_which_none_is_told_are_refused():
    """What is written for one of them and built by the other one claims nothing at boot."""
    facts = dataclasses.replace(made.IOMMU_OFF, generator=None, rivals=generators.GENERATORS)
    with pytest.raises(prerequisites.UnsupportedHostError) as caught:
        made.decision(WANTED, *CARDS_OFF, machine=facts)
    assert str(caught.value) == (
        "initramfs-tools and dracut are both installed, and which of them makes this host's"
        " initramfs cannot be told; purge the one that does not. Nothing was changed"
    )


def test_generators_of_which_none_is_told_are_no_matter_without_claims():
    facts = dataclasses.replace(made.IOMMU_OFF, generator=None, rivals=generators.GENERATORS)
    nothing = made.wanted("x=1234:5678")
    assert made.decision(nothing, *CARDS_OFF, machine=facts).plan == plan.Plan()


def test_unknown_initramfs_generator_is_refused():
    facts = dataclasses.replace(made.IOMMU_OFF, generator=None)
    with pytest.raises(prerequisites.UnsupportedHostError) as caught:
        made.decision(WANTED, *CARDS_OFF, machine=facts)
    assert str(caught.value) == (
        "this host's initramfs generator is none of dracut, initramfs-tools. Nothing was changed"
    )


def test_the_last_iommu_option_on_the_line_counts():
    """GRUB's drop-in sorts last: an intel_iommu=off before it is overridden by the next boot."""
    line = (*made.IOMMU_ON.command_line, "intel_iommu=off")
    facts = dataclasses.replace(made.IOMMU_ON, command_line=line)
    assert made.decision(WANTED, *CARDS_OFF, machine=facts).plan.reboot


def test_the_operators_own_iommu_option_will_do():
    wanted = made.wanted(GPUS, iommu="off", kernel_options="intel_iommu=on,sm_on")
    found = made.decision(wanted, *CARDS_OFF).plan
    assert words.sentence(found.reboot[0]) == (
        "the IOMMU is off until the kernel starts with intel_iommu=on"
    )
    assert found.at_boot == CLAIMED


def test_without_grub_an_option_that_is_there_already_will_do():
    facts = dataclasses.replace(made.IOMMU_ON, has_grub=False)
    found = made.decision(WANTED, *CARDS_ON, machine=facts).plan
    assert [binding.address for binding in found.bind] == list(CLAIMED)


class TestBlacklist:
    NVME = made.function("0000:02:00.0", "144d:a808", made.STORAGE, driver="nvme")

    def find(self, names: str, *functions: pci.Function, devices: str = GPUS, **values) -> str:
        """What is refused, or nothing."""
        wanted = made.wanted(devices, blacklist_drivers=names)
        try:
            made.decision(wanted, *CARDS_ON, *functions, machine=made.IOMMU_ON, **values)
        except errors.OptionError as error:
            return str(error)
        return ""

    def test_names_the_driver_the_function_and_the_way_out(self):
        assert self.find("nvidiafb nvme", self.NVME) == (
            'blacklist-drivers: item "nvme": 0000:02:00.0 (144d:a808) is on nvme; it is not'
            " claimed, and would lose that at the next boot: leave the name out, or claim that"
            " function too"
        )

    @pytest.mark.parametrize(
        ("name", "driver"),
        [
            ("snd-hda_intel", "snd_hda_intel"),
            ("virtio_pci", "virtio-pci"),
            ("bochs", "bochs-drm"),
            ("bochs_drm", "bochs-drm"),
            ("xhci-pci", "xhci_hcd"),
            ("xhci_hcd", "xhci_hcd"),
        ],
    )
    def test_knows_a_module_by_its_drivers_name(self, name: str, driver: str):
        function = dataclasses.replace(self.NVME, driver=driver)
        found = self.find(name, function, devices="10de:1bb0")
        assert f"0000:02:00.0 (144d:a808) is on {driver}" in found

    @pytest.mark.parametrize(
        ("name", "driver", "module"),
        [
            ("qat_c62x", "c6xx", "qat_c62x"),
            ("qat-4xxx", "4xxx", "qat_4xxx"),
            ("nvidia", "nvidia-nvswitch", "nvidia"),
            ("i2c_nvidia_gpu", "nvidia-gpu", "i2c_nvidia_gpu"),
            ("i2c_i801", "i801_smbus", "i2c_i801"),
        ],
    )
    def test_knows_the_module_that_the_kernel_shows(self, name: str, driver: str, module: str):
        function = dataclasses.replace(self.NVME, driver=driver, module=module)
        assert self.find(name, function, devices="10de:1bb0") == (
            f'blacklist-drivers: item "{name}": 0000:02:00.0 (144d:a808) is on {driver}'
            f" (module {module}); it is not claimed, and would lose that at the next boot: leave"
            " the name out, or claim that function too"
        )
        # The driver's own name is what an operator may have read in sysfs.
        assert driver in self.find(driver, function, devices="10de:1bb0")
        # A module that the driver is not of is nobody's but the claimed cards'.
        assert self.find("nouveau", function, devices="10de:1bb0") == ""

    def test_the_third_card_of_a_kind_counts(self):
        assert "0000:85:00.0 (10de:1bb0) is on nouveau" in self.find("nouveau")
        assert self.find("nouveau", devices="10de:1bb0") == ""

    def test_a_refused_function_keeps_its_driver(self):
        """Asked for, but the host holds on to it."""
        found = self.find("nvme", self.NVME, devices=f"{GPUS}, 144d:a809@0000:02:00.0")
        assert "is on nvme; it is not claimed" in found

    def test_what_another_application_has_taken_does_not_count(self):
        taken = dict.fromkeys(("0000:85:00.0", "0000:85:00.1"), "other")
        assert self.find("nouveau", taken=taken) == ""

    @pytest.mark.parametrize("driver", ["vfio-pci", None])
    def test_what_has_no_native_driver_does_not_count(self, driver: str | None):
        assert self.find("nvme", dataclasses.replace(self.NVME, driver=driver)) == ""

    def test_without_a_claim_nothing_is_kept_off(self):
        assert self.find("nvme", self.NVME, devices="x=1234:5678") == ""


NO_GRUB = dataclasses.replace(made.IOMMU_OFF, has_grub=False)


class TestWithoutGrub:
    def test_groups_show_that_no_option_is_needed(self):
        """The kernel's own default, or AMD's, has turned the IOMMU on."""
        found = made.decision(WANTED, *CARDS_ON, machine=NO_GRUB).plan
        assert [binding.address for binding in found.bind] == list(CLAIMED)
        assert found.reboot == ()

    def test_grubs_file_is_not_written_nor_its_configuration_rebuilt(self):
        found = made.decision(WANTED, *CARDS_ON, machine=NO_GRUB).plan
        assert [change.file.path for change in found.files] == [
            MODULES,
            RULES,
            INITRAMFS_HOOK,
            INIT_TOP,
        ]
        assert found.rebuild == ("initramfs",)
        assert set(found.record.activated) == {"initramfs"}

    def test_an_option_that_no_group_shows_is_still_asked_for(self):
        wanted = made.wanted(GPUS, iommu_passthrough=True)
        with pytest.raises(
            prerequisites.UnsupportedHostError, match="; add iommu=pt by its boot loader"
        ):
            made.decision(wanted, *CARDS_ON, machine=NO_GRUB)

    def test_a_blacklist_needs_no_command_line(self):
        wanted = made.wanted("10de:1bb0", blacklist_drivers="nouveau")
        found = made.decision(wanted, *CARDS_ON, machine=NO_GRUB).plan
        (modprobe,) = [each for each in found.files if "/modprobe.d/" in each.file.path]
        assert "blacklist nouveau" in str(modprobe.file.content)

    def test_an_option_that_a_later_one_revokes_is_not_there(self):
        """GRUB's drop-in would come last; here nothing comes behind it."""
        line = ("intel_iommu=on", "intel_iommu=off")
        facts = dataclasses.replace(NO_GRUB, command_line=line)
        with pytest.raises(prerequisites.UnsupportedHostError, match="; add intel_iommu=on by"):
            made.decision(WANTED, *CARDS_OFF, machine=facts)

    def test_what_grub_left_behind_goes_without_a_rebuild(self):
        """GRUB was removed from a host that had claims."""
        applied = made.applied(made.decision(WANTED, *CARDS_OFF))
        facts = dataclasses.replace(made.IOMMU_ON, has_grub=False)
        found = made.decision(WANTED, *BOUND, machine=facts, **applied).plan
        assert [(each.file.path, each.file.content) for each in found.files] == [(GRUB, None)]
        assert found.rebuild == ()
        assert set(found.record.activated) == {"initramfs"}


def test_fingerprint_tells_path_mode_and_text_apart():
    one = boot_files.File("a", 0o644, enums.Rebuild.GRUB, "text")
    others = [
        dataclasses.replace(one, path="b"),
        dataclasses.replace(one, mode=0o755),
        dataclasses.replace(one, content="texts"),
    ]
    digests = {plan.fingerprint([each], enums.Rebuild.GRUB) for each in (one, *others)}
    assert len(digests) == 4
    assert plan.fingerprint([one], enums.Rebuild.INITRAMFS) is None
    assert plan.fingerprint([dataclasses.replace(one, content=None)], enums.Rebuild.GRUB) is None


ONE = boot_files.File("etc/a", 0o644, enums.Rebuild.GRUB, "x\n")
TWO = boot_files.File("etc/b", 0o755, enums.Rebuild.GRUB, "y\n")


def test_fingerprint_is_of_the_files_whatever_their_order():
    found = plan.fingerprint([ONE, TWO], enums.Rebuild.GRUB)
    assert found == plan.fingerprint([TWO, ONE], enums.Rebuild.GRUB)
    # Pinned: another one would have every host rebuild at its next refresh.
    assert found == "2:dc1cc2135c85e413d57f6a6236fe3f6e4f212a54d8ba82b78919ece1a824d50d"


class TestRecordOfTheFirstRelease:
    """52ee0af digested the same files in another way."""

    def test_its_digest_is_what_it_was(self):
        """The digest is 52ee0af's own, of the same files."""
        assert plan._fingerprint_of_first_release([ONE, TWO], enums.Rebuild.GRUB) == (
            "9eaa163d313bf36f28a73f0447f3a90f2b88ec2be021c163361df27e773f70ea"
        )

    @pytest.fixture
    def activated(self) -> dict[str, str]:
        """What it recorded of the files that the host has."""
        files_there = [each.file for each in made.decision(WANTED, *CARDS_OFF).plan.files]
        return {
            what: plan._fingerprint_of_first_release(files_there, what) for what in enums.Rebuild
        }

    def test_what_it_rebuilt_is_not_rebuilt_and_is_recorded_anew(self, activated):
        found = settled(record=Record(NATIVE, activated))
        assert (found.rebuild, found.files, found.changes_host) == ((), (), False)
        assert found.record == settled().record
        assert found.record.activated != activated

    def test_a_file_that_was_edited_since_has_drifted(self, activated):
        first = made.applied(made.decision(WANTED, *CARDS_OFF))["present"]
        edited = {**first, GRUB: files.Present("edited", 0o644)}
        found = settled(record=Record(NATIVE, activated), present=edited)
        assert [(each.file.path, each.drifted) for each in found.files] == [(GRUB, True)]
        assert found.rebuild == ("grub",)

    @pytest.mark.parametrize("what", ["initramfs", "grub"])
    def test_other_files_are_rebuilt(self, activated, what: str):
        found = settled(record=Record(NATIVE, {**activated, what: "0" * 64}))
        assert found.rebuild == (what,)
