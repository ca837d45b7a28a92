"""Single values from options: what is taken, as what, and the words with which it is refused."""

from __future__ import annotations

import re

import hypothesis
import pytest
from hypothesis import strategies

from passthrough import errors, pci_address
from passthrough.config import values
from passthrough.system import quoting

# What may never reach a file: it would end a word, a line or a quoted string somewhere.
HOSTILE = [
    pytest.param("\n", id="newline"),
    pytest.param("\r", id="carriage-return"),
    pytest.param("\0", id="nul"),
    pytest.param("$(reboot)", id="command-substitution"),
    pytest.param("`reboot`", id="backticks"),
    pytest.param("${HOME}", id="variable"),
    pytest.param('"', id="double-quote"),
    pytest.param("'", id="single-quote"),
    pytest.param("\\", id="backslash"),
    pytest.param(";", id="semicolon"),
    pytest.param("#", id="hash"),
    pytest.param("/../x", id="path"),
    pytest.param("\u2028", id="line-separator"),
    pytest.param("\u0661", id="arabic-digit"),
    pytest.param("\uff11", id="fullwidth-digit"),
    pytest.param("\u212a", id="kelvin-sign"),
    pytest.param("\udc80", id="lone-surrogate"),
]
READERS = [
    pytest.param(values.read_id, "10de:1bb0", id="id"),
    pytest.param(values.read_alias, "gpu", id="alias"),
    pytest.param(values.read_address, "0000:83:00.0", id="address"),
    pytest.param(values.read_addresses, "0000:83:00.0", id="addresses"),
    pytest.param(values.read_custom_name, "CUSTOM_GPU", id="custom-name"),
    pytest.param(values.read_bool, "true", id="bool"),
    pytest.param(values.read_device_type, "type-PF", id="device-type"),
    pytest.param(values.read_numa_policy, "required", id="numa-policy"),
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(("reader", "good"), READERS)
def test_hostile_text_is_refused_wherever_it_stands(reader, good: str, hostile: str):
    reader(good)
    for text in (good + hostile, hostile + good, good[:3] + hostile + good[3:], hostile):
        with pytest.raises(ValueError, match=r"\w") as caught:
            reader(text)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [None, True, 1, 1.5, [], ["gpu", {}], {}, {"a": "b"}], ids=repr)
@pytest.mark.parametrize(
    ("reader", "good"), [row for row in READERS if row.values[0] is not values.read_addresses]
)
def test_only_text_is_read(reader, good: str, value: object):
    with pytest.raises(ValueError, match="is not a plain word"):
        reader(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10de:1bb0", ("10de", "1bb0")), ("10DE:1BB0", ("10de", "1bb0"))],
    ids=["lower", "upper"],
)
def test_id_is_read_in_lower_case(text: str, expected: tuple[str, str]):
    assert values.read_id(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10de", '"10de" is not VENDOR:PRODUCT, e.g. 10de:1bb0'),
        ("10de:zzzz", 'product id "zzzz" is not four hex digits, e.g. 10de:1bb0'),
        ("10d:1bb0", 'vendor id "10d" is not four hex digits, e.g. 10de:1bb0'),
        ("10de:1bb0:1", 'product id "1bb0:1" is not four hex digits, e.g. 10de:1bb0'),
        (":", 'vendor id "" is not four hex digits, e.g. 10de:1bb0'),
        ("0x10de:1bb0", 'vendor id "0x10de" is not four hex digits, e.g. 10de:1bb0'),
        ("10de:*", 'product id "*" is not four hex digits, e.g. 10de:1bb0'),
    ],
)
def test_id_is_refused_by_the_part_that_is_wrong(text: str, reason: str):
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        values.read_id(text)


@pytest.mark.parametrize("name", ["g", "gpu", "A100-80G.v2_x", "0", "a" * 64])
def test_alias_is_kept_as_it_is(name: str):
    assert values.read_alias(name) == name


