"""What an application has done, kept between hooks; damaged or hostile content included."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import re
from collections.abc import Callable

import pytest

from passthrough import naming
from passthrough.site import Site
from passthrough.state import record
from passthrough.state.record import Record
from passthrough.system import files

ONE = Record({"0000:83:00.0": "nouveau", "0000:83:00.1": None}, {"initramfs": "aa", "grub": "bb"})
OWNER = record.Owner("5f1f3a3b-6b5f-4a9b-8b1a-0c1d2e3f4a5b", "pci-passthrough/0", "nova-compute/0")


def path_of(root: pathlib.Path, application: str = "pci-passthrough") -> pathlib.Path:
    return root / f"var/lib/pci-passthrough/{application}.json"


def put(root: pathlib.Path, application: str, content: Record) -> bool:
    with record.open(Site(root, application)) as ledger:
        return ledger.put(content)


def test_what_is_written_is_read_again(tmp_path: pathlib.Path):
    assert put(tmp_path, "pci-passthrough", ONE) is True
    assert record.read(Site(tmp_path, "pci-passthrough")) == ONE


def test_an_application_without_a_record_has_an_empty_one(tmp_path: pathlib.Path):
    assert record.read(Site(tmp_path, "pci-passthrough")) == Record()
    assert Record().is_empty
    assert not ONE.is_empty
    assert not Record(reboot=record.Reboot("plan", "boot")).is_empty


def test_nobody_looks_after_nothing(tmp_path: pathlib.Path):
    alone = Record(owner=OWNER, keep=True)
    assert alone.is_empty
    assert put(tmp_path, "pci-passthrough", alone) is False
    assert record.read(Site(tmp_path, "pci-passthrough")) == Record()


@pytest.mark.parametrize(("asked", "stopped"), [(1, False), (3, False), (1, True), (2, True)])
def test_what_was_done_for_a_reboot_is_kept(tmp_path: pathlib.Path, asked: int, stopped: bool):
    for_reboot = Record(reboot=record.Reboot("plan", "boot", asked, stopped))
    put(tmp_path, "pci-passthrough", for_reboot)
    assert record.read(Site(tmp_path, "pci-passthrough")) == for_reboot


@pytest.mark.parametrize("principal", ["nova-compute/0", ""])
def test_the_owner_is_kept(tmp_path: pathlib.Path, principal: str):
    owned = dataclasses.replace(ONE, owner=dataclasses.replace(OWNER, principal=principal))
    put(tmp_path, "pci-passthrough", owned)
    assert record.read(Site(tmp_path, "pci-passthrough")) == owned


def test_an_equal_record_is_not_written_again(tmp_path: pathlib.Path):
    put(tmp_path, "pci-passthrough", ONE)
    before = path_of(tmp_path).stat()
    reordered = Record(
        dict(reversed([*ONE.taken.items()])), dict(reversed([*ONE.activated.items()]))
    )
    assert put(tmp_path, "pci-passthrough", reordered) is False
    after = path_of(tmp_path).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("content", [ONE, Record()], ids=["same", "empty"])
def test_what_a_kill_left_beside_it_goes_even_if_nothing_is_to_be_written(tmp_path, content):
    put(tmp_path, "pci-passthrough", content)
    part = path_of(tmp_path).with_name(".pci-passthrough.json.new")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    assert put(tmp_path, "pci-passthrough", content) is False
    assert not part.exists()


def test_an_empty_record_leaves_neither_file_nor_directory(tmp_path: pathlib.Path):
    (tmp_path / "var/lib").mkdir(parents=True)
    assert put(tmp_path, "pci-passthrough", Record()) is False
    put(tmp_path, "pci-passthrough", ONE)
    assert put(tmp_path, "pci-passthrough", Record()) is True
    assert list((tmp_path / "var/lib").iterdir()) == []


def test_an_empty_record_leaves_the_other_applications_alone(tmp_path: pathlib.Path):
    put(tmp_path, "pci-passthrough", ONE)
    put(tmp_path, "qat", ONE)
    put(tmp_path, "pci-passthrough", Record())
    assert record.read(Site(tmp_path, "qat")) == ONE


def read_others(site: Site) -> dict[str, Record]:
    """The others' records, where each application has a file on the host."""
    return record.read_others(site, lambda application: True)


def taken_by_others(root: pathlib.Path, application: str) -> dict[str, str]:
    return record.taken_by(read_others(Site(root, application)))


