"""What people paste into ``devices``: what is taken, and what each refusal has to say.

Out of reports in the open: lines of lspci and lshw, options of vfio-pci, Nova's JSON, file names.
"""

from __future__ import annotations

import pathlib

import pytest
from harness import made

from passthrough.config import devices
from passthrough.errors import OptionError

PAGE = pathlib.Path(__file__).parents[3] / "docs/how-to/choose-devices.md"

TAKEN = {
    "the page's own": (PAGE.read_text().split("```yaml\n")[1].split("```")[0], None),
    "a comment first": ("# my cards\n- gpu=10de:1bb0\n", "gpu=10de:1bb0"),
    "a comment first, short": ("# my cards\ngpu=10de:1bb0 # the left one\n", "gpu=10de:1bb0"),
    "comments between": ("10de:1bb0,\n# not this: 10de:1bb1\n8086:1572", "10de:1bb0 8086:1572"),
    "Windows line ends": ("- gpu=10de:1bb0\r\n- 8086:1572\r\n", "gpu=10de:1bb0 8086:1572"),
    "Windows line ends, short": ("gpu=10de:1bb0,\r\n8086:1572\r\n", "gpu=10de:1bb0 8086:1572"),
    "a byte-order mark": ("\ufeffgpu=10de:1bb0", "gpu=10de:1bb0"),
    "a byte-order mark, YAML": ("\ufeff- gpu=10de:1bb0", "gpu=10de:1bb0"),
    "tabs": ("gpu=10de:1bb0\t8086:1572", "gpu=10de:1bb0 8086:1572"),
    "tabs, YAML": ("-\tgpu=10de:1bb0\n", "gpu=10de:1bb0"),
    "upper case": ("gpu=10DE:1BB0", "gpu=10de:1bb0"),
    "lspci's brackets": ("[10de:1bb0]", "10de:1bb0"),
    "a short address": ("gpu=10de:1bb0@83:00.0", "gpu=10de:1bb0@0000:83:00.0"),
    "a domain of more digits than it needs": ("10de:1bb0@00000:83:00.0", "10de:1bb0@0000:83:00.0"),
    "an alias that is a word of ours": ("devices=10de:1bb0", "devices=10de:1bb0"),
    "a mapping": ("{alias: gpu, id: '10de:1bb0'}", "gpu=10de:1bb0"),
    "mappings": ("{id: '10de:1bb0'}, {id: '8086:1572'}", "10de:1bb0 8086:1572"),
    "two names": ("gpu|p5000=10de:1bb0", "gpu|p5000=10de:1bb0"),
    "an alias that is a number": ("8086:5917,1=8086:9d71", "8086:5917 1=8086:9d71"),
}
LSPCI = "83:00.0 3D controller [0302]: NVIDIA Corporation GV100GL [Tesla V100] [10de:1db4] (rev a1)"
REFUSED = {
    "vfio-pci.ids=10de:1b80,10de:10f0": ("no alias", "write the ids alone: 10de:1b80"),
    "vfio_pci.ids=10de:1b80": ("no alias", "10de:1b80"),
    "ids=10de:1b80,10de:10f0": ("no alias", "10de:1b80"),
    "10de:1bb0 (rev a1)": ('item 2 "(rev"',),
    "[10de:1bb0] (rev a1)": ("devices: not readable as YAML",),
    "83:00.0": ("is an address", "write VENDOR:PRODUCT@0000:83:00.0"),
    "0000:83:00.0": ("is an address", "write VENDOR:PRODUCT@0000:83:00.0"),
    "gpu=0000:83:00.0": ("is an address", "write gpu=VENDOR:PRODUCT@0000:83:00.0"),
    "gpu=83:00.1": ("is an address", "write gpu=VENDOR:PRODUCT@0000:83:00.1"),
    "- 0000:83:00.0": ("is an address", "write VENDOR:PRODUCT@0000:83:00.0"),
    "pci@0000:83:00.0": ("is not VENDOR:PRODUCT",),
    "pci_0000_83_00_0": ("is not VENDOR:PRODUCT",),
    LSPCI: ("is a line of lspci", "10de:1db4@0000:83:00.0"),
    f"{LSPCI}\n{LSPCI}": ("is a line of lspci", "10de:1db4@0000:83:00.0"),
    f"0000:{LSPCI}": ("is a line of lspci", "10de:1db4@0000:83:00.0"),
    "gpu = 10de:1bb0": ("blanks around the =", "write gpu=10de:1bb0"),
    "gpu =10de:1bb0": ("blanks around the =", "write gpu=10de:1bb0"),
    "10de:1bb1, gpu= 10de:1bb0": ("blanks around the =", "write gpu=10de:1bb0"),
    "gpu | p5000=10de:1bb0": ("blanks around the |", "write gpu|p5000=10de:1bb0"),
    "gpu| p5000=10de:1bb0": ("blanks around the |", "write gpu|p5000=10de:1bb0"),
    "gpu |p5000": ("blanks around the |", "write gpu|p5000"),
    "gpu|p5000 = 10de:1bb0": ("blanks around the =", "write gpu|p5000=10de:1bb0"),
    "gpu|p5000:10de:1bb0": ("is an alias", "write gpu|p5000=10de:1bb0"),
    "gpu|p5000: 10de:1bb0": ("behind the ALIAS", "write gpu|p5000=10de:1bb0"),
    "gpu:10de:1bb0": ("is an alias", "write gpu=10de:1bb0"),
    "gpu: 10de:1bb0": ("behind the ALIAS", "write gpu=10de:1bb0"),
    "alias: gpu\nid: 10de:1bb0": ("list", "with a dash"),
    '{"vendor_id": "10de", "product_id": "1bb0"}': ("Nova's own form", 'id: "10de:1bb0"'),
    '[{"vendor_id": "10de", "product_id": "1BB0"}]': ("the keys are", 'id: "10de:1bb0"'),
    '[{"address": "0000:84:00.0"}]': ("no id", "VENDOR:PRODUCT"),
    '[{"devname": "ens1f0", "physical_network": "physnet1"}]': ("the keys are", "VENDOR:PRODUCT"),
    "- {id: 10de:1bb0, device_type: type-PF}": ("did you mean device-type?",),
    "- {id: 10de:1bb0, numa_policy: required}": ("did you mean numa-policy?",),
    "- {id: 10de:1bb0, resource_class: x}": ("did you mean resource-class?",),
    "gpu=10de:1bb0;gpu=10de:1bb1": ("commas, blanks or newlines", "no semicolon"),
    '"gpu=10de:1bb0"': ("quotes", 'leave " out'),
    "'gpu=10de:1bb0'": ("quotes", "leave ' out"),
    "@devices.yaml": ("name of a file", "devices=@devices.yaml"),
    "0x10de:0x1bb0": ("is not four hex digits",),
    "gpu=10de:1bb0@0000:83:00": ("BUS:SLOT.FUNCTION",),
    "gpu=10de:*": ("is not four hex digits",),
    "0000:83:00.0 10de:1db4": ("is a line of lspci", "has 10de:1db4@0000:83:00.0"),
    "83:00.0 0302: 10de:1DB4 (rev a1)": ("is a line of lspci", "has 10de:1db4@0000:83:00.0"),
    '83:00.0 "3D controller [0302]" "NVIDIA [10de]" "GV100GL [1db4]" -ra1': (
        "is a line of lspci",
        "of it an item has 10de:1db4@0000:83:00.0",
    ),
    "Slot:\t83:00.0\nClass:\t3D controller [0302]\nVendor:\tNVIDIA [10de]\nDevice:\tx [1db4]\n": (
        "is a line of lspci",
        "of it an item has 10de:1db4@0000:83:00.0",
    ),
    "pci@0000:83:00.0  display  GV100GL [Tesla V100] [10DE:1DB4]": (
        "is a line of lshw",
        "of it an item has 10de:1db4@0000:83:00.0",
    ),
    "options vfio-pci ids=10de:1db4,10de:10f0 disable_vga=1": (
        "is a line of modprobe.d",
        "write the ids alone: 10de:1db4,10de:10f0",
    ),
    "gpu=pci_0000_83_00_0": ("libvirt's", "write gpu=VENDOR:PRODUCT@0000:83:00.0"),
    "gpu=10de:1db4@pci_0000_83_00_0": ("libvirt's", "write gpu=10de:1db4@0000:83:00.0"),
    "gpu@0000:83:00.0": ("is an address", "write gpu=VENDOR:PRODUCT@0000:83:00.0"),
    'device_spec = {"vendor_id": "10de", "product_id": "1DB4"}': (
        '"device_spec" is an option of nova.conf',
        "of it an item has 10de:1db4",
    ),
    'pci_passthrough_whitelist=[{"devname": "eth0"}]': ("nova.conf", "VENDOR:PRODUCT"),
    '[pci]\nalias={"vendor_id":"10de", "product_id":"1db4", "name":"gpu"}': (
        "nova.conf",
        "of it an item has gpu=10de:1db4",
    ),
    "pci_passthrough:alias=gpu:1": ("is a property of a flavor", "ALIAS=VENDOR:PRODUCT"),
    "juju config pci-passthrough devices=gpu=10de:1db4": ("no part of the value", "items alone"),
    "--devices gpu=10de:1db4": ('"--devices" is no part', "items alone"),
    "devices=gpu=10de:1db4": ('"devices" is no part', "items alone"),
    "devices:\n- id: 10de:1db4": ('"devices" is no part', "items alone"),
    "gpu:\n  id: 10de:1db4": ('"gpu:" begins a mapping', "with a dash"),
    "gpu : 10de:1db4": ("behind the ALIAS", "write gpu=10de:1db4"),
    "gpu=10de:1db4 | nic=8086:1572": ("stands between items", "commas, blanks or newlines"),
    "gpu=10de:1db4|nic=8086:1572": ("is two", "commas, blanks or newlines"),
    "gpu=10de:1db4 and nic=8086:1572": ('item 2 "and": stands between items',),
    "gpu='10de:1db4'": ("quotes", "write gpu=10de:1db4"),
    "\u201cgpu=10de:1db4\u201d": ("quotes", "write gpu=10de:1db4"),
    "`gpu=10de:1db4`": ("quotes", "write gpu=10de:1db4"),
    "gpu@10de:1db4": ("is an alias", "write gpu=10de:1db4"),
    "10de:1db4=gpu": ("alias stands behind", "write gpu=10de:1db4"),
    "83:00.0=gpu": ("alias stands behind", "write gpu=VENDOR:PRODUCT@0000:83:00.0"),
    "10de:1db4@0000:83:00.0/PF": ("type stands behind", "write 10de:1db4/PF@0000:83:00.0"),
    "gpu=0x10de:0x1db4": ("is not four hex digits", "write gpu=10de:1db4"),
    "pci:v000010DEd00001DB4sv*": ("by which a driver is found", "has 10de:1db4"),
    "PCI\\VEN_10DE&DEV_1DB4": ("by which a driver is found", "has 10de:1db4"),
    "alias=gpu,id=10de:1db4": ('"alias" is a key of a longer form', "ALIAS=VENDOR:PRODUCT"),
    "/home/ubuntu/devices.yaml": ("name of a file", "devices=@/home/ubuntu/devices.yaml"),
    "devices.yaml": ("name of a file", "devices=@devices.yaml"),
    "- {ID: 10de:1bb0}": ("did you mean id?",),
    "- {id: 10de:1bb0, addresses: ['83:00.0']}": ("did you mean address?",),
    "- {id: 10de:1bb0, name: gpu}": ("did you mean alias?",),
    "- {vendor: 10de, product: 1bb0}": ("the keys are", 'id: "10de:1bb0"'),
    "gpu=10de:1bb0/P": ("is not PF, VF or PCI", "10de:2330/PF"),
}


