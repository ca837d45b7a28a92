"""The option ``devices``: both its forms, and every refusal in the operator's words."""

from __future__ import annotations

import re
import time

import hypothesis
import pytest
from harness import made
from hypothesis import strategies

from passthrough import errors
from passthrough.config import devices
from passthrough.config.devices import Item


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", ()),
        (" \n\t,, ", ()),
        ("10de:1bb0", (Item(1, "10de", "1bb0"),)),
        ("gpu=10DE:1BB0", (Item(1, "10de", "1bb0", alias="gpu"),)),
        (
            "gpu=10de:1bb0@0000:83:00.0, gpu=10de:1bb0@84:00.0\n8086:1572",
            (
                Item(1, "10de", "1bb0", ("0000:83:00.0",), "gpu"),
                Item(2, "10de", "1bb0", ("0000:84:00.0",), "gpu"),
                Item(3, "8086", "1572"),
            ),
        ),
        ("gpu=10de:1bb0@8[34]:00.0", (Item(1, "10de", "1bb0", ("0000:8[34]:00.0",), "gpu"),)),
        ("gpu=10de:1bb0 gpu=10de:1db6", (
            Item(1, "10de", "1bb0", alias="gpu"), Item(2, "10de", "1db6", alias="gpu"),
        )),
    ],
    ids=["empty", "blank", "id", "alias", "three-separators", "glob", "two-models-one-alias"],
)  # fmt: skip
def test_short_form(text: str, items: tuple[Item, ...]):
    assert devices.parse(text).items == items


FULL_MAPPING = """\
- gpu=10de:1bb0@0000:83:00.0
- alias: nic
  id: 8086:1572
  address: [3b:00.0, "0000:3b:00.1"]
  device-type: type-PF
  numa-policy: required
  resource-class: custom_nic
  traits: [hw_nic_sriov, CUSTOM_FAST]
  live-migratable: "true"
  managed: false
  physical-network: physnet1
  trusted: true
  one-time-use: false
  exclude: "3b:00.[2-7]"
  companions: False
  allow-in-use: TRUE
- {id: 8086:0a54, address: 0000:03:00.0}
- {id: 8086:10c9, address: "3b:00.*", exclude: 3b:00.1, vfs: 4}
"""


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[]", ()),
        ("[10de:1bb0]", (Item(1, "10de", "1bb0"),)),
        (
            FULL_MAPPING,
            (
                Item(1, "10de", "1bb0", ("0000:83:00.0",), "gpu"),
                Item(
                    2,
                    "8086",
                    "1572",
                    ("0000:3b:00.0", "0000:3b:00.1"),
                    "nic",
                    device_type="type-PF",
                    numa_policy="required",
                    resource_class="CUSTOM_NIC",
                    traits=("CUSTOM_FAST", "HW_NIC_SRIOV"),
                    live_migratable=True,
                    managed=False,
                    physical_network="physnet1",
                    trusted=True,
                    one_time_use=False,
                    exclude=("0000:3b:00.[2-7]",),
                    companions=False,
                    allow_in_use=True,
                ),
                Item(3, "8086", "0a54", ("0000:03:00.0",)),
                Item(4, "8086", "10c9", ("0000:3b:00.*",), exclude=("0000:3b:00.1",), vfs=4),
            ),
        ),
        ("---\n- 1234:5678\n", (Item(1, "1234", "5678"),)),
        ("  - 1234:5678\n  - 0001:0002\n", (Item(1, "1234", "5678"), Item(2, "0001", "0002"))),
    ],
    ids=["empty", "flow", "every-key", "document-start-and-sexagesimal-id", "indented"],
)
def test_yaml_form(text: str, items: tuple[Item, ...]):
    assert devices.parse(text).items == items


@pytest.mark.parametrize(
    "text",
    [
        "gpu|p5000=10de:1bb0",
        "- {alias: [gpu, p5000], id: 10de:1bb0}",
        "- {alias: gpu|p5000, id: 10de:1bb0}",
        "[gpu|p5000=10de:1bb0]",
        "gpu|p5000|gpu=10de:1bb0",
    ],
)
def test_two_names_for_the_same_devices(text: str):
    (item,) = devices.parse(text).items
    assert (item.names, item.alias) == (("gpu", "p5000"), "gpu|p5000")
    assert str(item) == "gpu|p5000=10de:1bb0"
    assert list(devices.parse(text).aliases()) == ["gpu", "p5000"]