@pytest.mark.parametrize("name", ["", "-gpu", ".gpu", "_gpu", "g p", "a" * 65, "gpu:1", "gpu=1"])
def test_alias_that_a_flavor_cannot_hold_is_refused(name: str):
    with pytest.raises(ValueError, match="is not a name of up to 64 letters, digits"):
        values.read_alias(name)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0000:83:00.0", "0000:83:00.0"),
        ("83:00.0", "0000:83:00.0"),
        ("0000:AF:1F.7", "0000:af:1f.7"),
        ("10000:e1:00.0", "10000:e1:00.0"),
        ("8[34]:00.0", "0000:8[34]:00.0"),
        ("0000:8[3-5]:00.?", "0000:8[3-5]:00.?"),
        ("*:*:*.*", "*:*:*.*"),
    ],
)
def test_address_is_read(text: str, address: str):
    assert values.read_address(text) == address
    assert pci_address.is_exact(address) == (not set("*?[") & set(address))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "83",
        "00.0",
        "0000:83:00",
        "0000:83:00.8",
        "0000:83:20.0",
        "000:83:00.0",
        "0000:83:00.0.0",
        "0000:0000:83:00.0",
        "0000:83:00.[",
        "0000:83:00.[]",
        "0000:83:00.[!0]",
        "0000:83:00.]",
        "0000:8g:00.*",
        "123456789:83:00.0",
    ],
)
def test_address_that_is_no_address_is_refused(text: str):
    reason = (
        f"address {quoting.show(text)} is not [DOMAIN:]BUS:SLOT.FUNCTION in hex, such as"
        " 0000:83:00.0 or the glob 0000:8[34]:00.0"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        values.read_address(text)


def test_addresses_keep_their_order_and_lose_repeats():
    given = ["0000:84:00.0", "83:00.0", "0000:84:00.0"]
    assert values.read_addresses(given) == ("0000:84:00.0", "0000:83:00.0")
    assert values.read_addresses("83:00.0") == ("0000:83:00.0",)


@pytest.mark.parametrize("count", [0, 257])
def test_addresses_have_a_sane_number(count: int):
    with pytest.raises(ValueError, match=f"^{count} addresses; give 1 to 256, or leave the key"):
        values.read_addresses([f"0000:{number:02x}:00.*" for number in range(count)])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("custom_b, HW_A custom_b", ("CUSTOM_B", "HW_A")),
        ("HW_A", ("HW_A",)),
        (["custom_b", "HW_A", "CUSTOM_B"], ("CUSTOM_B", "HW_A")),
    ],
    ids=["text", "one", "list"],
)
def test_traits_are_upper_case_sorted_and_single(value: object, expected: tuple[str, ...]):
    assert values.read_traits(value) == expected


@pytest.mark.parametrize("value", ["", " , ", [], [""], [f"T{n}" for n in range(257)]], ids=repr)
def test_traits_have_a_sane_number(value: object):
    with pytest.raises(ValueError, match=r"^\d+ trait names; give 1 to 256, or leave the key out$"):
        values.read_traits(value)


@pytest.mark.parametrize("value", ["A-B", ["A", ["B"]], [None], {"A": "B"}, "A" * 249], ids=repr)
def test_traits_that_placement_cannot_hold_are_refused(value: object):
    with pytest.raises(ValueError, match=r"is not a name of letters|is not a plain word"):
        values.read_traits(value)


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("True", True), ("FALSE", False), ("false", False)]
)
def test_bool_is_read_in_any_case(text: str, expected: bool):
    assert values.read_bool(text) is expected


@pytest.mark.parametrize("text", ["yes", "1", "on", "", "true "])
def test_bool_is_spelled_out(text: str):
    with pytest.raises(ValueError, match=r"is neither true nor false$"):
        values.read_bool(text)


@pytest.mark.parametrize(
    ("reader", "text", "reason"),
    [
        (values.read_device_type, "type-pf", "is not one of type-PCI, type-PF, type-VF"),
        (values.read_numa_policy, "strict", "is not one of legacy, preferred, required, socket"),
    ],
    ids=["device-type", "numa-policy"],
)
def test_choice_names_what_there_is_to_choose(reader, text: str, reason: str):
    with pytest.raises(ValueError, match=f'^"{text}" {reason}$'):
        reader(text)


@pytest.mark.parametrize("text", ["type-PCI", "type-PF", "type-VF"])
def test_device_types_of_nova_are_taken(text: str):
    assert values.read_device_type(text) == text


@pytest.mark.parametrize("text", ["legacy", "preferred", "required", "socket"])
def test_numa_policies_of_nova_are_taken(text: str):
    assert values.read_numa_policy(text) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("gpu", '"gpu"'),
        ("a\nb", r'"a\nb"'),
        ("\u0661", r'"\u0661"'),
        ("x" * 100, f'"{"x" * 55}..."'),
        ("\0" * 20, '"' + r"\x00" * 13 + r"\x0" + '..."'),
        ({"a": "b\n"}, r"{'a': 'b\n'}"),
        (["it's", 'a "b"', "\u0661"], r"""["it's", 'a "b"', '\u0661']"""),
        ('it\'s a "b"', '"it\'s a "b""'),
        (None, "None"),
    ],
    ids=[
        "plain",
        "newline",
        "not-ascii",
        "long",
        "long-when-escaped",
        "mapping",
        "quotes-inside",
        "quotes",
        "none",
    ],
)
def test_show_is_one_short_printable_line(value: object, shown: str):
    assert quoting.show(value) == shown


JSON_LIKE = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.text(),
    lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
    max_leaves=30,
)


@hypothesis.given(JSON_LIKE)
def test_show_never_lets_hostile_text_through(value: object):
    shown = quoting.show(value)
    assert len(shown) <= 60
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("item 1", "devices: item 1: no id"),
        (None, "devices: no id"),
    ],
    ids=["item", "whole"],
)
def test_error_names_option_item_and_reason(item: str | None, message: str):
    error = errors.OptionError("devices", "no id", item)
    assert str(error) == message
    assert (error.option, error.item, error.reason) == ("devices", item, "no id")
