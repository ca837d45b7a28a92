"""The configuration as a whole: defaults, and what may reach the kernel's command line."""

from __future__ import annotations

import re
from typing import Any

import hypothesis
import pytest
import yaml
from harness import made
from hypothesis import strategies

from passthrough import errors
from passthrough.config import devices, kernel_options, options


def test_an_option_that_is_not_there_has_its_default():
    assert options.parse({}) == options.Options()


def test_config_yaml_says_the_same_defaults(charm_root):
    declared = yaml.safe_load((charm_root / "config.yaml").read_text())["options"]
    given = {name: row["default"] for name, row in declared.items()}
    assert options.parse(given) == options.Options()


def test_every_option_is_read():
    parsed = made.wanted(
        "gpu=10de:1bb0",
        iommu="off",
        iommu_passthrough=True,
        allow_unsafe_interrupts=True,
        blacklist_drivers="nouveau, nvidiafb nouveau",
        kernel_options="pci=realloc\thugepagesz=1G hugepages=64\npci=realloc",
    )
    assert (
        parsed.devices,
        parsed.iommu,
        parsed.iommu_passthrough,
        parsed.allow_unsafe_interrupts,
        parsed.blacklist_drivers,
        parsed.kernel_options,
    ) == (
        devices.Spec((devices.Item(1, "10de", "1bb0", alias="gpu"),)),
        False,
        True,
        True,
        ("nouveau", "nvidiafb"),
        ("pci=realloc", "hugepagesz=1G", "hugepages=64", "pci=realloc"),
    )


@pytest.mark.parametrize(("text", "on"), [("auto", True), ("manual", False), ("off", False)])
def test_iommu_has_a_word_that_yaml_makes_no_boolean_of(text: str, on: bool):
    assert made.wanted(iommu=text).iommu is on
    assert text == "off" or yaml.safe_load(text) == text


@pytest.mark.parametrize(("value", "keep"), [(None, False), ("restore", False), ("keep", True)])
def test_on_removal(value: str | None, keep: bool):
    assert options.parse_keep(value) is keep
    given = {} if value is None else {"on-removal": value}
    assert options.parse(given).keep is keep


@pytest.mark.parametrize(
    ("text", "drivers"),
    [("auto", None), (" auto ", None), ("", ()), (" , ", ()), ("xe i915", ("i915", "xe"))],
)
def test_blacklist_drivers(text: str, drivers: tuple[str, ...] | None):
    assert made.wanted(blacklist_drivers=text).blacklist_drivers == drivers


@pytest.mark.parametrize(
    "token",
    ["quiet", "pci=realloc,noaer", "isolcpus=2-31", "hugepages=64", "console=ttyS0,115200n8",
     "video=efifb:off", "crashkernel=1G@64M", "vfio_pci.dyndbg=+p", "dyndbg=%p",
     "systemd.log_level=debug", "systemd.unified_cgroup_hierarchy=1", "rd.driver.pre=vfio-pci",
     "iommu.strict=0", "debug", "rootdelay=5"],
)  # fmt: skip
def test_kernel_option_is_taken_as_it_is(token: str):
    assert made.wanted(kernel_options=token).kernel_options == (token,)
    assert kernel_options.why_unlisted(token) is None