def test_an_item_with_two_names_is_pasted_as_it_was_written():
    (item,) = devices.parse("[{alias: [gpu, p5000], id: '10de:1bb0', managed: false}]").items
    (again,) = devices.parse(f"[{devices.text_of(item)}]").items
    assert again == item


def test_companions_come_along_and_in_use_devices_stay_by_default():
    item = devices.parse("10de:1bb0").items[0]
    assert (item.companions, item.allow_in_use) == (True, False)


# Every refusal names the option, the item by its number and text, and the reason or way out.
REFUSALS = {
    "no-id": ("gpu=", 'item 1 "gpu=": "" is not VENDOR:PRODUCT, e.g. 10de:1bb0'),
    "bad-id": (
        "gpu=10de:zzzz",
        'item 1 "gpu=10de:zzzz": product id "zzzz" is not four hex digits, e.g. 10de:1bb0',
    ),
    "second-item": (
        "gpu=10de:1bb0, 10de",
        'item 2 "10de": "10de" is not VENDOR:PRODUCT, e.g. 10de:1bb0',
    ),
    "no-alias": (
        "=10de:1bb0",
        'item 1 "=10de:1bb0": no alias before the =; write [ALIAS=]VENDOR:PRODUCT[@ADDRESS]',
    ),
    "no-address": (
        "10de:1bb0@",
        'item 1 "10de:1bb0@": no address behind the @; write [ALIAS=]VENDOR:PRODUCT[@ADDRESS]',
    ),
    "address-alone": (
        "0000:83:00.0",
        'item 1 "0000:83:00.0": "0000:83:00.0" is an address, and an item begins with the id of'
        " what is there; write VENDOR:PRODUCT@0000:83:00.0; list-devices and lspci -nns"
        " 0000:83:00.0 show the id",
    ),
    "bad-address": (
        "10de:1bb0@83",
        'item 1 "10de:1bb0@83": address "83" is not [DOMAIN:]BUS:SLOT.FUNCTION in hex, such as'
        " 0000:83:00.0 or the glob 0000:8[34]:00.0",
    ),
    "no-second-alias": (
        "gpu|=10de:1bb0",
        'item 1 "gpu|=10de:1bb0": alias "" is not a name of up to 64 letters,'
        " digits, '.', '_' and '-' that begins with a letter or digit",
    ),
    "no-alias-in-the-list": (
        "- {alias: [], id: 10de:1bb0}",
        "item 1 {'alias': [], 'id': '10de:1bb0'}: alias: 0 names for one alias; give 1 to 8, or"
        " leave the key out",
    ),
    "a-list-in-the-list": (
        "- {alias: [[gpu]], id: 10de:1bb0}",
        "item 1 {'alias': [[...]], 'id': '10de:1bb0'}: alias: ['gpu'] is not a plain word",
    ),
    "two-names-and-one-that-differs": (
        "- gpu|p5000=10de:1bb0\n- {id: 10de:1db6, alias: p5000, numa-policy: socket}",
        "item 2 alias p5000: numa-policy is socket, but item 1 of the same alias says not set; Nova"
        " wants one numa-policy per alias",
    ),
    "shell-in-alias": (
        "$(reboot)=10de:1bb0",
        'item 1 "$(reboot)=10de:1bb0": alias "$(reboot)" is not a name of up to 64 letters,'
        " digits, '.', '_' and '-' that begins with a letter or digit",
    ),
    "quote-in-alias": (
        'g"=10de:1bb0',
        'item 1 "g"=10de:1bb0": alias "g"" is not a name of up to 64 letters,'
        " digits, '.', '_' and '-' that begins with a letter or digit",
    ),
    "mapping-outside-a-list": (
        "id: 10de:1bb0",
        'item 1 "id:": "id" is a key of the YAML form, which is a list; begin each item with a'
        " dash: - {alias: gpu, id: 10de:1bb0}",
    ),
    "unknown-key": (
        "- {id: 10de:1bb0, adress: 83:00.0}",
        "item 1 {'adress': '83:00.0', 'id': '10de:1bb0'}: unknown key \"adress\"; the keys are"
        " alias, id, address, exclude, device-type, numa-policy, resource-class, traits,"
        " live-migratable, managed, physical-network, trusted, one-time-use, driver,"
        " quarantine, companions, allow-in-use, vfs",
    ),
    "merge-key": (
        "- &a {id: 10de:1bb0}\n- {<<: *a}",
        "item 2 {'<<': {'id': '10de:1bb0'}}: unknown key \"<<\"; the keys are alias, id,"
        " address, exclude, device-type, numa-policy, resource-class, traits, live-migratable,"
        " managed, physical-network, trusted, one-time-use, driver, quarantine, companions,"
        " allow-in-use, vfs",
    ),
    "no-vfs": (
        "- {id: 8086:10c9, vfs: 0}",
        "item 1 {'id': '8086:10c9', 'vfs': '0'}: vfs: \"0\" is not a number from 1 to 65535;"
        " leave the item out for no VFs",
    ),
    "more-vfs-than-the-kernel-counts": (
        "- {id: 8086:10c9, vfs: 65536}",
        "item 1 {'id': '8086:10c9', 'vfs': '65536'}: vfs: \"65536\" is not a number from 1 to"
        " 65535; leave the item out for no VFs",
    ),
    "alias-beside-vfs": (
        "- {id: 8086:10c9, vfs: 4, alias: vf}",
        "item 1 {'alias': 'vf', 'id': '8086:10c9', 'vfs': '4'}: alias beside vfs: the card stays"
        " with the host, and its VFs have their own id; write a second item for the VFs, with"
        " alias",
    ),
    "quarantine-of-another-kind": (
        "- {id: 10de:1bb0, quarantine: off}",
        "item 1 {'id': '10de:1bb0', 'quarantine': 'off'}: quarantine: \"off\" is not"
        " one of auto, manual",
    ),
    "mapping-without-id": (
        "- {address: 83:00.0}",
        "item 1 {'address': '83:00.0'}: no id; every item needs VENDOR:PRODUCT, so that a card"
        " that moved to another slot is never taken for another",
    ),
    "bad-value": (
        "- {id: 10de:1bb0, device-type: PF}",
        "item 1 {'device-type': 'PF', 'id': '10de:1bb0'}: device-type: \"PF\" is not one of"
        " type-PCI, type-PF, type-VF",
    ),
    "newline-in-value": (
        '- {id: 10de:1bb0, resource-class: "A\\nB"}',
        "item 1 {'id': '10de:1bb0', 'resource-class': 'A\\nB'}: resource-class: \"A\\nB\" is not"
        " a name of letters, digits and '_'",
    ),
    "null-value": (
        "- {id: 10de:1bb0, alias: }",
        "item 1 {'alias': '', 'id': '10de:1bb0'}: alias: alias \"\" is not a name of up to 64"
        " letters, digits, '.', '_' and '-' that begins with a letter or digit",
    ),
    "empty-item": ("- ", 'item 1 "": "" is not VENDOR:PRODUCT, e.g. 10de:1bb0'),
    "list-in-list": (
        "- [10de:1bb0]",
        "item 1 ['10de:1bb0']: neither [ALIAS=]VENDOR:PRODUCT[@ADDRESS] nor a mapping",
    ),
    "repeated-key": (
        "- id: 10de:1bb0\n  id: 10de:1bb1",
        'mapping at line 1: the key "id" stands twice; YAML would keep only one of them',
    ),
    "repeated-key-behind-a-tag": (
        "- 10de:1bb0\n- !x {id: 10de:1bb0, id: 10de:1bb1}",
        'mapping at line 2: the key "id" stands twice; YAML would keep only one of them',
    ),
    "key-that-is-a-list": (
        "- {[id]: 10de:1bb0}",
        'not readable as YAML at line 1: "found unhashable key"',
    ),
    "broken-yaml": (
        "- {id: 10de:1bb0",
        "not readable as YAML at line 1: \"expected ',' or '}', but got '<stream end>'\"",
    ),
    "two-documents": (
        "- 10de:1bb0\n--- \n- 10de:1bb0\n",
        'not readable as YAML at line 2: "but found another document"',
    ),
    "control-character": (
        "- 10de:1bb0\x07",
        'not readable as YAML: "unacceptable character #x0007: special characters are n..."',
    ),
    "recursive-yaml": (
        "- &a [*a]",
        'not readable as YAML at line 1: "found unconstructable recursive node"',
    ),
    "deep-yaml": ("[" * 1000, "not readable as YAML: nested too deeply"),
    "not-a-list": (
        "--- {id: 10de:1bb0}",
        "the YAML form is a list of items, each behind a dash",
    ),
    "repeated-item": (
        "gpu=10de:1bb0 other=10de:1bb0",
        'item 2 "other=10de:1bb0": repeats item 1 (gpu=10de:1bb0); a device can be claimed once',
    ),
    "repeated-address": (
        "a=10de:1bb0@83:00.0 b=10de:1bb0@0000:83:00.0",
        'item 2 "b=10de:1bb0@0000:83:00.0": repeats item 1 (a=10de:1bb0@0000:83:00.0); a device'
        " can be claimed once",
    ),
    "one-alias-two-device-types": (
        "- {id: 10de:1bb0, alias: gpu}\n- {id: 10de:1db6, alias: gpu, device-type: type-PF}",
        "item 2 alias gpu: device-type is type-PF, but item 1 of the same alias says not set; Nova"
        " wants one device-type per alias",
    ),
    "one-alias-then-no-device-type": (
        "- {id: 10de:1bb0, alias: gpu, device-type: type-VF}\n- gpu=10de:1db6",
        "item 2 alias gpu: device-type is not set, but item 1 of the same alias says type-VF; Nova"
        " wants one device-type per alias",
    ),
    "one-alias-two-numa-policies": (
        "- {id: 10de:1bb0, alias: gpu, numa-policy: socket}\n"
        "- {id: 10de:1bb1, alias: x}\n"
        "- {id: 10de:1db6, alias: gpu, numa-policy: legacy}",
        "item 3 alias gpu: numa-policy is legacy, but item 1 of the same alias says socket; Nova"
        " wants one numa-policy per alias",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusal_names_option_item_and_reason(text: str, message: str):
    with pytest.raises(errors.OptionError) as caught:
        devices.parse(text)
    assert str(caught.value) == f"devices: {message}"
    assert caught.value.option == "devices"


TEN_THOUSAND = {
    "short": "gpu=10de:1bb0@0000:83:00.0," * 10_000,
    "yaml": "- gpu=10de:1bb0@0000:83:00.0\n" * 10_000,
}


@pytest.mark.parametrize("text", TEN_THOUSAND.values(), ids=TEN_THOUSAND)
def test_ten_thousand_items_are_refused_at_once(text: str):
    started = time.process_time()
    with pytest.raises(errors.OptionError) as caught:
        devices.parse(text)
    assert time.process_time() - started < 5
    assert str(caught.value) == (
        'devices: item 257 "gpu=10de:1bb0@0000:83:00.0": there are 10000, and at most 256 are'
        " accepted. One item by id alone, or with an address glob such as 0000:8[34]:00.0, covers"
        " many devices"
    )


def test_as_many_items_as_accepted():
    text = ",".join(f"gpu=10de:{number:04x}" for number in range(devices.MAX_ITEMS))
    assert [item.position for item in devices.parse(text).items] == list(range(1, 257))


def test_endless_text_is_refused_by_its_length():
    with pytest.raises(errors.OptionError, match=r"^devices: 1048577 characters; at most 1048576"):
        devices.parse("x" * (devices.MAX_LENGTH + 1))


def test_a_mapping_of_many_keys_is_refused_in_linear_time():
    keys = ", ".join(f"k{number}: x" for number in range(5_000))
    started = time.process_time()
    with pytest.raises(errors.OptionError, match='unknown key "k0"'):
        devices.parse(f"- {{{keys}}}")
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("item", "address", "covered"),
    [
        ("10de:1bb0", "0000:83:00.0", True),
        ("10de:1bb0@83:00.0", "0000:83:00.0", True),
        ("10de:1bb0@83:00.0", "0000:83:00.1", False),
        ("10de:1bb0@83:00.0", "0001:83:00.0", False),
        ("10de:1bb0@*:83:00.0", "0001:83:00.0", True),
        ("10de:1bb0@8[34]:00.0", "0000:84:00.0", True),
        ("10de:1bb0@8[34]:00.0", "0000:85:00.0", False),
        ("10de:1bb0@8?:00.?", "0000:8a:00.7", True),
        ("10de:1bb0@8[5-3]:00.0", "0000:84:00.0", False),
        ("- {id: 10de:1bb0, address: [83:00.0, 84:00.0]}", "0000:84:00.0", True),
        ("- {id: 10de:1bb0, address: [83:00.0, 84:00.0]}", "0000:85:00.0", False),
    ],
)
def test_item_covers(item: str, address: str, covered: bool):
    assert devices.parse(item).items[0].covers(address) is covered


def test_exact_addresses_leave_globs_out():
    (item,) = devices.parse('- {id: 10de:1bb0, address: ["83:00.0", "8[45]:00.0"]}').items
    assert item.exact_addresses == ("0000:83:00.0",)


def test_aliases_gather_their_items_and_skip_those_without():
    wanted = devices.parse("b=10de:1bb0, 10de:1bb1, a=10de:1bb2, b=10de:1bb3")
    assert [(alias, [item.id for item in items]) for alias, items in wanted.aliases().items()] == [
        ("a", ["10de:1bb2"]),
        ("b", ["10de:1bb0", "10de:1bb3"]),
    ]


# -- properties of the grammar ------------------------------------------------------------------

STRICT = {
    "vendor": r"[0-9a-f]{4}",
    "product": r"[0-9a-f]{4}",
    "device_type": r"type-(PCI|PF|VF)",
    "numa_policy": r"legacy|preferred|required|socket",
    "resource_class": r"[A-Z0-9_]+",
}
STRICT_LISTS = {
    "names": r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}",
    "addresses": r"[][0-9a-f?*:.-]+",
    "traits": r"[A-Z0-9_]+",
}