def test_taken_by_others(tmp_path: pathlib.Path):
    put(tmp_path, "pci-passthrough", ONE)
    put(tmp_path, "qat", Record({"0000:3d:00.0": None}, {"initramfs": "cc"}))
    assert taken_by_others(tmp_path, "qat") == dict.fromkeys(ONE.taken, "pci-passthrough")
    assert taken_by_others(tmp_path, "third") == {
        **dict.fromkeys(ONE.taken, "pci-passthrough"),
        "0000:3d:00.0": "qat",
    }
    assert taken_by_others(tmp_path / "elsewhere", "qat") == {}


def test_an_application_that_gave_up_its_boot_files_bars_nobody(tmp_path: pathlib.Path):
    """It was removed, and waits for a guest to let go of what it took."""
    put(tmp_path, "gone", Record({"0000:83:00.0": "nouveau"}))
    assert taken_by_others(tmp_path, "next") == {}


def test_an_application_in_the_middle_of_its_first_rebuild_bars_others(tmp_path: pathlib.Path):
    put(tmp_path, "first", Record({"0000:83:00.0": None}, {"initramfs": record.DIRTY}))
    assert taken_by_others(tmp_path, "next") == {"0000:83:00.0": "first"}


def test_a_reboot_that_was_asked_for_is_kept(tmp_path: pathlib.Path):
    asked = Record(reboot=record.Reboot("plan", "boot"), taken={"0000:83:00.0": None})
    put(tmp_path, "pci-passthrough", asked)
    assert record.read(Site(tmp_path, "pci-passthrough")) == asked


DAMAGED = {
    "empty": "",
    "endless-number": (
        '{"format": 4, "record": {"taken": {}, "activated": {},'
        ' "reboot": {"plan": "x", "boot_id": "y", "asked": 1e999}}}'
    ),
    "cut": '{"taken": {"0000:83:0',
    "not-json": "hello",
    "no-mapping": "[]",
    "null": "null",
    "number": "7",
    "no-taken": '{"activated": {}}',
    "no-activated": '{"taken": {}}',
    "taken-is-text": '{"taken": "abc", "activated": {}}',
    "taken-is-null": '{"taken": null, "activated": {}}',
    "hostile-address": '{"taken": {"../../etc/x": null}, "activated": {}}',
    "driver-is-a-list": '{"taken": {"0000:83:00.0": []}, "activated": {}}',
    "fingerprint-is-a-number": '{"taken": {}, "activated": {"grub": 1}}',
    "reboot-is-text": '{"taken": {}, "activated": {}, "reboot": "now"}',
    "nova-is-text": '{"taken": {}, "activated": {}, "nova": "x"}',
    "deep": "[" * 100_000,
    "format-is-text": '{"format": "2", "taken": {}, "activated": {}}',
    "format-is-null": '{"format": null, "taken": {}, "activated": {}}',
    "format-is-true": '{"format": true, "taken": {}, "activated": {}}',
    "format-is-no-number": '{"format": 3.5, "taken": {}, "activated": {}}',
    "format-of-none": '{"format": 1, "taken": {}, "activated": {}}',
    "format-below-zero": '{"format": -1, "record": {"taken": {}, "activated": {}}}',
    "format-alone": '{"format": 2}',
    "format-beside-the-record": '{"format": 2, "taken": {}, "activated": {}}',
    "format-3-around-damage": '{"format": 3, "record": {"taken": {"x": null}, "activated": {}}}',
    "owner-is-text": '{"format": 3, "record": {"taken": {}, "activated": {}, "owner": "x"}}',
    "owner-without-a-unit": (
        '{"format": 3, "record": {"taken": {}, "activated": {}, "owner": {"model": "m"}}}'
    ),
    "owner-of-a-hostile-name": (
        '{"format": 3, "record": {"taken": {}, "activated": {},'
        ' "owner": {"model": "m", "unit": "../../x/0", "principal": ""}}}'
    ),
    "owner-beside-a-hostile-name": (
        '{"format": 3, "record": {"taken": {}, "activated": {},'
        ' "owner": {"model": "m", "unit": "gpu/0", "principal": "a/b/0"}}}'
    ),
    "format-around-damage": '{"format": 2, "record": {"taken": {"x": null}, "activated": {}}}',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_named_with_the_way_out(tmp_path: pathlib.Path, text: str):
    path_of(tmp_path).parent.mkdir(parents=True)
    path_of(tmp_path).write_text(text)
    for look in (record.read, read_others):
        application = "pci-passthrough" if look is record.read else "qat"
        with pytest.raises(record.RecordError) as caught:
            look(Site(tmp_path, application))
        message = str(caught.value)
        assert message.startswith("/var/lib/pci-passthrough/pci-passthrough.json is not readable (")
        assert message.endswith(
            "move it away, and what it held is found again from the configuration"
        )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("null", "it holds something else than a record"),
        ('{"format": 4, "record": {"taken": {}}}', "it has no 'activated'"),
        (
            '{"format": 4, "record": {"taken": {}, "activated": {"grub": 5}}}',
            '"grub" has no fingerprint',
        ),
    ],
)
def test_the_reason_is_one_for_people(tmp_path: pathlib.Path, text: str, reason: str):
    path_of(tmp_path).parent.mkdir(parents=True)
    path_of(tmp_path).write_text(text)
    with pytest.raises(record.RecordError, match=re.escape(f"is not readable ({reason}); move")):
        record.read(Site(tmp_path, "pci-passthrough"))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path.name),
        lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), files.LARGEST + 1),
    ],
    ids=["directory", "fifo", "device", "loop", "too large"],
)
def test_what_is_no_file_in_its_place_is_damage_too(
    tmp_path: pathlib.Path, make: Callable[[pathlib.Path], object]
):
    path_of(tmp_path).parent.mkdir(parents=True)
    make(path_of(tmp_path))
    with pytest.raises(record.RecordError, match=r"\.json is not readable \(.*move it away"):
        record.read(Site(tmp_path, "pci-passthrough"))
    with pytest.raises(record.RecordError), record.open(Site(tmp_path, "pci-passthrough")):
        pass


