"""What the kernel tells of a function's health: its formats, and what is none of them."""

from __future__ import annotations

import os

import pytest
from harness import hosttree, reads

from passthrough.host import health, pci
from passthrough.host.health import Answer, Errors, Power, Severity, Signs

CARD, PORT, NIC, VF = "0000:81:00.0", "0000:80:01.0", "0000:18:00.0", "0000:18:02.0"
CORRECTABLE = """\
RxErr 3
BadTLP 0
BadDLLP 12
Rollover 0
Timeout 0
NonFatalErr 0
CorrIntErr 0
HeaderOF 0
TOTAL_ERR_COR 15
"""
# Before Linux 5.8 the names had blanks (aer_error_severity_string and its neighbours in aer.c).
FORMER = "Receiver Error 3\nBad TLP 0\nReplay Num Rollover 0\nTOTAL_ERR_COR 3\n"
NAMELESS = "RxErr 0\naer_correctable_bit[9] 2\nTOTAL_ERR_COR 2\n"
FATAL = "Undefined 0\nDLP 1\nSDES 0\nTOTAL_ERR_FATAL 1\n"


@pytest.fixture
def host(tmp_path) -> hosttree.HostTree:
    """A card below a port, a NIC with a VF."""
    tree = hosttree.HostTree(tmp_path / "host")
    tree.bridge(PORT)
    tree.function(CARD, "10de:1bb0", 0x030000, parent=PORT, driver="nouveau")
    tree.function(NIC, "8086:1572", 0x020000, driver="i40e", total_vfs=4)
    tree.virtual_functions(NIC, [VF], "8086:154c")
    return tree


@pytest.fixture
def put(host: hosttree.HostTree):
    """Write an attribute of a function as the kernel shows it."""

    def call(name: str, content: str | bytes, address: str = CARD) -> None:
        path = host.directory(address) / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())

    return call


def read(host: hosttree.HostTree, address: str = CARD) -> Signs:
    return health.Reader(host.root).of(pci.read(host.root).functions[address])


def test_of_a_card_that_is_awake_and_tells_nothing_else(host: hosttree.HostTree):
    assert read(host) == Signs(Power.AWAKE, answer=Answer.GOOD, reset_methods=("bus",))


def test_a_host_that_tells_nothing(host: hosttree.HostTree):
    assert health.Reader.none().of(pci.read(host.root).functions[CARD]) == Signs()


def test_each_function_is_read_once(host: hosttree.HostTree, put):
    reader, function = health.Reader(host.root), pci.read(host.root).functions[CARD]
    before = reader.of(function)
    put("power_state", "D3cold")
    assert reader.of(function) == before


@pytest.mark.parametrize(
    ("state", "runtime", "power"),
    [
        ("D0", None, Power.AWAKE),
        ("D0", "suspended", Power.AWAKE),
        ("D1", None, Power.AWAKE),
        ("D3hot", "suspended", Power.ASLEEP),
        ("D3hot", "active", Power.ASLEEP),
        ("D3cold", None, Power.ASLEEP),
        ("unknown", "active", Power.AWAKE),
        ("unknown", "unsupported", Power.AWAKE),
        ("unknown", "suspended", Power.ASLEEP),
        ("unknown", "resuming", Power.UNKNOWN),
        ("error", None, Power.UNKNOWN),
        (None, "active", Power.AWAKE),
        (None, "suspended", Power.ASLEEP),
        (None, None, Power.UNKNOWN),
        ("D0\nD0", "active", Power.UNKNOWN),
        ("d0", "active", Power.UNKNOWN),
        ("", "active", Power.UNKNOWN),
    ],
)
def test_power_comes_first(host: hosttree.HostTree, put, state, runtime, power: Power):
    put("config", b"\xff" * 64)
    put("current_link_width", "1")
    put("max_link_width", "16")
    put("max_link_width", "16", PORT)
    if state is None:
        (host.directory(CARD) / "power_state").unlink()
    else:
        put("power_state", state)
    if runtime:
        put("power/runtime_status", runtime)
    found = read(host)
    assert found.power is power
    answers = power is Power.AWAKE or state == "D3hot"
    assert found.answer is (Answer.ONES if answers else Answer.UNKNOWN)
    assert (found.width, found.widest) == (None, None)


@pytest.mark.parametrize(("state", "asked"), [("D3hot", {"config"}), ("D3cold", set[str]())])
def test_what_a_read_would_wake_is_not_asked_and_its_counters_are_read(host, put, state, asked):
    """A read of the configuration space wakes what is in D3cold (pci_config_pm_runtime_get)."""
    put("power_state", state)
    put("config", b"\xde\x10\xb0\x1b" + bytes(60))
    put("aer_dev_fatal", FATAL.rstrip())
    with reads.noted() as seen:
        found = read(host)
    names = {os.path.basename(each) for each in seen}
    assert names & {"config", "current_link_width", "max_link_width"} == asked
    assert found.answer is (Answer.GOOD if asked else Answer.UNKNOWN)
    assert found.errors == {Severity.FATAL: Errors(1, ("DLP",))}


