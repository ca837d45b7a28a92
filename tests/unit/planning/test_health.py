"""Whether a function is sick, by what the kernel tells of it."""

from __future__ import annotations

from typing import Any

import pytest

from passthrough.host.health import Answer, Errors, Power, Severity, Signs
from passthrough.planning import health
from passthrough.planning.health import Kind, Verdict

ADDRESS = "0000:81:00.0"
WELL = {"power": Power.AWAKE, "answer": Answer.GOOD}


def judge(**signs: Any) -> health.Health:
    return health.judge(ADDRESS, Signs(**signs))


def errors(severity: Severity, total: int) -> dict[Severity, Errors]:
    return {severity: Errors(total, ("DLP",))}


@pytest.mark.parametrize(
    ("signs", "verdict", "kinds"),
    [
        ({}, Verdict.UNKNOWN, []),
        (WELL, Verdict.WELL, []),
        ({"power": Power.ASLEEP}, Verdict.UNKNOWN, []),
        ({"power": Power.ASLEEP, "answer": Answer.GOOD}, Verdict.WELL, []),
        ({"power": Power.ASLEEP, "answer": Answer.ONES}, Verdict.SICK, [Kind.OFF_THE_BUS]),
        ({"power": Power.AWAKE}, Verdict.UNKNOWN, []),
        ({**WELL, "answer": Answer.ONES}, Verdict.SICK, [Kind.OFF_THE_BUS]),
        ({**WELL, "errors": errors(Severity.FATAL, 0)}, Verdict.WELL, []),
        ({**WELL, "errors": errors(Severity.FATAL, 1)}, Verdict.SICK, [Kind.FATAL_ERRORS]),
        (
            {"power": Power.ASLEEP, "errors": errors(Severity.FATAL, 1)},
            Verdict.SICK,
            [Kind.FATAL_ERRORS],
        ),
        ({**WELL, "errors": errors(Severity.NONFATAL, 10)}, Verdict.WELL, []),
        ({**WELL, "errors": errors(Severity.NONFATAL, 11)}, Verdict.ALERT, [Kind.NONFATAL_ERRORS]),
        ({**WELL, "errors": errors(Severity.CORRECTABLE, 1000)}, Verdict.WELL, []),
        (
            {**WELL, "errors": errors(Severity.CORRECTABLE, 1001)},
            Verdict.ALERT,
            [Kind.CORRECTABLE_ERRORS],
        ),
        ({**WELL, "width": 8, "widest": 16}, Verdict.ALERT, [Kind.NARROW_LINK]),
        ({**WELL, "width": 8, "widest": 8}, Verdict.WELL, []),
        ({**WELL, "width": 8}, Verdict.WELL, []),
        ({**WELL, "widest": 8}, Verdict.WELL, []),
        ({**WELL, "has_power_error": True}, Verdict.ALERT, [Kind.POWER_ERROR]),
        (
            {"power": Power.ASLEEP, "has_power_error": True, "is_closed": True},
            Verdict.SICK,
            [Kind.CANNOT_WAKE],
        ),
        ({**WELL, "reset_methods": ()}, Verdict.WELL, [Kind.NO_RESET]),
        ({**WELL, "reset_methods": ("flr",)}, Verdict.WELL, []),
        ({"power": Power.ASLEEP, "reset_methods": ()}, Verdict.UNKNOWN, [Kind.NO_RESET]),
    ],
)
def test_verdicts(signs, verdict: Verdict, kinds: list[Kind]):
    found = judge(**signs)
    assert found.verdict is verdict
    assert [each.kind for each in found.findings] == kinds


@pytest.mark.parametrize(
    ("total", "accepted", "verdict"),
    [(2, 0, Verdict.SICK), (2, 2, Verdict.WELL), (3, 2, Verdict.SICK), (1, 2, Verdict.SICK)],
    ids=["none", "as-many", "more", "counted-anew"],
)
def test_fatal_errors_that_an_operator_has_accepted(total: int, accepted: int, verdict: Verdict):
    signs = Signs(**WELL, errors=errors(Severity.FATAL, total))
    found = health.judge_all({ADDRESS: signs}, {}, {ADDRESS: accepted})
    assert found[ADDRESS].verdict is verdict


def test_the_worst_comes_first():
    found = judge(
        power=Power.AWAKE,
        answer=Answer.ONES,
        errors={
            Severity.CORRECTABLE: Errors(5000, ("RxErr",)),
            Severity.FATAL: Errors(2, ("DLP", "SDES")),
        },
        width=1,
        widest=16,
        reset_methods=(),
    )
    assert found.verdict is Verdict.SICK
    assert [(each.kind, each.detail) for each in found.findings] == [
        (Kind.OFF_THE_BUS, "its configuration space reads as ones"),
        (Kind.FATAL_ERRORS, "2 since the kernel found it: DLP, SDES"),
        (Kind.CORRECTABLE_ERRORS, "5000 since the kernel found it: RxErr"),
        (Kind.NARROW_LINK, "x1, and x16 is possible"),
        (Kind.NO_RESET, ""),
    ]
    assert found.worst == found.findings[0]


def test_a_note_is_nothing_bad():
    assert judge(**WELL, reset_methods=()).worst is None


def test_errors_without_names_are_counted():
    found = judge(**WELL, errors={Severity.FATAL: Errors(1)})
    assert found.findings[0].detail == "1 since the kernel found it"


def test_a_missing_function_is_sick_and_named():
    found = health.judge_missing(ADDRESS, "10de:1bb0", "00-04-4b")
    assert found.verdict is Verdict.SICK
    assert found.findings[0].detail == "10de:1bb0 was there, serial number 00-04-4b"
    assert health.judge_missing(ADDRESS, "10de:1bb0").findings[0].detail == "10de:1bb0 was there"


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_words_and_a_way_out(kind: Kind):
    found = health.Finding(kind)
    assert found.fact
    assert found.way_out
    assert not any(character.isdigit() for character in found.fact), "a status would change"


def test_what_comes_and_goes_by_itself_is_no_matter_for_a_status():
    assert [each for each in Kind if not health.Finding(each).lasts] == [Kind.NARROW_LINK]