def test_a_copy_of_another_applications_record_is_nobodys(tmp_path: pathlib.Path):
    owner = record.Owner("m", "pci-passthrough/0", "nova-compute/0")
    with record.open(Site(tmp_path, "pci-passthrough")) as ledger:
        ledger.put(record.Record({"0000:83:00.0": None}, {"grub": "x"}, owner=owner))
    path_of(tmp_path).with_name("backup.json").write_text(path_of(tmp_path).read_text())
    assert list(read_others(Site(tmp_path, "qat"))) == ["pci-passthrough"]
    assert read_others(Site(tmp_path, "pci-passthrough")) == {}


@pytest.mark.parametrize("name", ["pci-passthrough.bad.json", "Old.json", "1.json", "a b.json"])
@pytest.mark.parametrize("text", ["", json.dumps({"taken": {}, "activated": {"grub": "x"}})])
def test_a_file_that_no_application_can_have_named_is_nobodys(
    tmp_path: pathlib.Path, name: str, text: str
):
    path_of(tmp_path).parent.mkdir(parents=True)
    path_of(tmp_path).with_name(name).write_text(text)
    assert read_others(Site(tmp_path, "qat")) == {}


def test_a_damaged_record_of_an_application_without_a_file_on_the_host_is_nobodys(
    tmp_path: pathlib.Path,
):
    path_of(tmp_path).parent.mkdir(parents=True)
    path_of(tmp_path).with_name("pci-passthrough-old.json").write_text("{")
    asked: list[str] = []

    def lives(application: str) -> bool:
        asked.append(application)
        return False

    assert record.read_others(Site(tmp_path, "qat"), lives) == {}
    assert asked == ["pci-passthrough-old"]


def test_a_newer_record_is_somebodys_whatever_stands_on_the_host(tmp_path: pathlib.Path):
    path_of(tmp_path).parent.mkdir(parents=True)
    path_of(tmp_path).write_text(json.dumps({"format": record.NEWEST + 1}))
    with pytest.raises(record.NewerRecordError):
        record.read_others(Site(tmp_path, "qat"), lambda application: False)


