"""The option ``kernel-options``: one table of what may be added to the kernel's command line. Pure.

An allow list: what the table does not hold is refused. A kernel passes what it does not know on to
PID 1, NAME=VALUE in its environment and a lone word among its arguments, and systemd, the initramfs
and cloud-init read the same line, so no list of what to refuse is ever complete.

Sources: the kernel's Documentation/admin-guide/kernel-parameters.txt and init/main.c
(``unknown_bootoption``), kernel-command-line(7), initramfs-tools(7), dracut.cmdline(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from passthrough import frozen
from passthrough.config import words
from passthrough.errors import OptionError

OPTION = "kernel-options"

# Root's shell sources the grub.d file, and grub-mkconfig writes the result into grub.cfg without
# quotes: no character here ends a word, a command or a string of either language.
_WRITTEN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(=[A-Za-z0-9_.,:/@+%-][A-Za-z0-9_.,:/@+%=-]{0,127})?"

_LEAVE_OUT = "leave it out"
_BY_HAND = (
    "put it into a file of your own in /etc/default/grub.d, or set it through charm-sysconfig"
)

_CLOUD_INIT = ("tells cloud-init what to do as root", _LEAVE_OUT)
# Reason and way out → the names that the charm never takes, even where the kernel has them. A name
# stands here as the kernel and systemd compare it, with "_" for "-", and without the "rd." that
# addresses the programs of the initramfs.
_NEVER = {
    # After a slip here no further reboot helps. The bare words are run levels and the like.
    ("decides what the host boots", _LEAVE_OUT): (
        "init", "rdinit", "initrd", "noinitrd", "root", "rootflags", "rootfstype", "boot",
        "nfsroot", "netroot", "overlayroot", "initcall_blacklist", "emergency", "rescue", "single",
        "recovery", "s", "S", "1", "2", "3", "4", "5", "break", "rdbreak",
    ),
    (
        "keeps drivers off",
        "name them in the option blacklist-drivers, which looks first whether the host needs them",
    ): (
        "modprobe.blacklist", "module_blacklist", "driver.blacklist", "rdblacklist",
    ),
    (
        "is this charm's own switch, for GRUB's menu",
        "to claim nothing, take the devices out of the option devices",
    ): ("pci_passthrough",),
    _CLOUD_INIT: ("cloud_config_url", "cloud_init", "ds", "network_config", "url"),
}  # fmt: skip
_NOIOMMU = ("lets guests write to all of the host's memory, and is never to be used", _LEAVE_OUT)
_SYSTEMD = ("tells systemd what to do, which decides what the host boots", _LEAVE_OUT)


# By ids a driver takes every device of a model, the host's own too; the other keeps a module off.
_OF_NO_MODULE = ("ids", "blacklist")


class Row(frozen.Value):
    """Names that are taken, and why they may be.

    Attributes:
        reason: what operators set them for; it stands in the documentation.
        names: as the kernel compares them, with ``_`` for ``-``. One that ends with a dot stands
            for every parameter of that module.
        parts: what each part of a value, between commas, has to match; None takes any value, and
            none.
    """

    reason: str
    names: tuple[str, ...]
    parts: str | None = None

    def has(self, name: str) -> bool:
        """Tell whether the row is about an option of this name."""
        module, _, parameter = name.partition(".")
        if f"{module}." in self.names:
            return bool(re.fullmatch(r"\w+", parameter)) and parameter not in _OF_NO_MODULE
        return name in self.names

    def takes(self, value: str) -> bool:
        """Tell whether each part of a value may be set; the value is empty where there is none."""
        if self.parts is None:
            # Firmware that a module names by ".." comes from outside its folder.
            return "=" not in value and ".." not in value
        return all(re.fullmatch(self.parts, part) for part in value.split(","))


_PCI = (
    r"realloc(=on|=off)?|nocrs|use_crs|noaer|noats|pcie_bus_(tune_off|safe|perf|peer2peer)"
    r"|big_root_window|ecrc=(bios|on|off)|hp(io|mem|mmio|mmiopref)size=\w+"
    r"|resource_alignment=[\w@:.]+|(disable_acs_redir|config_acs)=[\w@:./]+"
)

TABLE = (
    Row("huge pages for guests", (
        "hugepages", "hugepagesz", "default_hugepagesz", "hugetlb_cma", "hugetlb_free_vmemmap",
        "transparent_hugepage",
    )),
    Row("processors for guests and packet processing alone", (
        "isolcpus", "nohz", "nohz_full", "rcu_nocbs", "rcu_nocb_poll", "irqaffinity",
        "tuned.non_isolcpus", "rcutree.", "rcupdate.", "workqueue.", "threadirqs",
        "preempt", "skew_tick", "nosmt", "numa_balancing",
    )),
    Row("power states, which cost latency", (
        "intel_pstate", "amd_pstate", "intel_idle.", "processor.max_cstate", "cpuidle.",
        "cpufreq.default_governor", "usbcore.autosuspend", "nvme_core.default_ps_max_latency_us",
        "pcie_aspm", "pcie_aspm.policy", "pcie_port_pm",
    )),
    Row("the idle loop", ("idle",), r"poll|halt|nomwait"),
    Row("clocks and watchdogs", (
        "tsc", "clocksource", "hpet", "nmi_watchdog", "nowatchdog", "watchdog_thresh",
        "nosoftlockup", "softlockup_panic", "hardlockup_panic", "hung_task_panic", "mce",
        "split_lock_detect",
    )),
    Row("memory for large BARs, errors and payloads of PCI Express", ("pci",), _PCI),
    Row("who handles PCI Express services", ("pcie_ports",), r"compat|native|dpc-native"),
    Row("Intel's IOMMU, never off", ("intel_iommu",), (
        r"on|sm_on|sm_off|igfx_off|strict|forcedac|sp_off|relax_rmrr|tboot_noforce"
    )),
    # The kernel logs "on" as unknown; many a guide has it.
    Row("AMD's IOMMU, never off", ("amd_iommu",), (
        r"on|fullflush|force_enable|force_isolation|pgtbl_v[12]|irtcachedis|nohugepages"
        r"|v2_pgsizes_only"
    )),
    Row("how the IOMMU serves the host, never off", ("iommu",), (
        r"pt|nopt|force|merge|nomerge|panic|nopanic|fullflush"
    )),
    Row("the IOMMU of any vendor", (
        "iommu.passthrough", "iommu.strict", "iommu.forcedac",
    ), r"[01yYnN]"),
    Row("Arm's SMMU", ("arm_smmu.disable_bypass", "arm_smmu_v3.disable_bypass"), r"[01yYnN]"),
    Row("interrupt remapping, never off", ("intremap",), r"on|nosid|no_x2apic_optout|nopost"),
    Row("interrupts of AMD's IOMMU", ("amd_iommu_intr",), r"legacy|vapic"),
    Row("bounce buffers", ("swiotlb",), r"\d{1,9}|force"),
    Row("vfio, but for ids, which take every device of a model, and noiommu", (
        "vfio_pci.disable_idle_d3", "vfio_pci.disable_vga", "vfio_pci.disable_denylist",
        "vfio_pci.enable_sriov", "vfio_pci.nointxmask", "vfio_pci.dyndbg",
        "vfio_iommu_type1.disable_hugepages", "vfio_iommu_type1.dma_entry_limit",
        "vfio_iommu_type1.allow_unsafe_interrupts",
    )),
    Row("vfio in the initramfs", ("rd.driver.pre",), r"vfio|vfio[-_]pci|vfio_iommu_type1"),
    Row("KVM and its network", (
        "kvm.", "kvm_intel.", "kvm_amd.", "kvm_arm.", "vhost.", "vhost_net.",
    )),
    Row("a processor's flaws", (
        "mitigations", "nopti", "pti", "kpti", "nospectre_v1", "nospectre_v2", "nospectre_bhb",
        "spectre_v2", "spectre_v2_user", "spectre_bhi", "spec_store_bypass_disable",
        "nospec_store_bypass_disable", "ssbd", "l1tf", "l1d_flush", "mds", "tsx",
        "tsx_async_abort", "mmio_stale_data", "retbleed", "srbds", "gather_data_sampling",
        "reg_file_data_sampling", "spec_rstack_overflow", "indirect_target_selection", "tsa",
        "vmscape",
    )),
    Row("the console, and what is told on it", (
        "console", "consoleblank", "earlycon", "earlyprintk", "fbcon", "video", "nomodeset",
        "quiet", "splash", "nosplash", "debug", "loglevel", "ignore_loglevel", "log_buf_len",
        "printk.devkmsg", "printk.time", "dyndbg",
    )),
    Row("the text console's mode, never ask", ("vga",), r"normal|ext|\d{1,5}|0x[\da-fA-F]{1,4}"),
    # Keeps the firmware's framebuffer off a boot VGA that a guest is to have.
    Row("the firmware's framebuffer on a GPU for guests", ("initcall_blacklist",), (
        r"sysfb_init|simpledrm_platform_driver_init"
    )),
    Row("display drivers and VFs of GPUs", (
        "amdgpu.", "ast.", "i915.", "mgag200.", "nouveau.", "nvidia.", "nvidia_drm.", "radeon.",
        "xe.",
    )),
    Row("transceivers of other makers", ("ixgbe.allow_unsupported_sfp",)),
    Row("a disk that is slow to come", ("rootdelay", "nvme_core.io_timeout"), r"\d{1,10}"),
    Row("what is kept when the kernel stops", ("crashkernel", "panic", "panic_on_oops")),
    Row("control groups and accounting", (
        "cgroup_disable", "cgroup_enable", "cgroup_no_v1", "swapaccount", "psi", "audit",
        "audit_backlog_limit", "init_on_alloc", "init_on_free",
        "systemd.unified_cgroup_hierarchy", "systemd.legacy_systemd_cgroup_controller",
    )),
    Row("what systemd tells", tuple(
        f"{prefix}systemd.{name}"
        for prefix in ("", "rd.")
        for name in (
            "log_color", "log_level", "log_location", "log_ratelimit_kmsg", "log_target",
            "log_tid", "log_time", "show_status",
        )
    )),
)  # fmt: skip


def parse(text: str) -> tuple[str, ...]:
    """Read the option into single tokens, in the operator's order and as often as given.

    One ``hugepages=`` stands behind each ``hugepagesz=``, so a token may stand there twice. Whether
    the table holds a token is for `why_unlisted`: a host keeps one that it runs with.

    Raises:
        OptionError: naming the item and the way out.
    """
    tokens = words.split(OPTION, text, r"\s+")
    for number, token in enumerate(tokens, 1):
        if not re.fullmatch(_WRITTEN, token):
            raise OptionError(
                OPTION,
                "not NAME or NAME=VALUE of letters, digits and . _ - , : / @ + % (quotes, spaces,"
                " ; and $ cannot be passed on)",
                words.label(number, token),
            )
        refused = _why_never(token)
        if refused:
            fact, way_out = refused
            raise OptionError(OPTION, fact, words.label(number, token), way_out)
    return tuple(tokens)


def check(tokens: Iterable[str], in_force: Iterable[str]) -> tuple[str, ...]:
    """Refuse tokens that the table does not hold, but for those that a host runs with already.

    An earlier revision of the charm took nearly anything. What a host has come to depend on stays:
    taking it away would be one more reboot, and perhaps one too many.

    Args:
        tokens: what `parse` gave.
        in_force: what the charm itself has set on this host before.

    Returns:
        Those that are kept although the table does not hold them.

    Raises:
        OptionError: naming the first item that is refused, and the way out.
    """
    known = frozenset(in_force)
    kept: list[str] = []
    for number, token in enumerate(tokens, 1):
        refused = why_unlisted(token)
        if not refused:
            continue
        if token not in known:
            raise OptionError(OPTION, refused, words.label(number, token), _BY_HAND)
        kept.append(token)
    return tuple(dict.fromkeys(kept))


def why_unlisted(token: str) -> str | None:
    """Why the table does not hold a token; None where it does."""
    name, _, value = token.partition("=")
    name = _compared(name)
    row = next((each for each in TABLE if each.has(name)), None)
    if row is None:
        return "none of the kernel options that this charm sets"
    return None if row.takes(value) else f"no value that this charm sets ({row.reason})"


def _why_never(token: str) -> tuple[str, str] | None:
    """Why a token is never taken, with the way out; None where the table decides."""
    name = _compared(token.partition("=")[0]).removeprefix("rd.")
    # What follows is a configuration; cloud-init looks for it anywhere on the command line.
    if "cc:" in token:
        return (f'holds "cc:", which {_CLOUD_INIT[0]}', _LEAVE_OUT)
    if "noiommu" in _compared(token):
        return _NOIOMMU
    if why_unlisted(token) is None:
        return None
    for reason, names in _NEVER.items():
        if name in names:
            return reason
    return _SYSTEMD if name.startswith("systemd.") else None


def _compared(name: str) -> str:
    """A name as the kernel and systemd compare it."""
    return name.replace("-", "_")