def test_a_wake_that_ended_in_an_error(host: hosttree.HostTree, put):
    put("power/runtime_status", "error")
    assert read(host).has_power_error


@pytest.mark.parametrize(
    ("runtime", "enable", "closed"),
    [("error", "0", True), ("error", "1", False), ("suspended", "0", False), ("error", "", False)],
)
def test_whether_anybody_has_it_open_behind_such_an_error(
    host: hosttree.HostTree, put, runtime: str, enable: str, closed: bool
):
    put("power/runtime_status", runtime)
    put("enable", enable)
    assert read(host).is_closed is closed


@pytest.mark.parametrize(
    ("space", "answer"),
    [
        (b"\xff" * 64, Answer.ONES),
        (b"\xff" * 4096, Answer.ONES),
        (b"\xff" * 4 + bytes(60), Answer.ONES),
        (b"\xde\x10\xb0\x1b" + b"\xff" * 60, Answer.GOOD),
        (b"\xde\x10\xff\xff" + bytes(60), Answer.GOOD),
        (b"\xff" * 63, Answer.UNKNOWN),
        (b"\xff" * 4, Answer.UNKNOWN),
        (b"", Answer.UNKNOWN),
        (bytes(64), Answer.UNKNOWN),
    ],
)
def test_the_configuration_space(host: hosttree.HostTree, put, space: bytes, answer: Answer):
    put("config", space)
    assert read(host).answer is answer


def test_a_configuration_space_that_cannot_be_read(host: hosttree.HostTree):
    path = host.directory(CARD) / "config"
    path.unlink()
    assert read(host).answer is Answer.UNKNOWN
    path.mkdir()
    assert read(host).answer is Answer.UNKNOWN


def test_a_vf_has_ones_for_its_ids_and_is_well(host: hosttree.HostTree, put):
    """PCI Express Base: a VF's vendor and device ids read as ffff."""
    put("config", b"\xff" * 4 + b"\x06\x04\x10" + bytes(57), VF)
    assert read(host, VF).answer is Answer.GOOD
    put("config", b"\xff" * 64, VF)
    assert read(host, VF).answer is Answer.ONES


@pytest.mark.parametrize("state", ["D0", "D3hot"])
def test_ones_of_a_card_that_loses_its_power_meanwhile_tell_nothing(host, put, state, monkeypatch):
    put("power_state", state)
    put("config", b"\xff" * 64)
    real = health.sysfs.regular_bytes_if_there

    def asleep(path: str, *number: int) -> bytes | None:
        found = real(path, *number)
        if path.endswith("/config"):
            put("power_state", "D3cold")
        return found

    monkeypatch.setattr(health.sysfs, "regular_bytes_if_there", asleep)
    assert read(host).answer is Answer.UNKNOWN


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        (CORRECTABLE, Errors(15, ("RxErr", "BadDLLP"))),
        (FORMER, Errors(3, ("Receiver Error",))),
        (NAMELESS, Errors(2, ("aer_correctable_bit[9]",))),
        ("TOTAL_ERR_COR 0\n", Errors(0)),
        (f"RxErr 1\nTOTAL_ERR_COR {2**64 - 1}\n", Errors(2**64 - 1, ("RxErr",))),
    ],
)
def test_counters(host: hosttree.HostTree, put, text: str, errors: Errors):
    put("aer_dev_correctable", text.rstrip("\n"))
    assert read(host).errors == {Severity.CORRECTABLE: errors}


@pytest.mark.parametrize(
    ("own", "port", "fatal"),
    [
        ("TOTAL_ERR_FATAL 0", "1", Errors(1)),
        (None, "2", Errors(2)),
        (FATAL.rstrip(), "3", Errors(3, ("DLP",))),
        (FATAL.rstrip(), "1", Errors(1, ("DLP",))),
        (FATAL.rstrip(), "0", Errors(1, ("DLP",))),
        ("TOTAL_ERR_FATAL 0", "0", Errors(0)),
        (FATAL.rstrip(), "one", Errors(1, ("DLP",))),
        (None, "-1", None),
        (None, "", None),
        (None, None, None),
    ],
)
def test_the_root_port_counts_what_the_kernel_cannot_ask_a_card_for(host, put, own, port, fatal):
    """aer_get_device_error_info() reads no status of an endpoint with a fatal error."""
    if own is not None:
        put("aer_dev_fatal", own)
    if port is not None:
        put("aer_rootport_total_err_fatal", port, PORT)
    assert read(host).errors == ({} if fatal is None else {Severity.FATAL: fatal})


