"""What the options of a kernel's command line bring about, by the kernel's own rules. Pure.

Sources: parse_args() and next_arg() of the kernel's lib/cmdline.c, iommu_setup() of
arch/x86/kernel/pci-dma.c, intel_iommu_setup() and parse_amd_iommu_options() of drivers/iommu, and
setup_irqremap() of drivers/iommu/irq_remapping.c.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

# Sub-options of which the last one counts; the others add up. The kernel compares beginnings.
_RIVALS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "intel_iommu": (("on", "off"), ("sm_on", "sm_off")),
    "iommu": (("pt", "nopt"), ("force", "noforce"), ("merge", "nomerge"), ("panic", "nopanic")),
    "intremap": (("on", "off"),),
}
# The kernel takes the last value of these options as a whole.
_WHOLE = ("vfio_iommu_type1.allow_unsafe_interrupts",)
# The ACPI table of an IOMMU → the options of which a part that begins with "off" leaves it off,
# whatever comes later. intel_iommu is none of them: a later "on" turns that one on.
_FOR_GOOD = {"DMAR": ("iommu",), "IVRS": ("iommu", "amd_iommu")}
# iommu_setup() reads no further behind this part.
_STOPS = "usedac"
# Options without which an x86 kernel has no interrupt remapping; intremap=on undoes none of the
# last three.
_WITHOUT_REMAPPING = ("nointremap", "noapic", "nolapic", "disableapic")
_BLACKLISTS = ("module_blacklist", "modprobe.blacklist", "rd.driver.blacklist")


# What comes behind it goes to PID 1.
END = "--"


class Effect(NamedTuple):
    """What one option does, of those options that can revoke one another.

    Attributes:
        about: what it decides: the option, and the sub-options of which the last one counts.
        value: the sub-option, or the value of the whole option.
        token: the option as it stands on the line.
    """

    about: tuple[str, ...]
    value: str
    token: str


def own(tokens: Iterable[str]) -> Iterator[str]:
    """Give the tokens that are the kernel's own: those behind a lone ``--`` go to PID 1."""
    return itertools.takewhile(lambda each: each != END, tokens)


def effects(tokens: Iterable[str]) -> dict[tuple[str, ...], Effect]:
    """Work out what is in force of the options that can revoke one another.

    Args:
        tokens: a command line, in order.

    Returns:
        For everything that one of them decides, what the last one says of it.
    """
    found: dict[tuple[str, ...], Effect] = {}
    for token in own(tokens):
        name, parts = _split(token)
        if name in _WHOLE:
            found[(name,)] = Effect((name,), ",".join(parts), token)
        for part in parts if name in _RIVALS else ():
            for about, value in _decided(name, part):
                found[about] = Effect(about, value, token)
    return found


def revoked(wanted: Iterable[str], tokens: Iterable[str]) -> tuple[Effect, Effect] | None:
    """Find the first of our options that another one on the line revokes; None where none does.

    Args:
        wanted: our options, in order; of several about one thing the last is meant.
        tokens: the command line, in order.

    Returns:
        What we want, and what is in force instead.
    """
    there = effects(tokens)
    for about, effect in effects(wanted).items():
        if about in there and there[about].value != effect.value:
            return effect, there[about]
    return None


def is_in_force(token: str, wanted: Iterable[str], tokens: Iterable[str]) -> bool:
    """Tell whether a command line has all the effects of one of our options.

    Args:
        token: the option, one that has effects as `effects` knows them.
        wanted: all of our options, in order: what a later one of them revokes is not missed.
        tokens: the command line, in order.
    """
    meant, there = effects(wanted), effects(tokens)
    return all(
        about in there and there[about].value == meant[about].value for about in effects([token])
    )


def has_effects(token: str) -> bool:
    """Tell whether `effects` knows an option by more than its spelling."""
    return bool(effects([token]))


def starts_iommu(tokens: Iterable[str]) -> bool | None:
    """Tell whether Intel's IOMMU is told to be on or off; None where it is told neither."""
    found = effects(tokens).get(_INTEL)
    return found.value == "on" if found else None


def leaves_iommu_off(tokens: Iterable[str], table: str | None) -> str:
    """Give the option that leaves the IOMMU off for good; empty where none does.

    Args:
        tokens: a command line, in order.
        table: the ACPI table that announces the IOMMU; Arm's knows no such option.
    """
    for token in own(tokens):
        name, parts = _split(token)
        if name in _FOR_GOOD.get(table or "", ()):
            if name == "iommu" and _STOPS in parts:
                parts = parts[: parts.index(_STOPS)]
            if any(part.startswith("off") for part in parts):
                return token
    return ""


def leaves_remapping_off(tokens: Iterable[str], table: str | None) -> str:
    """Give the option for which interrupts are not remapped; empty where there is none.

    Args:
        tokens: a command line, in order.
        table: the ACPI table that announces the IOMMU.
    """
    tokens = tuple(own(tokens))
    found = effects(tokens).get(("intremap", "on", "off"))
    if found and found.value == "off":
        return found.token
    lone = (token for token in tokens if token in _WITHOUT_REMAPPING)
    return next(lone, "") or leaves_iommu_off(tokens, table)


def hides_tables(tokens: Iterable[str]) -> str:
    """Give the option for which the kernel reads no ACPI table; empty where there is none."""
    return next((token for token in own(tokens) if _split(token) == ("acpi", ("off",))), "")


def keeps_off_module(tokens: Iterable[str], module: str) -> str:
    """Give the option that keeps a module off; empty where none does.

    Args:
        tokens: a command line, in order.
        module: the module's name, with ``_`` for ``-``.
    """
    for token in own(tokens):
        name, parts = _split(token)
        named = [part.replace("-", "_") for part in parts]
        if name in _BLACKLISTS and module in named:
            return token
    return ""


def setter(tokens: Iterable[str], name: str) -> str:
    """Give the last token that sets an option of this name, ``_`` for ``-``; empty for none."""
    found = [token for token in own(tokens) if _split(token)[0] == name]
    return found[-1] if found else ""


_INTEL = ("intel_iommu", "on", "off")


def _split(token: str) -> tuple[str, tuple[str, ...]]:
    """Split an option into its name, ``-`` as ``_``, and the parts of its value without quotes."""
    name, _, value = token.replace('"', "").partition("=")
    return name.replace("-", "_"), tuple(part for part in value.split(",") if part)


def _decided(name: str, part: str) -> Iterator[tuple[tuple[str, ...], str]]:
    for rivals in _RIVALS[name]:
        for rival in rivals:
            if part.startswith(rival):
                yield (name, *rivals), rival
                return
    yield (name, part), part
