"""An error is one sentence as text, and each of its parts by name: nobody takes the text apart."""

from __future__ import annotations

import pytest

from passthrough import errors
from passthrough.planning import prerequisites

GPU = "0000:83:00.0"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.PassthroughError("is wrong"), "is wrong"),
        (errors.PassthroughError("is wrong", "mend it"), "is wrong; mend it"),
        (errors.OptionError("devices", "is wrong"), "devices: is wrong"),
        (
            errors.OptionError("devices", "is wrong", "item 1 a; b: c", "mend it"),
            "devices: item 1 a; b: c: is wrong; mend it",
        ),
        (errors.BindError(GPU, "is wrong"), f"{GPU}: is wrong"),
        (errors.StuckError(GPU, "is wrong", "mend it"), f"{GPU}: is wrong; mend it"),
        (
            errors.BindError(GPU, "is wrong", left="it is on nouveau"),
            f"{GPU}: is wrong; it is on nouveau",
        ),
        (prerequisites.UnsupportedHostError("is wrong"), "is wrong. Nothing was changed"),
        (
            prerequisites.UnsupportedHostError("is wrong", "mend it", cause="it broke"),
            "is wrong: it broke; mend it. Nothing was changed",
        ),
    ],
    ids=str,
)
def test_the_parts_make_one_sentence(error: errors.PassthroughError, text: str):
    assert str(error) == text
    assert error.fact == "is wrong"
    assert error.way_out == ("mend it" if "mend it" in text else "")


def test_the_reason_of_an_option_names_neither_option_nor_item():
    error = errors.OptionError("devices", "is wrong", "item 1", "mend it")
    assert error.reason == "is wrong; mend it"


def test_what_is_behind_a_stuck_driver_says_whom_it_waits_for():
    error = errors.PostponedError.after(errors.StuckError(GPU, "sleeps"), "0000:84:00.0")
    assert error.fact == f"left alone, as {GPU} does not come loose"
