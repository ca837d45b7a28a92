"""Options: refused with one clean line, or harmless to the last byte that would be written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fuzz import judge, mutation
from passthrough import fields, options, support

pytestmark = pytest.mark.faults

DEVICES = 60_000
OTHERS = 20_000
# Were nearly everything refused, nothing would be judged.
LEAST_ACCEPTED = 1_000


def _check_refusal(error: fields.OptionError, *options: str) -> None:
    assert error.option in options
    judge.check_message(error)


def _judge(config: dict[str, object], option: str) -> bool:
    """Parse one configuration and judge what it would write; tell whether it was accepted."""
    try:
        wanted = options.parse(config)
    except fields.OptionError as error:
        _check_refusal(error, option)
        return False
    for generator in judge.GENERATORS:
        try:
            judge.check_boot_files(wanted, generator)
            judge.check_nova(wanted)
        except fields.OptionError as error:
            # Two items for one function, and a driver that the host needs, show on a host alone.
            _check_refusal(error, "devices", "blacklist-drivers")
        except support.UnsupportedHostError as error:
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
