"""The allow list of kernel options: what operators of GPU and NFV hosts set, and nothing else."""

from __future__ import annotations

import re

import hypothesis
import pytest
from harness import made
from hypothesis import strategies

from passthrough import errors
from passthrough.config import kernel_options

BY_HAND = "put it into a file of your own in /etc/default/grub.d, or set it through charm-sysconfig"
UNLISTED = f"none of the kernel options that this charm sets; {BY_HAND}"


def take(text: str, *in_force: str) -> tuple[str, ...]:
    """Parse the option on a host with these options in force; gives what is kept."""
    return kernel_options.check(kernel_options.parse(text), in_force)


def refuse(text: str, *in_force: str) -> errors.OptionError:
    with pytest.raises(errors.OptionError) as caught:
        take(text, *in_force)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "hugepagesz=1G hugepages=16 hugepagesz=2M hugepages=16 default_hugepagesz=1G",
        "isolcpus=managed_irq,domain,2-31 nohz_full=2-31 rcu_nocbs=2-31 irqaffinity=0,1",
        "intel_pstate=disable processor.max_cstate=1 intel_idle.max_cstate=0 idle=poll",
        "pci=realloc=off pci=nocrs,realloc pci=resource_alignment=20@0000:83:00.0",
        "pcie_aspm=off pcie_port_pm=off pcie_ports=native",
        "intel_iommu=on,sm_on intel_iommu=igfx_off amd_iommu=force_enable iommu=pt iommu=nopt",
        "intremap=no_x2apic_optout iommu.passthrough=1 iommu.strict=0 arm-smmu-v3.disable_bypass=0",
        "vfio-pci.disable_idle_d3=1 vfio_pci.disable_vga=1 vfio-pci.disable_denylist=1",
        "vfio-pci.enable_sriov=1 vfio_iommu_type1.dma_entry_limit=1000000 kvm.ignore_msrs=1",
        "kvm-intel.nested=1 vhost.max_mem_regions=512 transparent_hugepage=never",
        "mitigations=auto,nosmt spectre_v2=retpoline nopti tsx=on split_lock_detect=off",
        "console=tty0 console=ttyS0,115200n8 nomodeset video=efifb:off vga=0x317 vga=normal",
        "initcall_blacklist=sysfb_init quiet initcall_blacklist=simpledrm_platform_driver_init",
        "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller",
        "systemd.show_status=1 rd.systemd.log_level=debug systemd.log-level=debug",
        "crashkernel=512M-:192M numa_balancing=disable nmi_watchdog=0 i915.max_vfs=7",
    ],
)
def test_what_operators_of_such_hosts_set_is_taken_in_order_and_as_often_as_given(text: str):
    assert take(text) == ()
    assert made.wanted(kernel_options=text).kernel_options == tuple(text.split(" "))


@pytest.mark.parametrize(
    "token",
    [
        # The kernel's, which a module or the initrd stands or falls by.
        "blacklist=nvme,mlx5_core", "nomodule", "initrdmem=0x1000,0x1000", "vfio-pci.ids=144d:a808",
        "vfio_pci.ids=144d:a808", "pci-stub.ids=144d:a808", "nvme.use_threaded_interrupts=1",
        "pcie_acs_override=downstream", "acpi=off", "noapic", "memmap=4G@1G", "lsm=none",
        "apparmor=0", "selinux=0", "security=none", "net.ifnames=0", "rd.driver.pre=nvme",
        # PID 1's environment: what no part of the kernel knows goes there.
        "LD_PRELOAD=/var/lib/nova/x.so", "LD_LIBRARY_PATH=/home/u", "SYSTEMD_UNIT_PATH=/home/u:",
        "SYSTEMD_GENERATOR_PATH=/home/u", "PATH=/home/u", "container=lxc", "a=b:c", "x=%p", "S3=1",
        # What systemd's generators, dracut and the initramfs read.
        "fstab=no", "luks=no", "luks.uuid=x", "rd.lvm=0", "rd.lvm.vg=x", "rd.md=0", "rd.auto=0",
        "mount.usr=/dev/sdb", "resume=/dev/sdb", "modules_load=x", "rd.neednet=1", "ip=dhcp",
        "fsck.mode=skip", "udev.children_max=1", "multipath=off", "snapd_recovery_mode=run",
        "random.word", "word",
        # What no module of the table has as a parameter.
        "kvm.", "kvm.=1", "kvm..ids=1", "kvm.ids=1", "i915.ids=1", "nouveau.blacklist=1",
        "vhost.a.b=1",
    ],
)  # fmt: skip
def test_what_the_table_does_not_hold_is_refused_with_the_way_out(token: str):
    said = f'kernel-options: item 2 "{token}": '
    assert str(refuse(f"quiet {token}")).startswith(said)
    assert refuse(token).way_out == BY_HAND


def test_the_refusal_says_what_is_wrong_and_where_to_put_it():
    assert str(refuse("quiet a=b")) == f'kernel-options: item 2 "a=b": {UNLISTED}'
    assert str(refuse("intel_iommu=off")) == (
        'kernel-options: item 1 "intel_iommu=off": no value that this charm sets (Intel\'s IOMMU,'
        f" never off); {BY_HAND}"
    )