# The bytes that one commit after the other wrote, 52ee0af the last: none says that it is format 1.
TAKEN = """\
 "taken": {
  "0000:83:00.0": "nouveau",
  "0000:83:00.1": null
 }
}"""
ACTIVATED = """\
{
 "activated": {
  "grub": "bb",
  "initramfs": "aa"
 },
"""
REBOOT = """\
 "reboot": {
  "boot_id": "boot",
  "plan": "plan"
 },
"""
ASKED = record.Reboot("plan", "boot")
FIRST_NOVA = """\
 "nova": {
  "deferred": "dd",
  "read": "cc",
  "run": "ee"
 },
"""
LAST_NOVA = """\
 "nova": {
  "deferred": "dd",
  "made_directory": true,
  "read": "cc",
  "run": "ee"
 },
"""
OLDER = {
    "5f3c552": (ACTIVATED + TAKEN, ONE),
    "dfcb850": (ACTIVATED + REBOOT + TAKEN, dataclasses.replace(ONE, reboot=ASKED)),
    "dfcb850-no-reboot": (ACTIVATED + ' "reboot": null,\n' + TAKEN, ONE),
    "bb93ad1": (
        ACTIVATED + FIRST_NOVA + REBOOT + TAKEN,
        dataclasses.replace(ONE, reboot=ASKED, nova=record.Nova("cc", "dd", "ee")),
    ),
    "52ee0af": (
        ACTIVATED + LAST_NOVA + REBOOT + TAKEN,
        dataclasses.replace(ONE, reboot=ASKED, nova=record.Nova("cc", "dd", "ee", True)),
    ),
    "52ee0af-in-a-rebuild": (
        (ACTIVATED + LAST_NOVA + REBOOT + TAKEN).replace('"aa"', '""'),
        Record(
            ONE.taken,
            {"initramfs": record.DIRTY, "grub": "bb"},
            ASKED,
            record.Nova("cc", "dd", "ee", True),
        ),
    ),
}
# Without an owner, and in use by nobody but the main branch.
SECOND = """\
{
 "activated": {},
 "format": 2,
 "record": {
  "activated": {
   "grub": "bb",
   "initramfs": "aa"
  },
  "nova": {
   "deferred": "dd",
   "made_directory": true,
   "read": "cc",
   "run": "ee"
  },
  "reboot": {
   "boot_id": "boot",
   "plan": "plan"
  },
  "taken": {
   "0000:83:00.0": "nouveau",
   "0000:83:00.1": null
  }
 },
 "taken": {
  "format 2 of a newer charm: refresh, and leave it in place": null
 }
}"""
OLDER["format-2"] = (SECOND, OLDER["52ee0af"][1])
# With an owner, and in use by nobody but the main branch either.
THIRD = """\
{
 "activated": {},
 "format": 3,
 "record": {
  "activated": {
   "grub": "bb",
   "initramfs": "aa"
  },
  "caretaker": {
   "filesystem": "id 7",
   "started": "1:ff"
  },
  "identities": {
   "0000:83:00.0": {
    "id": "10de:1bb0",
    "serial": "00-04-4b-ff-fe-01-02-03"
   }
  },
  "keep": true,
  "nova": {
   "deferred": "dd",
   "made_directory": true,
   "read": "cc",
   "run": "ee"
  },
  "owner": {
   "model": "5f1f3a3b-6b5f-4a9b-8b1a-0c1d2e3f4a5b",
   "principal": "nova-compute/0",
   "unit": "pci-passthrough/0"
  },
  "reboot": {
   "boot_id": "boot",
   "plan": "plan"
  },
  "taken": {
   "0000:83:00.0": "nouveau",
   "0000:83:00.1": null
  }
 },
 "taken": {
  "format 3 of a newer charm: refresh, and leave it in place": null
 }
}"""
LAST = dataclasses.replace(
    OLDER["52ee0af"][1],
    owner=OWNER,
    keep=True,
    caretaker=record.Caretaker("1:ff", "id 7"),
    identities={"0000:83:00.0": {"id": "10de:1bb0", "serial": "00-04-4b-ff-fe-01-02-03"}},
)
OLDER["format-3"] = (THIRD, LAST)
# What is written now. Another shape of it needs another number.
PRESENT = """\
{
 "activated": {},
 "format": 4,
 "record": {
  "activated": {
   "grub": "bb",
   "initramfs": "aa"
  },
  "caretaker": {
   "filesystem": "id 7",
   "started": "1:ff"
  },
  "identities": {
   "0000:83:00.0": {
    "id": "10de:1bb0",
    "serial": "00-04-4b-ff-fe-01-02-03"
   }
  },
  "keep": true,
  "nova": {
   "deferred": "dd",
   "made_directory": true,
   "read": "cc",
   "run": "ee"
  },
  "owner": {
   "model": "5f1f3a3b-6b5f-4a9b-8b1a-0c1d2e3f4a5b",
   "principal": "nova-compute/0",
   "unit": "pci-passthrough/0"
  },
  "reboot": {
   "boot_id": "boot",
   "plan": "plan"
  },
  "taken": {
   "0000:83:00.0": "nouveau",
   "0000:83:00.1": null
  },
  "variants": {
   "0000:83:00.0": "nvgrace_gpu_vfio_pci"
  }
 },
 "taken": {
  "format 4 of a newer charm: refresh, and leave it in place": null
 }
}"""


