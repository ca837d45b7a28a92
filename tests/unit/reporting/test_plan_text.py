"""What people and programs are shown of a plan, of checks and of a rebind."""

from __future__ import annotations

import json

import pytest
from harness import made
from harness.made import CARDS_OFF as CARDS

from passthrough import errors
from passthrough.reporting import plan_text, tables
from passthrough.reporting.verify import result
from passthrough.state.record import Record
from passthrough.system import files

GPUS = "gpu=10de:1bb0@0000:83:00.0, 10de:1bb0@0000:84:00.0, x=1af4:1041"


@pytest.fixture
def fresh():
    """A host that has seen nothing of the charm."""
    return made.decision(made.wanted(GPUS), *CARDS)


class TestPlanText:
    def test_of_a_fresh_host(self, fresh):
        text = plan_text.plan_text(fresh)
        assert text.startswith(
            "CLAIM         ID         DRIVER         GROUP  FOR\n"
            "0000:83:00.0  10de:1bb0  nouveau        -      alias gpu\n"
            "0000:83:00.1  10de:10f0  snd_hda_intel  -      companion of 0000:83:00.0\n"
            "0000:84:00.0  10de:1bb0  nouveau        -      item 2\n"
            "0000:84:00.1  10de:10f0  snd_hda_intel  -      companion of 0000:84:00.0\n"
            "\n"
            "not claimed: devices: item 3 x=1af4:1041: no such device on this host\n"
            "\n"
            "--- /dev/null\n"
            "+++ b/etc/default/grub.d/95-pci-passthrough.cfg\n"
            "@@ -0,0 +1,3 @@\n"
            "+# Written by the Juju charm pci-passthrough (application pci-passthrough).\n"
        )
        assert '+GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on"\n' in text
        steps = text.rpartition("\n\n")[2].splitlines()
        assert steps[:3] == [
            "rebuild: initramfs",
            "rebuild: grub",
            "bind at the next boot: 0000:83:00.0 0000:83:00.1 0000:84:00.0 0000:84:00.1",
        ]
        assert steps[-1].startswith("reboot required: the IOMMU is off until the kernel starts")

    def test_of_a_host_that_binds_now(self):
        cards = made.gpus("83", group=15)
        decision = made.decision(made.wanted("gpu=10de:1bb0"), *cards, machine=made.IOMMU_ON)
        text = plan_text.plan_text(decision)
        assert "bind now: 0000:83:00.0 nouveau -> vfio-pci\n" in text
        assert "0000:83:00.0  10de:1bb0  nouveau        15     alias gpu" in text
        assert "reboot required" not in text

    def test_of_a_removal(self, fresh):
        bound = made.gpus("83", group=15, driver="vfio-pci", override="vfio-pci")
        given = made.applied(fresh)
        given["record"] = Record({"0000:83:00.0": "nouveau", "0000:83:00.1": None})
        decision = made.decision(made.wanted("x=1af4:1041"), *bound, machine=made.IOMMU_ON, **given)
        text = plan_text.plan_text(decision)
        assert "--- a/etc/default/grub.d/95-pci-passthrough.cfg\n+++ /dev/null\n" in text
        assert "give back: 0000:83:00.0 vfio-pci -> nouveau\n" in text
        assert "give back: 0000:83:00.1 vfio-pci -> native" in text

    def test_of_a_change_shows_the_lines_that_differ(self, fresh):
        given = made.applied(fresh)
        decision = made.decision(made.wanted(GPUS, kernel_options="quiet nosmt"), *CARDS, **given)
        text = plan_text.plan_text(decision)
        assert "--- a/etc/default/grub.d/95-pci-passthrough.cfg\n" in text
        assert (
            '-GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on"\n'
            '+GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on quiet nosmt"'
        ) in text

    def test_of_a_mode_that_differs(self, fresh):
        given = made.applied(fresh)
        path = "etc/initramfs-tools/hooks/pci-passthrough"
        good = given["present"][path]
        given["present"][path] = files.Present(good.content, 0o644)
        text = plan_text.plan_text(made.decision(made.wanted(GPUS), *CARDS, **given))
        assert f"\n/{path}: mode 644 -> 755\n" in text
        assert "@@" not in text

    def test_of_a_file_that_does_not_end_in_a_newline(self, fresh):
        given = made.applied(fresh)
        path = "etc/modules-load.d/pci-passthrough.conf"
        given["present"][path] = files.Present("vfio", 0o644)
        text = plan_text.plan_text(made.decision(made.wanted(GPUS), *CARDS, **given))
        assert "\n-vfio\n+# Written by" in text

    def test_of_what_a_guest_holds(self):
        decision = made.decision(
            made.wanted("x=1af4:1041"),
            *made.gpus("83", group=15, driver="vfio-pci", override="vfio-pci"),
            machine=made.IOMMU_ON,
            record=Record({"0000:83:00.0": "nouveau"}),
            held={"0000:83:00.0": (4711,)},
        )
        text = plan_text.plan_text(decision).replace("\n  ", " ")
        assert (
            "give back when the guest is gone: 0000:83:00.0 vfio-pci -> nouveau, held by process"
            " 4711"
        ) in text

    def test_of_nothing_to_do(self):
        decision = made.decision(made.wanted(), *CARDS)
        assert plan_text.plan_text(decision) == "nothing to change"