@pytest.mark.parametrize(
    "token",
    ["intel_iommu=off", "intel_iommu=on,off", "amd_iommu=off", "amd-iommu=off", "iommu=off",
     "iommu=soft", "iommu=pt,off", "intremap=off", "pci=off", "pci=noats,assign-busses", "pci",
     "vga=ask", "idle=x", "rd.driver.pre=vfio-pci,nvme", "intel_iommu", "iommu.passthrough=2",
     "i915.guc_firmware_path=../../home/u/x", "xe.guc_firmware_path=.."],
)  # fmt: skip
def test_a_dangerous_value_of_a_listed_name_is_refused(token: str):
    assert refuse(token).fact.startswith("no value that this charm sets (")


def test_initcalls_are_refused_but_for_those_of_the_firmwares_framebuffer():
    error = refuse("initcall_blacklist=sysfb_init,nvme_init")
    assert error.fact == "decides what the host boots"


class TestInForce:
    def test_what_has_left_the_list_stays_and_is_told(self):
        assert take("quiet a=b net.ifnames=0 a=b", "a=b", "net.ifnames=0") == (
            "a=b",
            "net.ifnames=0",
        )

    def test_a_new_one_beside_it_is_refused(self):
        assert refuse("a=b a=c", "a=b").item == 'item 2 "a=c"'

    @pytest.mark.parametrize("token", ["init=/bin/sh", "pci-passthrough=off", "x=cc:y", "rd.break"])
    def test_what_was_never_taken_is_refused_also_there(self, token: str):
        assert refuse(token, token).way_out != BY_HAND


# -- properties ----------------------------------------------------------------------------------

# Not out of the code under test: who reads the kernel's command line, and what for.
DECIDERS = (
    "init", "rdinit", "root", "rootflags", "rootfstype", "initrd", "initrdmem", "noinitrd",
    "resume", "resume_offset", "nfsroot", "nfsaddrs", "ip", "boot", "break", "blacklist",
    "module_blacklist", "modprobe.blacklist", "modules_load", "nomodule", "fstab", "luks",
    "luks.key", "mount.usr", "usrflags", "systemd.unit", "systemd.wants", "systemd.mask",
    "systemd.run", "systemd.setenv", "systemd.machine_id", "systemd.gpt_auto", "systemd.volatile",
    "systemd.debug_shell", "lvm", "lvm.lv", "md", "dm", "zfs", "driver.post", "driver.blacklist",
    "hostonly", "live.image", "emergency", "rescue", "single", "s", "S", "1", "2", "3", "4", "5",
    "ds", "url", "cloud_config_url", "network_config", "cloud_init", "overlayroot",
    "pci_passthrough", "vfio_pci.ids", "pci_stub.ids", "xen_pciback.hide", "vfio.noiommu",
    "vfio.enable_unsafe_noiommu_mode", "LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "PATH", "HOME",
    "TERM", "LANG", "GCONV_PATH", "SYSTEMD_UNIT_PATH", "SYSTEMD_LOG_TARGET", "container",
    "container_uuid", "http_proxy", "NOTIFY_SOCKET", "LISTEN_FDS", "BASH_ENV", "ENV",
)  # fmt: skip
VALUES = strategies.sampled_from(
    ["", "=0", "=1", "=no", "=off", "=/bin/sh", "=nvme", "=a,b", "=x:y"]
)
WORDS = strategies.text("abcdefilmnoprstuvx_-.ADHLP150", min_size=1, max_size=24)


def accepted(token: str) -> bool:
    try:
        return take(token) == ()
    except errors.OptionError:
        return False


@hypothesis.given(
    name=strategies.sampled_from(DECIDERS),
    prefix=strategies.sampled_from(["", "rd."]),
    swap=strategies.booleans(),
    value=VALUES,
)
def test_no_name_that_decides_what_boots_or_what_pid_1_does_is_accepted(
    name: str, prefix: str, swap: bool, value: str
):
    spelled = name.replace("_", "-") if swap else name
    assert not accepted(f"{prefix}{spelled}{value}")


@hypothesis.given(
    name=strategies.sampled_from(sorted({n for row in kernel_options.TABLE for n in row.names}))
    | WORDS,
    tail=strategies.just("") | WORDS,
    value=VALUES | strategies.text("=offn,icc:d%", max_size=12).map("={}".format),
)
def test_what_is_accepted_cannot_reach_pid_1_as_a_variable_that_it_knows(
    name: str, tail: str, value: str
):
    token = f"{name}{tail}{value}"
    if not accepted(token):
        return
    spelled = token.partition("=")[0]
    # Behind a dot is a module's parameter, which the kernel never passes on (init/main.c).
    assert re.fullmatch(r"[a-z0-9_-]+|[a-z0-9_-]+\.[A-Za-z0-9_.-]*|rd\.[a-z_.-]+", spelled)
    assert spelled.replace("-", "_") not in DECIDERS
    assert spelled.replace("-", "_").removeprefix("rd.") not in DECIDERS
    assert "cc:" not in token
    assert "noiommu" not in token.replace("-", "_")
    assert not re.search(r"[._]ids\b|^(intel_iommu|amd_iommu|iommu|intremap)=(.*,)?off\b", token)


def test_each_row_says_why_and_each_name_stands_in_one_row():
    names = [name for row in kernel_options.TABLE for name in row.names]
    assert sorted(names) == sorted(set(names))
    assert all(row.reason for row in kernel_options.TABLE)
    assert all("-" not in name for name in names)  # compared with "_" for "-"
