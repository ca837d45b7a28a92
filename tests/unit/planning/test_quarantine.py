"""What is kept off Nova's offer, decided on claims, signs and the time alone."""

from __future__ import annotations

from typing import Any

import pytest
from harness import made
from harness.constants import GPU_ID

from passthrough import frozen
from passthrough.config import devices
from passthrough.host.health import Answer, Errors, Power, Severity, Signs
from passthrough.planning import claims, health, quarantine
from passthrough.state.record import Quarantine, Record

ADDRESS = "0000:83:00.0"
WANTED = devices.parse(f"gpu={GPU_ID}@{ADDRESS}")
OUTCOME = claims.decide(WANTED, made.host(*made.gpus("83", driver="vfio-pci")))
WELL = Signs(power=Power.AWAKE, answer=Answer.GOOD)
DEAD = Signs(power=Power.AWAKE, answer=Answer.ONES)
ASLEEP = Signs(power=Power.ASLEEP)
NOW, BOOT = 1_790_000_000, "this"
SICK = Quarantine(GPU_ID, "", "off-the-bus", NOW - 60, boot=BOOT)
NOBODY = claims.Outcome(host=OUTCOME.host)


def decide(known: Record, signs: Signs = WELL, outcome: claims.Outcome = OUTCOME, **given: Any):
    """Decide on a host where the GPU tells these signs, and its companion is well."""
    told = {each.address: WELL for each in outcome.claims}
    if ADDRESS in told:
        told[ADDRESS] = signs
    seen = quarantine.Seen(
        known, {}, health.judge_all(told, {}), {ADDRESS}, {ADDRESS}, BOOT, NOW
    )._replace(**given)
    return quarantine.decide(WANTED, outcome, seen, lambda _: ())


def test_nothing_concerns_a_host_that_is_well():
    judged = health.judge_all({ADDRESS: WELL}, {}).values()
    assert not quarantine.concerns(Record(), judged)
    assert quarantine.concerns(Record(due={ADDRESS: SICK}), judged)
    assert quarantine.concerns(Record(), health.judge_all({ADDRESS: DEAD}, {}).values())


def test_what_is_written_is_what_differs():
    known = Record(restarts=3)
    found = quarantine.note(known, decide(known, DEAD), NOW)
    assert set(quarantine.changes(known, found)) == {"quarantine", "restarted", "nova"}
    assert found.restarted == NOW
    assert quarantine.changes(found, found) == {}


@pytest.mark.parametrize("outcome", [OUTCOME, NOBODY], ids=["claimed", "refused-for-now"])
def test_what_is_kept_and_due_outlives_a_claim_that_is_refused(outcome: claims.Outcome):
    for known in (Record(quarantine={ADDRESS: SICK}), Record(due={ADDRESS: SICK})):
        found = decide(frozen.replace(known, restarted=NOW), ASLEEP, outcome)
        assert (found.quarantine, found.due) == (known.quarantine, known.due)
        assert not found.is_told


def test_host_exceptions_end_it():
    wanted = frozen.replace(WANTED, excepted=(ADDRESS,))
    seen = quarantine.Seen(Record(quarantine={ADDRESS: SICK}), {}, {}, (), (), BOOT, NOW)
    assert quarantine.decide(wanted, NOBODY, seen, lambda _: ()).quarantine == {}


@pytest.mark.parametrize(
    ("why", "signs", "is_gone"),
    [
        ("off-the-bus", WELL, True),
        ("off-the-bus", ASLEEP, False),
        ("off-the-bus", Signs(power=Power.AWAKE), False),
        ("fatal-errors", ASLEEP, False),
        ("fatal-errors", Signs(errors={Severity.FATAL: Errors(0)}), True),
        ("cannot-wake", Signs(), False),
        ("cannot-wake", ASLEEP, True),
        ("missing", ASLEEP, True),
    ],
)
def test_each_cause_has_its_own_evidence_that_it_is_gone(why: str, signs: Signs, is_gone: bool):
    found = decide(Record(quarantine={ADDRESS: SICK._replace(why=why)}), signs)
    assert bool(found.quarantine[ADDRESS].well_since) is is_gone
    other_boot = SICK._replace(why=why, boot="former")
    found = decide(Record(quarantine={ADDRESS: other_boot}), signs)
    assert found.quarantine[ADDRESS].well_since == NOW


def test_what_made_a_companion_sick_is_asked_of_the_companion():
    audio = OUTCOME.addresses[1]
    known = Record(quarantine={ADDRESS: SICK._replace(companion=audio)})
    assert decide(known, ASLEEP).quarantine[ADDRESS].well_since == NOW
    alone = frozen.replace(OUTCOME, claims=OUTCOME.claims[:1])
    assert decide(known, ASLEEP, alone).quarantine[ADDRESS].well_since == NOW


def test_another_sickness_is_another_cause():
    known = Record(quarantine={ADDRESS: SICK._replace(why="fatal-errors", well_since=NOW - 5)})
    entry = decide(known, DEAD).quarantine[ADDRESS]
    assert (entry.why, entry.well_since, entry.since) == ("off-the-bus", 0, SICK.since)


def test_a_missing_card_is_known_by_what_was_there():
    card = {"id": GPU_ID, "serial": "00-01"}
    judged = {ADDRESS: health.judge_missing(ADDRESS, GPU_ID)}
    gone = claims.Outcome(host=made.host())
    found = decide(
        Record(missing={ADDRESS: card}), outcome=gone, missing={ADDRESS: card}, health=judged
    )
    assert (found.due[ADDRESS].serial, found.due[ADDRESS].why) == ("00-01", "missing")
    assert found.quarantine == {}


def test_a_clock_that_was_set_back_begins_anew():
    known = Record(quarantine={ADDRESS: SICK._replace(well_since=NOW + 10**6)}, restarted=NOW + 9)
    found = decide(known, ASLEEP)
    assert found.quarantine[ADDRESS].well_since == NOW
    late = {ADDRESS: SICK._replace(well_since=NOW - quarantine.WELL_FOR)}
    assert decide(frozen.replace(known, quarantine=late), ASLEEP).quarantine == {}


def test_errors_count_as_accepted_in_their_boot_alone():
    accepted = SICK._replace(why="fatal-errors", accepted=2)
    known = Record(accepted={ADDRESS: accepted, "0000:84:00.0": accepted})
    two = Signs(errors={Severity.FATAL: Errors(2)})
    assert list(decide(known, two).accepted) == [ADDRESS], "nobody asks for the other one"
    assert quarantine.accepted_errors(known, BOOT) == dict.fromkeys(known.accepted, 2)
    assert quarantine.accepted_errors(known, "next") == {}
    assert decide(known, Signs(errors={Severity.FATAL: Errors(1)})).accepted == {}
    assert decide(known, two, boot_id="next").accepted == {}