BAD_KERNEL_OPTION = (
    "not NAME or NAME=VALUE of letters, digits and . _ - , : / @ + % (quotes, spaces, ; and $"
    " cannot be passed on)"
)
DECIDES_THE_BOOT = "decides what the host boots; leave it out"
BAD_DRIVER = (
    "not a module name (letters, digits, '_' and '-'); write auto, or names such as"
    " nouveau,nvidiafb"
)
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "iommu": ({"iommu": "on"}, 'iommu: "on" is not one of auto, manual, off'),
    "on-removal": (
        {"on_removal": "true"},
        'on-removal: "true" is not one of restore, keep',
    ),
    "iommu-shell": ({"iommu": "$(x)\n"}, r'iommu: "$(x)\n" is not one of auto, manual, off'),
    "kernel-substitution": (
        {"kernel_options": "quiet $(reboot)"},
        f'kernel-options: item 2 "$(reboot)": {BAD_KERNEL_OPTION}',
    ),
    "kernel-quote": (
        {"kernel_options": 'a="b'},
        f'kernel-options: item 1 "a="b": {BAD_KERNEL_OPTION}',
    ),
    "kernel-backslash": (
        {"kernel_options": "a=\\"},
        rf'kernel-options: item 1 "a=\\": {BAD_KERNEL_OPTION}',
    ),
    "kernel-backticks": (
        {"kernel_options": "`x`"},
        f'kernel-options: item 1 "`x`": {BAD_KERNEL_OPTION}',
    ),
    "kernel-empty-value": (
        {"kernel_options": "a="},
        f'kernel-options: item 1 "a=": {BAD_KERNEL_OPTION}',
    ),
    "kernel-dashes": (
        {"kernel_options": "--"},
        f'kernel-options: item 1 "--": {BAD_KERNEL_OPTION}',
    ),
    "kernel-root": (
        {"kernel_options": "quiet root=/dev/sdb1"},
        f'kernel-options: item 2 "root=/dev/sdb1": {DECIDES_THE_BOOT}',
    ),
    "kernel-init": (
        {"kernel_options": "init=/bin/sh"},
        f'kernel-options: item 1 "init=/bin/sh": {DECIDES_THE_BOOT}',
    ),
    "kernel-run-level": (
        {"kernel_options": "quiet 1"},
        f'kernel-options: item 2 "1": {DECIDES_THE_BOOT}',
    ),
    "kernel-systemd": (
        {"kernel_options": "systemd.unit=emergency.target"},
        'kernel-options: item 1 "systemd.unit=emergency.target": tells systemd what to do, which'
        " decides what the host boots; leave it out",
    ),
    "kernel-noiommu": (
        {"kernel_options": "vfio.enable_unsafe_noiommu_mode=1"},
        'kernel-options: item 1 "vfio.enable_unsafe_noiommu_mode=1": lets guests write to all of'
        " the host's memory, and is never to be used; leave it out",
    ),
    "kernel-blacklist": (
        {"kernel_options": "modprobe.blacklist=nvme"},
        'kernel-options: item 1 "modprobe.blacklist=nvme": keeps drivers off; name them in the'
        " option blacklist-drivers, which looks first whether the host needs them",
    ),
    "kernel-off-switch": (
        {"kernel_options": "pci-passthrough=off"},
        "kernel-options: item 1 \"pci-passthrough=off\": is this charm's own switch, for GRUB's"
        " menu; to claim nothing, take the devices out of the option devices",
    ),
    "kernel-cloud-config": (
        {"kernel_options": "x=cc:bootcmd%3A%5Breboot%5D"},
        'kernel-options: item 1 "x=cc:bootcmd%3A%5Breboot%5D": holds "cc:", which tells cloud-init'
        " what to do as root; leave it out",
    ),
    "kernel-too-many": (
        {"kernel_options": " ".join(f"a{number}" for number in range(65))},
        "kernel-options: the list: there are 65, and at most 64 are accepted",
    ),
    "driver-path": (
        {"blacklist_drivers": "nouveau,../x"},
        f'blacklist-drivers: item 2 "../x": {BAD_DRIVER}',
    ),
    "driver-quote": ({"blacklist_drivers": 'a"'}, f'blacklist-drivers: item 1 "a"": {BAD_DRIVER}'),
    "driver-vfio": (
        {"blacklist_drivers": "vfio-pci"},
        'blacklist-drivers: item 1 "vfio-pci": the claimed devices need this driver; leave it out',
    ),
    "driver-vfio-type1": (
        {"blacklist_drivers": "vfio_iommu_type1"},
        'blacklist-drivers: item 1 "vfio_iommu_type1": the claimed devices need this driver; leave'
        " it out",
    ),
    "driver-too-many": (
        {"blacklist_drivers": ",".join(f"a{number}" for number in range(65))},
        "blacklist-drivers: the list: there are 65, and at most 64 are accepted",
    ),
    "devices": (
        {"devices": "10de"},
        'devices: item 1 "10de": "10de" is not VENDOR:PRODUCT, e.g. 10de:1bb0',
    ),
}