def test_the_root_port_tells_of_no_other_severity_and_of_no_other_card(host, put):
    for severity in Severity:
        put(f"aer_rootport_total_err_{severity}", "7", PORT)
    assert set(read(host).errors) == {Severity.FATAL}
    assert read(host, NIC).errors == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "RxErr 3",
        "TOTAL_ERR_FATAL 3",
        "RxErr 3\nTOTAL_ERR_COR",
        "RxErr three\nTOTAL_ERR_COR 3",
        "RxErr -1\nTOTAL_ERR_COR 3",
        "RxErr 0x3\nTOTAL_ERR_COR 3",
        "RxErr \u0663\nTOTAL_ERR_COR 3",
        "TOTAL_ERR_COR 3\nTOTAL_ERR_COR 0",
        "TOTAL_ERR_COR 999999999999999999999",
        "<script> 3\nTOTAL_ERR_COR 3",
        "\x1b[31m 3\nTOTAL_ERR_COR 3",
        f"{'a' * 100} 3\nTOTAL_ERR_COR 3",
        "RxErr 3\n\nTOTAL_ERR_COR 3",
        "RxErr 3\r\nTOTAL_ERR_COR 3",
    ],
)
def test_a_counter_that_is_none_is_not_known(host: hosttree.HostTree, put, text: str):
    put("aer_dev_correctable", text)
    assert read(host).errors == {}


def test_bytes_that_are_no_text_are_not_known(host: hosttree.HostTree, put):
    put("aer_dev_fatal", b"\xff\xfe 1\nTOTAL_ERR_FATAL 1\n")
    put("reset_method", b"\xff\n")
    found = read(host)
    assert (found.errors, found.reset_methods) == ({}, None)


@pytest.mark.parametrize(
    ("current", "own", "above", "seen"),
    [
        ("16", "16", "16", (16, 16)),
        ("8", "16", "8", (8, 8)),
        ("8", "16", "16", (8, 16)),
        ("4", "4", "16", (4, 4)),
        ("Unknown", "16", "16", (None, 16)),
        ("0", "16", "16", (None, 16)),
        ("63", "63", "16", (None, None)),
        ("255", "255", "255", (None, None)),
        ("3", "16", "16", (None, 16)),
        ("016", "16", "16", (None, 16)),
        ("x8", "16", "16", (None, 16)),
        ("8", "16", None, (8, None)),
        ("8", None, "16", (8, None)),
        (None, "16", "16", (None, 16)),
    ],
)
def test_the_link(host: hosttree.HostTree, put, current, own, above, seen):
    for name, value, address in (
        ("current_link_width", current, CARD),
        ("max_link_width", own, CARD),
        ("max_link_width", above, PORT),
    ):
        if value is not None:
            put(name, value, address)
    found = read(host)
    assert (found.width, found.widest) == seen


def test_without_a_port_above_nobody_knows_what_the_link_could_be(host: hosttree.HostTree, put):
    put("current_link_width", "4", NIC)
    put("max_link_width", "8", NIC)
    found = read(host, NIC)
    assert (found.width, found.widest) == (4, None)


def test_a_vf_has_no_link_of_its_own(host: hosttree.HostTree, put):
    put("current_link_width", "8", VF)
    put("max_link_width", "16", VF)
    assert (read(host, VF).width, read(host, VF).widest) == (None, None)


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("flr bus", ("flr", "bus")),
        ("device_specific acpi flr af_flr pm bus cxl_bus", None),
        ("", ()),
        ("flr  bus", "not known"),
        ("FLR", "not known"),
        ("flr\nbus", "not known"),
    ],
)
def test_how_it_is_reset(host: hosttree.HostTree, put, text: str, methods):
    put("reset_method", text)
    expected = tuple(text.split()) if methods is None else methods
    assert read(host).reset_methods == (None if methods == "not known" else expected)


@pytest.mark.parametrize(
    ("release", "methods"),
    [
        ("6.8.0-31-generic", ()),
        ("5.15.0-91-generic", ()),
        ("5.15", ()),
        ("5.14.0-427.el9", None),
        ("4.15.0-213-generic", None),
        ("", None),
        ("mine", None),
        ("6.8x", None),
    ],
)
def test_without_the_attribute_the_kernel_has_to_be_one_that_shows_it(host, release, methods):
    (host.directory(CARD) / "reset_method").unlink()
    host.write("proc/sys/kernel/osrelease", f"{release}\n")
    assert read(host).reset_methods == methods


def test_an_attribute_that_cannot_be_read_is_not_known(host: hosttree.HostTree):
    host.write("proc/sys/kernel/osrelease", "6.8.0-31-generic\n")
    path = host.directory(CARD) / "reset_method"
    path.unlink()
    path.symlink_to("/dev/zero")
    assert read(host).reset_methods is None
