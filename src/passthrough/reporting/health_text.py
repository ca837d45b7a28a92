"""How functions are, in words for people and in values for programs. Pure."""

from __future__ import annotations

from passthrough import TYPE_CHECKING
from passthrough.host.health import Power, Severity
from passthrough.planning import health

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


def found(finding: health.Finding) -> str:
    """One finding with its numbers, said of the function."""
    return f"{finding.fact} ({finding.detail})" if finding.detail else finding.fact


def sick_word(judged: health.Health) -> str:
    """What a function is sick of, such as "sick: fell off the bus"; empty where it is not."""
    one = judged.worst
    return f"{one.verdict}: {one.fact}" if one and one.verdict is health.Verdict.SICK else ""


def sick(judged: Iterable[health.Health]) -> list[str]:
    """Name each function that is sick, with its address."""
    return _name(judged, health.Verdict.SICK)


def alerts(judged: Iterable[health.Health]) -> list[str]:
    """Name each function with an alert that stays until somebody does something."""
    return _name(judged, health.Verdict.ALERT)


def _name(judged: Iterable[health.Health], verdict: health.Verdict) -> list[str]:
    named = ((each.address, each.worst) for each in judged if each.verdict is verdict)
    return [f"{verdict}: {address} {one.fact}" for address, one in named if one and one.lasts]


def sentences(judged: health.Health) -> list[str]:
    """Every finding of a function as a sentence with its way out; notes, too."""
    return [
        f"{each.verdict or 'note'}: {judged.address} {found(each)}; {each.way_out}"
        for each in judged.findings
    ]


def seen(judged: health.Health) -> str:
    """All that was found of a function, or how it is."""
    said = [f"{each.verdict}: {found(each)}" for each in judged.findings if each.verdict]
    notes = [found(each) for each in judged.findings if not each.verdict]
    return "; ".join([*(said or [_state(judged)]), *notes])


def _state(judged: health.Health) -> str:
    if judged.verdict is health.Verdict.WELL:
        return health.Verdict.WELL.value
    return f"{health.Verdict.UNKNOWN}: {_why_unknown(judged)}"


def _why_unknown(judged: health.Health) -> str:
    if judged.signs.power is Power.ASLEEP:
        return "it sleeps, and is not woken"
    if judged.signs.power is Power.AWAKE:
        return "its configuration space cannot be read"
    return "the kernel does not tell whether it sleeps"


def describe(judged: health.Health) -> dict[str, Any]:
    """Describe the health of a function in plain values; null stands for what is not known."""
    signs = judged.signs
    return {
        "verdict": judged.verdict,
        "power": signs.power,
        "answer": signs.answer,
        "errors": _describe_errors(signs.errors),
        "link-width": signs.width,
        "link-width-max": signs.widest,
        "reset-methods": None if signs.reset_methods is None else list(signs.reset_methods),
        "findings": [
            {
                "kind": each.kind,
                "verdict": each.verdict,
                "fact": each.fact,
                "detail": each.detail,
                "fix": each.way_out,
            }
            for each in judged.findings
        ],
    }


def _describe_errors(errors: Mapping[Severity, Any]) -> dict[str, Any]:
    return {each.value: errors[each].total if each in errors else None for each in Severity}