def check_strict(item: Item) -> None:
    """Hold an accepted item against patterns written down here a second time."""
    for name, pattern in STRICT.items():
        value = getattr(item, name)
        assert value is None or re.fullmatch(pattern, value), (name, value)
    for name, pattern in STRICT_LISTS.items():
        assert all(re.fullmatch(pattern, value) for value in getattr(item, name)), (name, item)
    assert item.alias is None or item.alias == "|".join(item.names)


hex_word = strategies.text("0123456789abcdefABCDEF", min_size=4, max_size=4)
aliases = strategies.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
exact_addresses = strategies.from_regex(r"\A([0-9a-f]{4}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]\Z")
globs = strategies.from_regex(r"\A(0000:)?[0-9a-f?*]{1,2}:[01*][0-9a-f]?\.([?*]|\[[0-3]-7\])\Z")


@strategies.composite
def short_items(draw: strategies.DrawFn) -> str:
    """Text of the short form's grammar."""
    alias = draw(
        strategies.none() | strategies.lists(aliases, min_size=1, max_size=8).map("|".join)
    )
    address = draw(strategies.none() | exact_addresses | globs)
    name = f"{draw(hex_word)}:{draw(hex_word)}"
    name = f"{alias}={name}" if alias else name
    return f"{name}@{address}" if address else name