class TestVfs:
    @pytest.mark.parametrize(
        "entry",
        [record.Vfs(4), record.Vfs(4, "a boot"), record.Vfs(4, autoprobe="1")],
        ids=["made", "found", "halfway"],
    )
    def test_they_are_read_as_they_were_written(self, tmp_path, entry):
        site = Site(tmp_path, "pci-passthrough")
        kept = record.Record(vfs={"0000:3b:00.0": entry})
        with record.open(site) as ledger:
            ledger.put(kept)
        assert record.read(site) == kept
        assert not kept.is_empty
        assert record.find_unknown(site) == ()

    def test_the_card_that_makes_them_is_named(self, tmp_path):
        site = Site(tmp_path, "pci-passthrough")
        card = {"0000:3b:00.0": {"id": "8086:10c9", "serial": "1"}}
        with record.open(site) as ledger:
            ledger.put(record.Record(vfs={"0000:3b:00.0": record.Vfs(4)}, identities=card))
        assert record.read(site).identities == card

    @pytest.mark.parametrize(
        "text",
        [
            '{"x": {"number": 4}}',
            '{"0000:3b:00.0": {"number": "4"}}',
            '{"0000:3b:00.0": {"number": true}}',
            '{"0000:3b:00.0": {"number": 4, "autoprobe": "$(reboot)"}}',
            '{"0000:3b:00.0": {}}',
            '{"0000:3b:00.0": 4}',
            "[]",
        ],
        ids=["address", "number", "truth", "autoprobe", "empty", "bare", "list"],
    )
    def test_a_damaged_one_is_refused(self, tmp_path, text):
        path_of(tmp_path).parent.mkdir(parents=True)
        held = f'{{"taken": {{}}, "activated": {{}}, "vfs": {text}}}'
        path_of(tmp_path).write_text(f'{{"format": 3, "record": {held}}}')
        with pytest.raises(record.RecordError, match="is not readable"):
            record.read(Site(tmp_path, "pci-passthrough"))


class TestLent:
    LENT = dataclasses.replace(
        ONE,
        lent={"0000:85:00.0": record.Loan("10de:1bb0", "00-01", "0000:85:00.0")},
        owner=OWNER,
    )

    def test_is_read_as_it_was_written(self, tmp_path: pathlib.Path):
        put(tmp_path, "pci-passthrough", self.LENT)
        assert record.read(Site(tmp_path, "pci-passthrough")) == self.LENT
        assert not Record(lent=self.LENT.lent).is_empty

    def test_says_a_format_that_a_charm_without_loans_refuses(self, tmp_path: pathlib.Path):
        put(tmp_path, "pci-passthrough", self.LENT)
        data = json.loads(path_of(tmp_path).read_text())
        assert data["format"] == record.NEWEST == record.FORMAT + 1
        first = "format 5 of a newer charm: refresh, and leave it in place"
        assert data["taken"] == {first: None}
        put(tmp_path, "pci-passthrough", ONE)
        assert json.loads(path_of(tmp_path).read_text())["format"] == record.FORMAT

    def test_the_caretaker_knows_it(self, tmp_path: pathlib.Path):
        put(tmp_path, "pci-passthrough", self.LENT)
        assert record.find_unknown(Site(tmp_path, "pci-passthrough")) == ()

    @pytest.mark.parametrize(
        "text",
        [
            '{"x": {"id": "10de:1bb0", "serial": "", "asked": "0000:85:00.0"}}',
            '{"0000:85:00.0": {"id": "10de:1bb0", "serial": "", "asked": "all"}}',
            '{"0000:85:00.0": {"id": "10de:1bb0", "serial": ""}}',
            "[1]",
        ],
    )
    def test_a_damaged_one_is_refused(self, tmp_path: pathlib.Path, text: str):
        path_of(tmp_path).parent.mkdir(parents=True)
        held = f'{{"taken": {{}}, "activated": {{}}, "lent": {text}}}'
        path_of(tmp_path).write_text(f'{{"format": 5, "record": {held}}}')
        with pytest.raises(record.RecordError, match="is not readable"):
            record.read(Site(tmp_path, "pci-passthrough"))

    def test_is_named_for_a_host_with_its_application(self, tmp_path: pathlib.Path):
        put(tmp_path, "pci-passthrough", self.LENT)
        put(tmp_path, "left", dataclasses.replace(self.LENT, owner=None))
        path_of(tmp_path, "damaged").write_text("{")
        path_of(tmp_path, "No Name").write_text("{")
        assert record.lent_on(tmp_path) == {"0000:85:00.0": "pci-passthrough"}
        assert record.lent_on(tmp_path / "nowhere") == {}


SICK = record.Quarantine("10de:1bb0", "00-04", "off-the-bus", 1_700_000_000, boot="first")
BY_HAND = record.Quarantine("10de:1bb0", "", "", 1_700_000_000)


