"""Options: refused with one clean line, or harmless to the last byte that would be written."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from fuzz import judge, mutation
from passthrough import errors
from passthrough.config import options
from passthrough.planning import prerequisites

pytestmark = pytest.mark.faults

DEVICES = 56_500
OTHERS = 20_000
COMBINED = 2_500
# Were nearly everything refused, nothing would be judged.
LEAST_ACCEPTED = 1_000


def _check_refusal(error: errors.OptionError, *options: str) -> None:
    assert error.option in options
    judge.check_message(error)


def _judge(config: dict[str, object], *changed: str) -> bool:
    """Parse one configuration and judge what it would write; tell whether it was accepted."""
    try:
        wanted = options.parse(config)
    except errors.OptionError as error:
        _check_refusal(error, *changed)
        return False
    for generator in judge.GENERATORS:
        try:
            judge.check_boot_files(wanted, generator)
            judge.check_nova(wanted)
        except errors.OptionError as error:
            # Two items for one function, a driver that the host needs, and whether the host runs
            # with an option that left the list, show on a host alone.
            _check_refusal(error, "devices", "blacklist-drivers", "kernel-options")
            return False
        except prerequisites.UnsupportedHostError as error:
            judge.check_message(error)
    return True


@pytest.fixture(scope="module")
def devices() -> Iterator[str]:
    return mutation.variants("devices", mutation.seeds("devices"), DEVICES)


def test_devices(devices: Iterator[str]):
    accepted = sum(_judge({"devices": text}, "devices") for text in devices)
    assert LEAST_ACCEPTED < accepted < DEVICES


@pytest.mark.parametrize(
    ("option", "corpus", "share"),
    [
        ("kernel-options", "kernel-options", 0.5),
        ("blacklist-drivers", "blacklist-drivers", 0.3),
        ("iommu", "choices", 0.1),
        ("reboot", "choices", 0.1),
    ],
)
def test_other_options(option: str, corpus: str, share: float):
    count = int(OTHERS * share)
    texts = mutation.variants(option, mutation.seeds(corpus), count)
    claim = {"devices": "gpu=10de:1bb0"}
    accepted = sum(_judge({**claim, option: text}, option) for text in texts)
    assert 0 < accepted < count


TEXTS = {
    "devices": ("devices", "gpu=10de:1bb0"),
    "kernel-options": ("kernel-options", "pci=realloc"),
    "blacklist-drivers": ("blacklist-drivers", "nouveau"),
    "iommu": ("choices", "auto"),
    "reboot": ("choices", "when-idle"),
}
SWITCHES = ("iommu-passthrough", "allow-unsafe-interrupts", "report-in-placement")


def test_all_options_together():
    """Three texts of four are good ones, so that what is accepted meets other options too."""
    chance = random.Random("together")  # noqa: S311 - the same inputs on every run, not secrets
    hostile = {
        option: mutation.variants(f"together-{option}", mutation.seeds(corpus), COMBINED)
        for option, (corpus, _) in TEXTS.items()
    }
    accepted = 0
    for _ in range(COMBINED):
        texts = {
            option: next(hostile[option]) if chance.randrange(4) == 0 else good
            for option, (_, good) in TEXTS.items()
        }
        switches = {option: chance.choice((True, False)) for option in SWITCHES}
        accepted += _judge({**texts, **switches}, *texts)
    assert COMBINED // 10 < accepted < COMBINED