# Words near the grammar, so that the search spends its time at the edges and not in noise.
NEAR_WORDS = """
    gpu = 10de:1bb0 10DE:1BB0 : @ 0000:83:00.0 8[34]:00.0 * ? [ ] , - { } id alias address traits
    device-type type-PF numa-policy socket companions true false & *a ! $(x) ` ' " \\ # | > %
"""
near_words = strategies.sampled_from(
    [*NEAR_WORDS.split(), "\n", " ", ": ", "- ", "\t", "\0", "\u2028", "\u0661"]
)
near_texts = strategies.lists(near_words | strategies.text(max_size=3), max_size=25).map("".join)
hostile_texts = (
    near_texts
    | near_texts.map("- {}".format)
    | near_texts.map("- {{id: 10de:1bb0, {}}}".format)
    | strategies.text()
)


@hypothesis.settings(max_examples=400)
@hypothesis.given(hostile_texts)
def test_any_text_is_either_strict_or_an_option_error(text: str):
    parsed, error = made.attempt(devices.parse, text)
    for item in parsed.items if parsed else ():
        check_strict(item)
    if error:
        assert str(error).startswith("devices: ")
        assert str(error).isascii()
        assert str(error).isprintable()
        assert len(str(error)) < 600


@hypothesis.given(short_items())
def test_short_form_round_trips(text: str):
    (item,) = devices.parse(text).items
    check_strict(item)
    assert devices.parse(str(item)).items == (item,)


@hypothesis.given(short_items(), strategies.sampled_from([",", " ", "\n", ", ", "\r\n"]))
def test_short_form_as_a_yaml_string_is_the_same_item(text: str, separator: str):
    short = devices.parse(f"{text}{separator}").items
    assert devices.parse(f'- "{text}"').items == short