@pytest.mark.parametrize(("text", "expected"), TAKEN.values(), ids=TAKEN)
def test_is_taken(text: str, expected: str | None):
    items = devices.parse(text).items
    assert items
    if expected is not None:
        assert " ".join(map(str, items)) == expected


@pytest.mark.parametrize("text", REFUSED, ids=list(REFUSED))
def test_is_refused_with_what_to_write(text: str):
    """The option, the item, the way out: on one line."""
    _, error = made.attempt(devices.parse, text)
    assert error is not None
    said = str(error)
    assert said.startswith("devices: ")
    assert "\n" not in said
    for part in REFUSED[text]:
        assert part in said


@pytest.mark.parametrize(
    "text", ["gpu=10de:1bb0", "g-p.u=10de:1bb0/PF@83:00.0", "", "10de:1bb0@*:83:00.?", "gpu=#"]
)
def test_what_is_right_or_wrong_otherwise_is_no_such_mistake(text: str):
    _, error = made.attempt(devices.parse, text)
    assert error is None or "is not VENDOR:PRODUCT" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "@@\x160",
        "ids=10de:1bb0\x1b[2J",
        "\x1b=0000:83:00.0",
        "gpu:10de:1bb0\x07",
        "gpu: \x07",
        "gpu= 10de:1bb0\x07",
        "@" + "x" * 5000,
        "gpu= " + "x" * 5000,
    ],
)
def test_an_advice_holds_no_text_as_it_came(text: str):
    with pytest.raises(OptionError) as caught:
        devices.parse(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