class TestQuarantine:
    ASIDE = dataclasses.replace(
        ONE,
        nova=record.Nova(read="cc", set_aside=True),
        quarantine={"0000:83:00.0": SICK._replace(well_since=1_700_000_600)},
        due={"0000:84:00.0": SICK},
        accepted={"0000:85:00.0": SICK._replace(why="fatal-errors", accepted=3)},
        restarts=7,
        restarted=1_700_000_300,
    )

    def test_is_read_as_it_was_written(self, tmp_path: pathlib.Path):
        put(tmp_path, "pci-passthrough", self.ASIDE)
        assert record.read(Site(tmp_path, "pci-passthrough")) == self.ASIDE
        assert record.find_unknown(Site(tmp_path, "pci-passthrough")) == ()

    def test_is_remembered_by_itself_and_a_count_is_not(self):
        assert not Record(quarantine={"0000:83:00.0": BY_HAND}).is_empty
        assert Record(restarts=7, restarted=1_700_000_300).is_empty

    @pytest.mark.parametrize(
        ("why", "number"),
        [("off-the-bus", record.FORMAT), ("", record.NEWEST)],
        ids=["by-the-charm", "by-hand"],
    )
    def test_what_an_operator_took_off_no_older_revision_may_forget(
        self, tmp_path: pathlib.Path, why: str, number: int
    ):
        aside = {"0000:83:00.0": SICK._replace(why=why)}
        put(tmp_path, "pci-passthrough", dataclasses.replace(ONE, quarantine=aside))
        assert json.loads(path_of(tmp_path).read_text())["format"] == number

    @pytest.mark.parametrize(
        "text",
        [
            '"quarantine": {"x": {"id": "10de:1bb0", "serial": "", "why": "", "since": 1}}',
            '"due": {"0000:83:00.0": {"id": "10de:1bb0", "serial": "", "why": ""}}',
            '"accepted": {"0000:83:00.0": {"id": "", "serial": "", "why": "", "since": "1"}}',
            '"quarantine": {"0000:83:00.0": {"id": "", "serial": "", "why": "", "since": true}}',
            '"quarantine": [1]',
            '"restarts": -1',
            '"restarted": 1.5',
        ],
    )
    def test_a_damaged_one_is_refused(self, tmp_path: pathlib.Path, text: str):
        path_of(tmp_path).parent.mkdir(parents=True)
        held = f'{{"taken": {{}}, "activated": {{}}, {text}}}'
        path_of(tmp_path).write_text(f'{{"format": 5, "record": {held}}}')
        with pytest.raises(record.RecordError, match="is not readable"):
            record.read(Site(tmp_path, "pci-passthrough"))


class TestFormats:
    @pytest.mark.parametrize(("text", "expected"), OLDER.values(), ids=OLDER)
    def test_every_older_one_is_read_and_brought_forward(self, tmp_path, text, expected):
        path_of(tmp_path).parent.mkdir(parents=True)
        path_of(tmp_path).write_text(text)
        site = Site(tmp_path, "pci-passthrough")
        assert record.read(site) == expected
        with record.open(site) as ledger:
            assert ledger.present == expected
            assert path_of(tmp_path).read_text() == text, "reading writes nothing"
            ledger.update(reboot=expected.reboot)
        assert json.loads(path_of(tmp_path).read_text())["format"] == record.FORMAT
        assert record.read(site) == expected

    def test_what_is_written_now(self, tmp_path: pathlib.Path):
        last = dataclasses.replace(LAST, variants={"0000:83:00.0": "nvgrace_gpu_vfio_pci"})
        put(tmp_path, "pci-passthrough", last)
        assert path_of(tmp_path).read_text() == PRESENT
        assert record.read(Site(tmp_path, "pci-passthrough")) == last

    def test_a_newer_one_is_refused_and_left_alone(self, tmp_path: pathlib.Path):
        path_of(tmp_path).parent.mkdir(parents=True)
        newer = PRESENT.replace('"format": 4', '"format": 6').replace("nouveau", "~")
        path_of(tmp_path).write_text(newer)
        for look in (record.read, read_others):
            application = "pci-passthrough" if look is record.read else "qat"
            with pytest.raises(record.NewerRecordError) as caught:
                look(Site(tmp_path, application))
            assert str(caught.value) == (
                "/var/lib/pci-passthrough/pci-passthrough.json is in format 6, of a newer revision"
                " of this charm; this one reads up to 5, so it does nothing to the host:"
                " refresh the charm to that revision, and leave the file in place"
            )
        with (
            pytest.raises(record.NewerRecordError),
            record.open(Site(tmp_path, "pci-passthrough")),
        ):
            pass
        assert path_of(tmp_path).read_text() == newer

    def test_the_first_release_refuses_it_in_words(self, tmp_path: pathlib.Path):
        """As 52ee0af reads a record; tests/functional/test_upgrade.py shows that charm itself."""
        data = json.loads(PRESENT)
        with pytest.raises(ValueError, match="is not the address of a function") as caught:
            record._parse(data)
        assert str(caught.value) == (
            '"format 4 of a newer charm: refresh, and leave it in place" is not the address of a'
            " function"
        )