class TestDescribePlan:
    def test_is_plain_and_says_the_same(self, fresh):
        described = plan_text.describe_plan(fresh)
        assert json.loads(json.dumps(described)) == described
        assert described["claims"][:2] == [
            {
                "address": "0000:83:00.0",
                "id": "10de:1bb0",
                "driver": "nouveau",
                "alias": "gpu",
                "companion-of": None,
                "allow-in-use": False,
                "overridden": [],
            },
            {
                "address": "0000:83:00.1",
                "id": "10de:10f0",
                "driver": "snd_hda_intel",
                "alias": None,
                "companion-of": "0000:83:00.0",
                "allow-in-use": False,
                "overridden": [],
            },
        ]
        assert described["refusals"] == [
            {
                "rule": "absent",
                "blocking": False,
                "reason": "devices: item 3 x=1af4:1041: no such device on this host",
            }
        ]
        assert {(each["path"], each["change"]) for each in described["files"]} == {
            ("/etc/default/grub.d/95-pci-passthrough.cfg", "create"),
            ("/etc/modules-load.d/pci-passthrough.conf", "create"),
            ("/etc/udev/rules.d/60-pci-passthrough.rules", "create"),
            ("/etc/initramfs-tools/hooks/pci-passthrough", "create"),
            ("/etc/initramfs-tools/scripts/init-top/pci-passthrough", "create"),
        }
        assert described["rebuild"] == ["initramfs", "grub"]
        assert described["at-boot"] == [claim["address"] for claim in described["claims"]]
        assert (described["bind"], described["release"]) == ([], [])
        assert len(described["reboot"]) == 1

    def test_tells_replace_and_remove_apart(self, fresh):
        given = made.applied(fresh)
        grub = "etc/default/grub.d/95-pci-passthrough.cfg"
        decision = made.decision(made.wanted(GPUS, kernel_options="nosmt"), *CARDS, **given)
        assert [
            (each["path"], each["change"]) for each in plan_text.describe_plan(decision)["files"]
        ] == [(f"/{grub}", "replace")]
        gone = plan_text.describe_plan(made.decision(made.wanted(), *CARDS, **given))["files"]
        assert {each["change"] for each in gone} == {"remove"}

    def test_is_the_same_bytes_for_the_same_host(self, fresh):
        again = made.decision(made.wanted(GPUS), *reversed(CARDS))
        assert json.dumps(plan_text.describe_plan(again)) == json.dumps(
            plan_text.describe_plan(fresh)
        )


class TestChecksTable:
    CHECKS = (
        result.Check("iommu", result.OK, "12 IOMMU groups"),
        result.Check("driver 0000:83:00.0", result.FAIL, "nouveau", "run the rebind action"),
        result.Check("grub", result.UNKNOWN, "x" * 100),
    )

    def test_shows_what_is_wrong_in_full_and_the_way_out(self):
        assert plan_text.checks_table(self.CHECKS).splitlines() == [
            "CHECK                RESULT   SEEN",
            "iommu                ok       12 IOMMU groups",
            "driver 0000:83:00.0  fail     nouveau",
            f"grub                 unknown  {'x' * 49}…",
            "",
            "driver 0000:83:00.0: nouveau",
            "  to mend it: run the rebind action",
            "grub:",
            f"  {'x' * 100}",
        ]

    def test_has_nothing_below_it_where_all_is_well(self):
        assert plan_text.checks_table(self.CHECKS[:1]).splitlines() == [
            "CHECK  RESULT  SEEN",
            "iommu  ok      12 IOMMU groups",
        ]

    def test_is_coloured_only_where_it_is_asked_for(self):
        assert "\x1b" not in plan_text.checks_table(self.CHECKS)
        coloured = plan_text.checks_table(self.CHECKS, tables.Style(colour=True))
        assert "\x1b[32mok" in coloured
        assert "\x1b[31mfail" in coloured


def test_a_rebind_names_the_driver_that_took_the_function():
    on_variant = made.function("0000:83:00.0", driver="acme-vfio-pci")
    table = plan_text.rebind_table({"0000:83:00.0": None}, made.host(on_variant))
    assert table.splitlines()[1] == "0000:83:00.0  bound to acme-vfio-pci"


def test_rebind_is_reported_function_by_function():
    done = {
        "0000:83:00.0": None,
        "0000:84:00.0": errors.InUseError(
            "0000:84:00.0", "a guest holds it (/dev/vfio/17 is open in process 3141592); stop it"
        ),
    }
    assert plan_text.rebind_table(done).splitlines() == [
        "ADDRESS       RESULT",
        "0000:83:00.0  bound to vfio-pci",
        "0000:84:00.0  failed",
        "",
        "0000:84:00.0: a guest holds it (/dev/vfio/17 is open in process 3141592); stop",
        "  it",
    ]
    message = "0000:84:00.0: a guest holds it (/dev/vfio/17 is open in process 3141592); stop it"
    assert plan_text.describe_rebind(done) == [
        {"address": "0000:83:00.0", "bound": True, "error": None},
        {"address": "0000:84:00.0", "bound": False, "error": message},
    ]
