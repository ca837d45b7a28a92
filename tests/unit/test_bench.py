"""The benchmarks' own arithmetic, simulation, plot and pages."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import zipfile
from xml.etree import ElementTree

import pytest

from bench import (
    busy,
    crowds,
    fleet,
    former,
    lab,
    markdown,
    package,
    pairs,
    plot,
    report,
    trees,
)
from passthrough.host import disks, pci, usage, vfio_users
from passthrough.host.uses import kinds
from passthrough.reporting import inventory
from passthrough.system import procfs


def runs(*seconds: float) -> tuple[pairs.Run, ...]:
    return tuple(pairs.Run(each, each / 2, 1024) for each in seconds)


class TestPairs:
    def test_a_ratio_is_the_median_of_pairs_and_not_of_sides(self):
        # A machine that is busy during one pair slows both of its sides.
        found = pairs.Comparison("x", runs(2, 20, 2), runs(1, 10, 4), goal=2)
        assert found.ratio() == pairs.Spread(2.0, 1.25, 2.0)
        assert found.ratio("peak_kib").median == 1
        assert found.verdict == "met"

    @pytest.mark.parametrize(("goal", "verdict"), [(None, ""), (1.0, "MISSED"), (1.5, "met")])
    def test_a_goal_is_met_or_missed(self, goal: float | None, verdict: str):
        assert pairs.Comparison("x", runs(3), runs(2), goal).verdict == verdict

    def test_nothing_measured_is_an_error(self):
        with pytest.raises(ValueError, match="nothing was measured"):
            pairs.Comparison("x", (), ()).ratio()

    def test_a_goal_can_be_about_processor_time(self):
        # The clock of the first side stood still for a while, its processor did not work more.
        found = pairs.Comparison("x", (pairs.Run(9, 1, 1),), (pairs.Run(1, 1, 1),), 1.5)
        assert found.verdict == "MISSED"
        assert dataclasses.replace(found, judged="cpu").verdict == "met"

    def test_sides_take_turns_to_go_first_and_the_first_pair_does_not_count(self):
        order: list[str] = []

        def side(name: str) -> pairs.Run:
            order.append(name)
            return pairs.Run(len(order), 1, 1)

        found = pairs.compare("x", lambda: side("a"), lambda: side("b"), 2)
        assert "".join(order) == "abbaab"
        assert [run.seconds for run in found.ours] == [4, 5]
        assert [run.seconds for run in found.theirs] == [3, 6]

    def test_a_process_is_measured_with_its_children(self):
        work = "import subprocess,sys; subprocess.run([sys.executable,'-c','x=bytearray(60<<20)'])"
        found = pairs.run([sys.executable, "-c", work])
        assert found.peak_kib > 60 << 10
        assert found.cpu > 0
        assert found.seconds > 0

    def test_a_process_that_fails_is_no_figure(self):
        with pytest.raises(pairs.BenchError, match="exit code 3: no such thing"):
            pairs.run(["sh", "-c", "echo no such thing >&2; exit 3"])


class TestFormer:
    @pytest.fixture
    def checkout(self, tmp_path: pathlib.Path) -> pathlib.Path:
        """A repository in which the program has changed since its first commit."""
        for number, text in enumerate(("old", "new")):
            for name in (former.PROGRAM, "src/module.py"):
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_text(text)
            self.git(tmp_path, *(["init", "--quiet"] if not number else ["status"]))
            self.git(tmp_path, "add", ".")
            self.git(tmp_path, "commit", "--quiet", "--message", text)
        return tmp_path

    @staticmethod
    def git(checkout: pathlib.Path, *words: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=n@example.org")
        subprocess.run(["git", "-C", checkout, *who, *words], check=True, capture_output=True)

    def test_the_program_is_that_of_the_revision_and_goes_afterwards(self, checkout: pathlib.Path):
        with former.checked_out(checkout, "HEAD~1") as program:
            assert program.read_text() == "old"
            assert (program.parents[1] / "src/module.py").read_text() == "old"
        assert not program.exists()

    def test_what_git_does_not_know_is_named(self, checkout: pathlib.Path):
        with (
            pytest.raises(pairs.BenchError, match=r"--against nowhere: .*nowhere"),
            former.checked_out(checkout, "nowhere"),
        ):
            pass


class TestTrees:
    @pytest.mark.parametrize("count", [1, 64, 1000])
    def test_hold_what_was_made_up(self, tmp_path: pathlib.Path, count: int):
        made = trees.functions(count)
        trees.write(tmp_path, made)
        found = pci.read(tmp_path)
        assert len(found.functions) == len(made) == count
        for each in made:
            function = found.functions[each.address]
            assert (function.id, function.driver) == (each.identity, each.driver)
            assert (function.group, function.numa_node) == (each.group, each.node)
            assert (function.physfn, function.total_vfs) == (each.physfn, each.total_vfs)
            path = (tmp_path / trees.DEVICES / each.address).resolve()
            assert each.parent in (None, path.parent.name)

    def test_have_functions_to_claim_and_such_that_cannot_be(self, tmp_path: pathlib.Path):
        trees.write(tmp_path, trees.functions(64))
        described = list(inventory.describe(tmp_path, pci.read(tmp_path)))
        assert {row["claimable"] for row in described} == {True, False}
        assert {row["device-type"] for row in described} == {"type-PCI", "type-PF", "type-VF"}
        assert {row["numa-node"] for row in described} == {0}

    def test_without_an_iommu_there_are_no_groups(self, tmp_path: pathlib.Path):
        trees.write(tmp_path, trees.cards(3), with_groups=False)
        assert not pci.read(tmp_path).has_groups


class TestBusyHosts:
    SIZE = crowds.Size(processes=6, files=10, interfaces=8, disks=4, namespaces=3)

    def test_have_what_is_asked_for(self, tmp_path: pathlib.Path):
        crowds.write(tmp_path, self.SIZE)
        known = procfs.Processes(tmp_path)
        assert len(known.numbers) == 6
        assert len(list((tmp_path / "proc").glob("*/fd/*"))) == 60
        namespaces = [procfs.mount_namespace_or_raise(tmp_path, each) for each in known.numbers]
        assert len(set(namespaces)) == 3
        assert len(os.listdir(tmp_path / "sys/class/net")) == 8
        found = disks.read(tmp_path)
        assert len(found.own) == 4
        assert found.functions("dm-1") == found.functions("sd0") != frozenset()

    def test_have_mounted_disks_and_interfaces_in_use_or_idle(self, tmp_path: pathlib.Path):
        crowds.write(tmp_path, self.SIZE)
        used = usage.read(tmp_path, pci.read(tmp_path))
        assert {use.kind for uses in used.uses.values() for use in uses} == {
            kinds.Kind.MOUNT,
            kinds.Kind.MEMBER,
        }

    @pytest.mark.parametrize("is_open", [False, True])
    def test_have_functions_on_vfio_pci_that_guests_have_or_not(
        self, tmp_path: pathlib.Path, is_open: bool
    ):
        size = dataclasses.replace(self.SIZE, is_open=is_open)
        made = crowds.write(tmp_path, size)
        addresses = [each.address for each in made if each.driver == "vfio-pci"]
        assert len(addresses) == 8
        enabled = {(tmp_path / trees.DEVICES / each / "enable").read_text() for each in addresses}
        assert enabled == {f"{int(is_open)}\n"}
        held = vfio_users.Users(tmp_path, procfs.Processes(tmp_path)).of(addresses)
        assert sorted(held) == (addresses if is_open else [])

    @pytest.mark.parametrize("by_guests", [False, True])
    def test_only_what_guests_do_not_account_for_has_all_processes_asked(
        self, tmp_path: pathlib.Path, by_guests: bool
    ):
        size = crowds.Size(processes=30, files=10, is_open=True, by_guests=by_guests)
        made = crowds.write(tmp_path, size)
        groups = {each.group for each in made if each.is_open}
        with busy.counted() as listed:
            busy.look(tmp_path)
        looks = 2  # the list's, and the decision's
        assert len(listed) == looks * (len(groups) if by_guests else 30)

    def test_can_be_in_one_group(self, tmp_path: pathlib.Path):
        crowds.write(tmp_path, crowds.Size(in_one_group=True))
        assert len(pci.read(tmp_path).groups[0]) == 64

    def test_passes_are_counted_by_the_descriptors_that_are_listed(self, tmp_path: pathlib.Path):
        crowds.write(tmp_path, self.SIZE)
        with busy.counted() as listed:
            for _ in range(2):
                assert procfs.Processes(tmp_path).opened.unread == ()
        assert len(listed) == 2 * 6

    def test_their_tables_leave_out_what_was_not_measured(self):
        row = {"name": "list", "passes": 1.0, "goal": 0, "verdict": "MISSED"}
        tables = report.busy_tables({"comparisons": [], "passes": [row], "growth": []})
        assert tables == [(report.PASS_HEAD, [["list", "1", "≤ 0 MISSED"]])]


class TestFleet:
    def test_this_charm_costs_the_same_for_each_host(self):
        ten, thousand = fleet.this_design(10), fleet.this_design(1000)
        assert thousand.compute_hooks == 100 * ten.compute_hooks
        assert thousand.controller_hooks == ten.controller_hooks
        assert (thousand.written, thousand.read) == (ten.written, ten.read)

    def test_two_peers_by_hand(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(fleet, "CONTROLLERS", 0)
        found = fleet.peer_relation(2)
        # Each: install, leader, config-changed, start; created, joined, changed of its principal;
        # created, joined, changed of the peer; start after the reboot; changed by the other's.
        assert found.hooks == 2 * (4 + 3 + 3 + 1 + 1)
        assert found.read == found.written == sum(len(fleet.device_specs(n)) for n in range(2))

    def test_one_whitelist_by_hand(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(fleet, "CONTROLLERS", 0)
        one, two = len(fleet.device_specs(0)), len(fleet.device_specs(1))
        found = fleet.one_whitelist(2)
        assert found.compute_hooks == 2 * 5 + 1 + 2
        assert found.read == one + 2 * (one + two)

    @pytest.mark.parametrize(
        ("design", "order"),
        [(fleet.this_design, 1), (fleet.with_nova_pci, 1), (fleet.peer_relation, 2)],
    )
    def test_growth_is_of_its_order(self, design, order: int):
        assert design(10_000).hooks / design(1_000).hooks == pytest.approx(10**order, rel=0.1)

    def test_payloads_are_what_the_charm_sends(self):
        assert '"name\\": \\"gpu\\"' in fleet.aliases()
        assert fleet.device_specs(0).count('"vendor_id": "10de"') == fleet.DEVICES_EACH

    def test_the_page_and_its_plot_are_what_the_simulation_gives(self):
        for path, text in fleet.pages(fleet.simulate()).items():
            assert path.read_text(encoding="utf-8") == text, "out of date: make fleet"


def parse(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn)  # noqa: S314 - it is our own


class TestPlot:
    def test_is_well_formed_and_names_every_series(self):
        drawn = plot.draw({"a < b": [(1, 1), (10, 100)], "c": [(1, 5), (10, 5)]}, "n", "m")
        texts = [each.text for each in parse(drawn).iter() if each.text]
        assert {"a < b", "c", "n", "m", "1", "10", "100"} <= set(texts)

    def test_labels_do_not_cover_each_other(self):
        same = [(1.0, 1.0), (10.0, 100.0)]
        root = parse(plot.draw({"a": same, "b": same}, "n", "m"))
        places = [float(each.get("y", 0)) for each in root.iter() if each.text in ("a", "b")]
        assert abs(places[0] - places[1]) >= 13

    @pytest.mark.parametrize("series", [{"a": [(0, 1)]}, {str(n): [(1, 1)] for n in range(5)}])
    def test_refuses_what_it_cannot_show(self, series):
        with pytest.raises(ValueError, match=r"domain|at most"):
            plot.draw(series, "n", "m")


class TestPackage:
    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("src/charm.py", "src"),
            ("compiled/jinja-3.1.6-0a/tmpl_0a.py", "compiled"),
            ("metadata.yaml", "everything else"),
            ("venv/lib/python3.12/site-packages/yaml/__init__.py", "venv: pyyaml"),
            ("venv/lib/python3.12/site-packages/pyyaml-6.0.3.dist-info/RECORD", "venv: pyyaml"),
            ("venv/lib/python3.12/site-packages/_yaml/__init__.py", "venv: pyyaml"),
            ("venv/lib/python3.12/site-packages/typing_extensions.py", "venv: typing_extensions"),
        ],
    )
    def test_a_file_belongs_to_a_part(self, name: str, part: str):
        assert package.part_of(name) == part

    def test_parts_add_up(self, tmp_path: pathlib.Path):
        with zipfile.ZipFile(tmp_path / "x.charm", "w") as archive:
            archive.writestr("src/a.py", "x" * 100)
            archive.writestr("src/b.py", "x" * 10)
            archive.writestr("dispatch", "x")
        rows = package.weigh(tmp_path / "x.charm")
        assert [(row["part"], row["files"], row["bytes"]) for row in rows] == [
            ("src", 2, 110),
            ("everything else", 1, 1),
        ]


class TestPages:
    def test_only_the_part_between_the_marks_is_written(self):
        page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n"
        filled = markdown.fill(page, "x", "new\n")
        assert filled == "a\n<!-- begin x -->\n\nnew\n\n<!-- end x -->\nb\n"
        assert markdown.fill(filled, "x", "new") == filled

    def test_a_page_without_the_marks_is_an_error(self):
        with pytest.raises(ValueError, match="no marks"):
            markdown.fill("a", "x", "new")

    def test_growth_is_by_function_beyond_the_smallest_tree(self):
        rows = [
            {"name": f"list, {size} functions / lspci -Dnnk", "ours-cpu-seconds": 1 + size * each}
            for size, each in (("64", 0), ("1024", 0), ("4096", 0))
            for size, each in [(int(size), 0.001)]
        ]
        assert report.growth(rows) == [["1,024", "1.00"], ["4,096", "1.00"]]

    def test_a_run_of_a_part_keeps_what_others_have_measured(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(report, "KEPT", tmp_path / "all.json")
        monkeypatch.setattr(report, "KEPT_BUSY", tmp_path / "busy.json")
        report.keep({"comparisons": [], "busy": {"growth": []}})
        assert not report.KEPT.exists()
        whole = {"comparisons": [1], "plans": [2], "parts": [3]}
        report.keep(whole)
        assert json.loads(report.KEPT.read_text()) == whole
        assert json.loads(report.KEPT_BUSY.read_text()) == {"growth": []}

    def test_the_page_of_the_benchmarks_is_what_the_kept_run_gives(self):
        assert report.PAGE.read_text(encoding="utf-8") == report.page(*report.kept())


class TestLab:
    LOG = (
        "INFO update-initramfs -u -k all: running\nINFO update-initramfs -u -k all: done in 60 s\n"
        "INFO update-grub: done in 10 s\n"
    )

    def test_a_hook_is_split_by_what_its_log_says(self):
        assert lab.split_hook(100, self.LOG) == {
            "seconds": 100,
            "initramfs-share": 0.6,
            "grub-share": 0.1,
            "rest-share": 0.3,
        }

    def test_what_each_function_more_costs_is_without_the_start(self):
        rows = [
            {"functions": count, "seconds": {"bind": [1.0 + count * 0.1, 0.2 + count * 0.2]}}
            for count in (2, 4, 8)
        ]
        assert lab.each_further(rows, "bind") == 0.5

    def test_its_machine_has_a_card_for_the_charm_and_others_to_bind(self):
        assert len(set(lab.CARDS)) == 9
        assert max(lab.COUNTS) == len(lab.FREE)
        assert lab.CLAIMED not in lab.FREE

    def test_what_it_found_is_laid_out(self):
        spread = {"median": 0.5, "low": 0.4, "high": 0.61}
        row = {"functions": 2, "pairs": 5, "bind": spread, "release": spread, "goal": 1.0}
        found = {
            "bindings": [{**row, "verdict": "met"}],
            "each-further": {"bind": 0.5, "release": 0.75},
            "first-hook": lab.split_hook(100, self.LOG),
        }
        text = report.lab_part(found)
        assert "| 2 | 5 | 0.50 (0.40 to 0.61) | 0.50 (0.40 to 0.61) | ≤ 1 met |" in text
        assert "0.50 to bind and 0.75 to release." in text
        assert "update-initramfs took 60% of it, update-grub 10%, and all the rest 30%" in text
