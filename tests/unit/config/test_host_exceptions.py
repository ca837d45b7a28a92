"""The option ``host-exceptions``: whose each is, and every refusal in the operator's words."""

from __future__ import annotations

import re

import hypothesis
import pytest
from harness import made
from hypothesis import strategies

from passthrough import errors
from passthrough.config import host_exceptions
from passthrough.config.host_exceptions import HostException

ONE = HostException("compute-7", "0000:83:00.0")


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", ()),
        (" ,\n\t", ()),
        ("compute-7=0000:83:00.0", (ONE,)),
        ("Compute-7=83:00.0", (ONE,)),
        ("compute-7=83:00.0 compute-7=0000:83:00.0", (ONE,)),
        (
            "compute-7=83:00.0, compute-7=84:00.0\r\ncompute-9.maas=*:8[34]:00.?",
            (
                ONE,
                HostException("compute-7", "0000:84:00.0"),
                HostException("compute-9.maas", "*:8[34]:00.?"),
            ),
        ),
        ("# broken fan\ncompute-7=83:00.0 # until May\n", (ONE,)),
        ("\ufeffcompute-7=83:00.0", (ONE,)),
        ("compute_7=10000:01:00.0", (HostException("compute_7", "10000:01:00.0"),)),
    ],
)
def test_parse(text: str, items: tuple[HostException, ...]):
    assert host_exceptions.parse(text) == items


REFUSALS = {
    "an address alone": ("83:00.0", "is not HOST=ADDRESS; write it so: compute-7=0000:83:00.0"),
    "a host alone": ("compute-7", "is not HOST=ADDRESS; write it so: compute-7=0000:83:00.0"),
    "a colon": ("compute-7:83:00.0", "is not HOST=ADDRESS"),
    "no host": ("=83:00.0", '"" is not the name of one host, as hostname prints it'),
    "no address": ("compute-7=", 'address "" is not [DOMAIN:]BUS:SLOT.FUNCTION in hex'),
    "an id": ("compute-7=10de:1bb0", 'address "10de:1bb0" is not [DOMAIN:]BUS:SLOT.FUNCTION'),
    "a unit": (
        "nova-compute/7=83:00.0",
        '"nova-compute/7" is a unit of Juju\'s, which a host outlives; name the host: juju ssh'
        " nova-compute/7 hostname",
    ),
    "a glob of hosts": ("compute-*=83:00.0", '"compute-*" is not the name of one host'),
    "all hosts": ("*=83:00.0", '"*" is not the name of one host'),
    "a shell": ("$(id)=83:00.0", '"$(id)" is not the name of one host'),
    "a trailing dot": ("compute-7.=83:00.0", '"compute-7." is not the name of one host'),
    "two addresses": ("compute-7=83:00.0|84:00.0", 'address "83:00.0|84:00.0" is not'),
}


@pytest.mark.parametrize(("text", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(text: str, reason: str):
    with pytest.raises(errors.OptionError) as caught:
        host_exceptions.parse(f"other=84:00.0, {text}")
    assert str(caught.value).startswith(f'host-exceptions: item 2 "{text}": {reason}')


def test_as_many_as_are_accepted():
    items = [f"compute-{number}=83:00.0" for number in range(257)]
    assert len(host_exceptions.parse(" ".join(items[:256]))) == 256
    with pytest.raises(errors.OptionError, match="there are 257, and at most 256 are accepted"):
        host_exceptions.parse(" ".join(items))


@pytest.mark.parametrize(
    ("named", "host", "same"),
    [
        ("compute-7", "compute-7", True),
        ("compute-7", "Compute-7", True),
        ("compute-7", "compute-7.maas", True),
        ("compute-7.maas", "compute-7", True),
        ("compute-7.maas", "compute-7.maas", True),
        ("compute-7.maas", "compute-7.lab", False),
        ("compute-7", "compute-70", False),
        ("compute-7", "compute", False),
        ("maas", "compute-7.maas", False),
    ],
)
def test_whose_it_is(named: str, host: str, same: bool):
    exceptions = host_exceptions.parse(f"{named}=83:00.0 other=84:00.0")
    assert host_exceptions.of(exceptions, host) == (("0000:83:00.0",) if same else ())


def test_a_host_without_a_name_is_told_so_where_it_matters():
    assert host_exceptions.of((), "") == ()
    with pytest.raises(errors.OptionError, match="this host does not tell its name"):
        host_exceptions.of((ONE,), "")


NEAR = ["compute-7", "=", "83:00.0", "8[34]:00.*", ",", "#", "*", "$(x)", "/", ".", "_", "10000:"]
words = strategies.sampled_from([*NEAR, '"', "'", "\n", " ", "\0", "ä"])


@hypothesis.given(strategies.lists(words, max_size=12).map("".join) | strategies.text())
def test_any_text_is_strict_or_an_option_error(text: str):
    parsed, error = made.attempt(host_exceptions.parse, text)
    for each in parsed or ():
        assert re.fullmatch(r"[a-z0-9._-]+", each.host)
        assert re.fullmatch(r"[][0-9a-f?*:.-]+", each.address)
    if error:
        assert str(error).startswith("host-exceptions: ")
        assert str(error).isascii()
        assert str(error).isprintable()
