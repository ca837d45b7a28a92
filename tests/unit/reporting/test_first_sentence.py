"""Juju's table cuts a status at 120 bytes, so its first sentence has to say what is wrong.

The texts are those of docs/reference/statuses.md, which another test holds to the code's own.
"""

from __future__ import annotations

import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs/reference/statuses.md"
MOST = 110
# As long as an address, which stands for what most of the parts are.
PART = "0000:83:00.0"
# What is still longer, by a stretch of its own. A row goes when its text gets shorter; none comes.
TOO_LONG = {
    "and now … (process …) and … more does",
    "is SR-IOV capable, so Nova calls it … and alias",
    "in which the firmware reserves memory",
    "is a part of a card that item … asks for",
    "and not claimed, and would lose it at the next boot",
    "sets GRUB_CMDLINE_LINUX_DEFAULT outright",
    "run update-grub, and see which entry GRUB_DEFAULT names",
    "where the kernel reads no option of its own any more",
    "failed with exit code",
    "of a newer revision of this charm",
    "Nova takes a PF or its VFs, not both",
    "all VFs of … need the same",
    "one-time-use is for whole devices",
    "Nova takes one-time-use only where",
}


def messages() -> list[str]:
    """The messages of the page's tables, without the other forms in parentheses that they name."""
    found: list[str] = []
    for row in re.findall(r"(?m)^\| (.+) \|$", PAGE.read_text(encoding="utf-8")):
        cells = row.split(" | ")
        message = cells[1] if len(cells) == 3 else cells[0]
        if message not in ("message", "---"):
            found.append(re.sub(r" \((?:or: |rebuilds ).*\)", "", message))
    return found


def first_sentence(message: str) -> str:
    return re.split(r"; |\. ", message.replace("…", PART))[0]


def test_it_fits_but_for_those_that_are_known():
    found = messages()
    assert len(found) > 100
    long = [each for each in found if len(first_sentence(each).encode()) > MOST]
    new = [each for each in long if not any(known in each for known in TOO_LONG)]
    assert new == []
    gone = [known for known in TOO_LONG if not any(known in each for each in long)]
    assert gone == []


def test_the_most_common_ones_fit_with_room():
    """What every deployment sees before it is ready, or when a device goes wrong."""
    found = [first_sentence(each) for each in messages()]
    for beginning in (
        "devices is not set",
        "reboot required: the IOMMU",
        "waiting for a principal",
    ):
        (said,) = [each for each in found if each.startswith(beginning)]
        assert len(said.encode()) <= MOST - 20