@pytest.mark.parametrize("name", ["a", "pci-passthrough", "gpu2", "a-b2c-d"])
def test_application_names_of_juju_are_taken(name: str):
    assert naming.check_application(name) == name


@pytest.mark.parametrize("name", ["a/0", "pci-passthrough/12"])
def test_unit_names_of_juju_are_taken(name: str):
    assert naming.check_unit(name) == name


@pytest.mark.parametrize("name", ["", "a", "a/", "/0", "a/01", "a/-1", "a/0/0", "../0", "a/0\n"])
def test_other_names_are_no_unit(name: str):
    with pytest.raises(ValueError, match="is not the name of a Juju unit"):
        naming.check_unit(name)


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "A", "a_b", "-a", "a-", "a-2", "2a", "a\n", "$(x)", "a b", "é"]
)
def test_other_names_reach_no_path(tmp_path: pathlib.Path, name: str):
    with pytest.raises(ValueError, match="is not the name of a Juju application"):
        naming.check_application(name)
    with pytest.raises(ValueError, match="is not the name of a Juju application"):
        put(tmp_path, name, ONE)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_plain_json_for_a_person_to_read(tmp_path: pathlib.Path):
    put(tmp_path, "pci-passthrough", ONE)
    content = json.loads(path_of(tmp_path).read_text())["record"]
    assert content["taken"] == {"0000:83:00.0": "nouveau", "0000:83:00.1": None}
    assert content["activated"] == {"grub": "bb", "initramfs": "aa"}


class TestLedger:
    """Each step is on the disk before the next effect, and touches nothing but its own part."""

    FULL = Record(
        {"0000:83:00.0": "nouveau"},
        {"initramfs": "aa", "grub": "bb"},
        record.Reboot("plan", "boot"),
        record.Nova(read="cc", made_directory=True),
    )

    @pytest.fixture
    def site(self, tmp_path: pathlib.Path) -> Site:
        put(tmp_path, "pci-passthrough", self.FULL)
        return Site(tmp_path, "pci-passthrough")

    def test_holds_what_the_file_holds(self, site: Site):
        with record.open(site) as ledger:
            assert ledger.present == record.read(site) == self.FULL
            assert ledger.site == site

    def test_functions_enter_and_their_rebuilds_are_under_way(self, site: Site):
        with record.open(site) as ledger:
            ledger.enter({"0000:84:00.0": None}, ["initramfs"])
            assert ledger.present == record.read(site)
        assert record.read(site) == dataclasses.replace(
            self.FULL,
            taken={"0000:83:00.0": "nouveau", "0000:84:00.0": None},
            activated={"initramfs": record.DIRTY, "grub": "bb"},
        )

    @pytest.mark.parametrize(
        ("digest", "activated"),
        [("dd", {"initramfs": "dd", "grub": "bb"}), (None, {"grub": "bb"})],
        ids=["with-files", "without"],
    )
    def test_a_rebuild_that_is_done(self, site: Site, digest, activated):
        with record.open(site) as ledger:
            ledger.enter({}, ["initramfs"])
            ledger.rebuilt("initramfs", digest)
            assert ledger.present == record.read(site)
        assert record.read(site) == dataclasses.replace(self.FULL, activated=activated)

    def test_one_field_leaves_the_others(self, site: Site):
        with record.open(site) as ledger:
            ledger.update(nova=record.Nova())
            ledger.update(reboot=None)
        assert record.read(site) == dataclasses.replace(self.FULL, nova=record.Nova(), reboot=None)

    def test_what_the_disk_does_not_take_is_not_held(self, site: Site, monkeypatch):
        def refuse(*_: object):
            raise OSError(errno.ENOSPC, "No space left on device")

        with record.open(site) as ledger:
            with monkeypatch.context() as patch:
                patch.setattr(files, "ensure", refuse)
                with pytest.raises(OSError, match="No space"):
                    ledger.update(reboot=None)
            assert ledger.present == record.read(site) == self.FULL

    def test_a_damaged_record_is_not_opened(self, site: Site):
        path_of(site.root).write_text("{")
        with pytest.raises(record.RecordError, match="is not readable"), record.open(site):
            pass
        assert path_of(site.root).read_text() == "{"