@pytest.mark.parametrize(("config", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusal_names_option_item_and_reason(config: dict[str, Any], message: str):
    with pytest.raises(errors.OptionError) as caught:
        made.wanted(**config)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "token",
    ["a=b;reboot", "x=1;halt", "a=b;", "a;b", "x=a{b", "x=a}", "x=a|b", "x=a&b", "x=a<b", "x=a>b"],
)
def test_what_ends_a_command_of_grub_is_refused(token: str):
    """grub-mkconfig writes the arguments without quotes into grub.cfg, which is a program."""
    _, error = made.attempt(made.wanted, kernel_options=token)
    assert error
    assert error.reason == BAD_KERNEL_OPTION


@pytest.mark.parametrize(
    "token",
    ["emergency", "rescue", "single", "recovery", "s", "S", "1", "5", "break", "break=top",
     "rd.break", "rd.break=pre-mount", "rd.rescue", "rdinit=/bin/sh", "noinitrd", "boot=nfs",
     "overlayroot=tmpfs", "initcall_blacklist=nvme_init",
     "systemd.run=/sbin/poweroff", "systemd.mask=ssh.service", "systemd.wants=x.service",
     "rd.systemd.unit=rescue.target", "systemd.debug-shell", "systemd.debug_shell",
     "systemd.volatile=yes", "systemd.set_credential=a:b",
     "vfio.enable-unsafe-noiommu-mode=1", "vfio_iommu_type1.noiommu=1",
     "module_blacklist=vfio-pci", "module-blacklist=nvme", "rd.driver.blacklist=nvme",
     "pci-passthrough", "pci_passthrough=off",
     "cloud-config-url=http://x/y", "url=http://x/y", "ds=nocloud", "network-config=e30",
     "cloud-init=disabled"],
)  # fmt: skip
def test_what_keeps_a_host_from_booting_or_takes_a_guard_away_is_refused(token: str):
    _, error = made.attempt(made.wanted, kernel_options=f"quiet {token}")
    assert error
    assert str(error).startswith(f'kernel-options: item 2 "{token}": ')
    assert "; " in error.reason  # the way out


@pytest.mark.parametrize("separator", ["\u00a0", "\u2028", "\x85", "\x1c"], ids=ascii)
@pytest.mark.parametrize("option", ["kernel_options", "blacklist_drivers"])
def test_what_python_calls_a_blank_never_reaches_a_file(option: str, separator: str):
    """`re` and `str.split` both take more for white space than a shell does."""
    parsed, _ = made.attempt(made.wanted, **{option: f"aa{separator}bb"})
    assert parsed is None or set(getattr(parsed, option)) == {"aa", "bb"}


@hypothesis.given(strategies.text() | strategies.text("ab=$`\"'\\;. \n\t/|&#", max_size=30))
def test_an_accepted_kernel_option_is_one_plain_shell_word(text: str):
    parsed, error = made.attempt(made.wanted, kernel_options=text)
    assert error is None or error.option == "kernel-options"
    for token in parsed.kernel_options if parsed else ():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.,:/@+%=-]*", token)


@hypothesis.given(strategies.text() | strategies.text("ab,- \n$'\"_", max_size=30))
def test_an_accepted_driver_is_a_module_name(text: str):
    parsed, error = made.attempt(made.wanted, blacklist_drivers=text)
    assert error is None or error.option == "blacklist-drivers"
    for name in (parsed.blacklist_drivers or ()) if parsed else ():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)