TOOK = {"0000:83:00.0": "nouveau", "0000:84:00.0": None}


class TestInherited:
    """What a revision took whose items claimed more than those of today."""

    def test_is_all_that_an_older_format_has(self, tmp_path: pathlib.Path):
        path_of(tmp_path).parent.mkdir(parents=True)
        path_of(tmp_path).write_text(json.dumps({"taken": TOOK, "activated": {}}))
        site = Site(tmp_path, "pci-passthrough")
        assert record.read(site).inherited == TOOK.keys()

    @pytest.mark.parametrize("kept", [(), ("0000:84:00.0",)])
    def test_is_what_a_run_has_left_of_it(self, tmp_path: pathlib.Path, kept: tuple[str, ...]):
        site = Site(tmp_path, "pci-passthrough")
        with record.open(site) as ledger:
            ledger.put(record.Record(taken=TOOK, inherited=frozenset(kept)))
        assert record.read(site).inherited == frozenset(kept)
        assert record.find_unknown(site) == ()


class TestForgettable:
    """What stands for nothing on the host is named beside the record, for a former caretaker."""

    SICK = record.Quarantine("10de:1bb0", "", "off-the-bus", 1)
    ALL = dataclasses.replace(
        ONE,
        inherited=frozenset({"0000:83:00.0"}),
        variants={"0000:83:00.0": "nvgrace_gpu_vfio_pci"},
        vfs={"0000:3b:00.0": record.Vfs(2)},
        lent={"0000:84:00.0": record.Loan("10de:1bb0", "", "0000:84:00.0")},
        missing={"0000:85:00.0": {"id": "10de:1bb0", "serial": ""}},
        quarantine={"0000:83:00.0": SICK},
        due={"0000:83:00.0": SICK},
        accepted={"0000:83:00.0": SICK},
        restarts=1,
        restarted=2,
        exporter="1",
        erasing={"0000:83:00.0": record.BEGUN},
        shapes={"0000:83:00.0": record.Shape("pci:v")},
    )
    # Of the rest something stands on the host: a driver, a VF, a file, a disk on the way.
    NEVER = ("variants", "vfs", "lent", "exporter", "erasing")

    def test_is_named(self, tmp_path: pathlib.Path):
        put(tmp_path, "pci-passthrough", self.ALL)
        written = json.loads(path_of(tmp_path).read_text())
        plain = set(json.loads(self.written_of(tmp_path, ONE))["record"])
        assert set(written["forgettable"]) == written["record"].keys() - plain - {*self.NEVER}
        assert set(self.NEVER) <= written["record"].keys()

    def test_none_is_named_where_there_is_none(self, tmp_path: pathlib.Path):
        assert "forgettable" not in json.loads(self.written_of(tmp_path, ONE))

    def written_of(self, root: pathlib.Path, known: record.Record) -> str:
        put(root, "pci-passthrough", known)
        return path_of(root).read_text()


class TestErasing:
    """An erase that has not come to its end is kept, and no revision without it reads that."""

    MARKED = dataclasses.replace(ONE, erasing={"0000:83:00.0": record.BEGUN})

    def test_is_read_again(self, tmp_path: pathlib.Path):
        put(tmp_path, "pci-passthrough", self.MARKED)
        assert record.read(Site(tmp_path, "pci-passthrough")) == self.MARKED
        assert json.loads(path_of(tmp_path).read_text())["format"] == record.NEWEST
        assert record.find_unknown(Site(tmp_path, "pci-passthrough")) == ()

    def test_without_one_the_format_is_as_before(self, tmp_path: pathlib.Path):
        put(tmp_path, "pci-passthrough", ONE)
        written = json.loads(path_of(tmp_path).read_text())
        assert written["format"] == record.FORMAT
        assert "erasing" not in written["record"]

    @pytest.mark.parametrize("text", ["[1]", "5", '"x"', '{"83:00.0": "begun"}', "null"])
    def test_what_is_none_is_refused(self, tmp_path: pathlib.Path, text: str):
        held = f'{{"taken": {{}}, "activated": {{}}, "erasing": {text}}}'
        path_of(tmp_path).parent.mkdir(parents=True)
        path_of(tmp_path).write_text(f'{{"format": 5, "record": {held}}}')
        with pytest.raises(record.RecordError, match="is not readable"):
            record.read(Site(tmp_path, "pci-passthrough"))
