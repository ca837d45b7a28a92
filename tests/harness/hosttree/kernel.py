"""What the kernel does when something is written below /sys/bus/pci or a module is loaded.

A model of drivers/base/bus.c, drivers/pci/pci-driver.c and drivers/vfio on a made-up tree. A tree
alone only records what is written to it; with these functions behind the writes (see fuse.py) it
answers: drivers bind, refuse and let go.
"""

from __future__ import annotations

import errno
import os
import pathlib
import shutil

DEVICES = "sys/bus/pci/devices"
DRIVERS = "sys/bus/pci/drivers"
VFIO_PCI = "vfio-pci"
NO_OVERRIDE = "(null)"
# What sysfs cannot tell: the native driver of each function.
NATIVE = ".made/native"
# What sysfs shows of a driver only while it is loaded: the module of each that is not named alike.
MODULES = ".made/modules"
# The variants of vfio-pci that the kernel has as modules: a file for each driver, with its module.
VARIANTS = ".made/variants"
# What stands there once a function is told to have VFs: DIRECTORY/PF/NUMBER-ADDRESS.
VFS = ".made/vfs"
GROUPS = "sys/kernel/iommu_groups"
AUTOPROBE = "sriov_drivers_autoprobe"
# The kernel's log: what was written to /dev/kmsg.
KMSG = ".made/kmsg"

_PAGE = 4096
_DRIVER_FILES = ("bind", "new_id", "remove_id", "uevent", "unbind")


def store(root: pathlib.Path, path: str, data: bytes) -> None:
    """Do what the kernel does on a write to a file below /sys.

    Args:
        root: the tree.
        path: the file, such as ``sys/bus/pci/drivers_probe``, without links on its way.
        data: what was written, in one piece.

    Raises:
        OSError: with the errno the kernel gives; EIO for a file whose effect is not modelled.
    """
    name = path.rpartition("/")[2]
    text = data.decode()
    if path == KMSG:
        with (root / KMSG).open("a") as log:
            log.write(text)
    elif name == "driver_override":
        _store_override(root / path, text)
    elif path == "sys/bus/pci/drivers_probe":
        if not (root / DEVICES / text.strip()).exists():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        probe(root, text.strip())
    elif name == AUTOPROBE:
        (root / path).write_text(f"{int(bool(int(text)))}\n")
    elif name == "sriov_numvfs":
        set_number_of_vfs(root, path.split("/")[-2], int(text))
    elif path.startswith(DRIVERS) and name in ("bind", "unbind"):
        _bind_or_unbind(root, path.split("/")[-2], text.strip(), bind=name == "bind")
    else:
        raise OSError(errno.EIO, f"{path}: writing it is not modelled")


def _store_override(file: pathlib.Path, text: str) -> None:
    if len(text) >= _PAGE - 1:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    file.write_text((text.removesuffix("\n") or NO_OVERRIDE) + "\n")


def _bind_or_unbind(root: pathlib.Path, driver: str, address: str, *, bind: bool) -> None:
    present = driver_of(root, address)
    if not bind and present == driver:
        set_driver(root, address, None)
    elif bind and present is None and wanted_driver(root, address) == driver:
        if not _probe_succeeds(root, address, driver):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        set_driver(root, address, driver)
    else:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def wanted_driver(root: pathlib.Path, address: str) -> str | None:
    """The only driver that may bind a function: its override, else its native driver."""
    override = (root / DEVICES / address / "driver_override").read_text().strip()
    if override != NO_OVERRIDE:
        return override
    native = root / NATIVE / address
    return native.read_text() if native.exists() else None


def driver_of(root: pathlib.Path, address: str) -> str | None:
    """The driver that a function is bound to."""
    link = root / DEVICES / address / "driver"
    return os.path.basename(os.readlink(link)) if link.is_symlink() else None


def probe(root: pathlib.Path, address: str) -> None:
    """Bind a function that has no driver to the one it wants, if that is loaded."""
    driver = wanted_driver(root, address)
    if driver is None or driver_of(root, address) or not (root / DRIVERS / driver).is_dir():
        return
    if _probe_succeeds(root, address, driver):
        set_driver(root, address, driver)


def set_number_of_vfs(root: pathlib.Path, address: str, number: int) -> None:
    """Let a function have so many VFs, as sriov_numvfs_store() of drivers/pci/iov.c does.

    What udev does then comes at once: it loads what the VFs' own modalias names.
    """
    device = (root / DEVICES / address).resolve()
    present = int((device / "sriov_numvfs").read_text())
    if number == present:
        return
    for refused, code in (
        (number > int((device / "sriov_totalvfs").read_text()), errno.ERANGE),
        (driver_of(root, address) is None, errno.ENOENT),
        (bool(number and present), errno.EBUSY),
    ):
        if refused:
            raise OSError(code, os.strerror(code))
    (device / "sriov_numvfs").write_text(f"{number}\n")
    kept = root / VFS / address
    if number:
        for index, stashed in enumerate(sorted(kept.iterdir())[:number]):
            _add_vf(root, device, index, stashed)
    else:
        for virtfn in sorted(device.glob("virtfn*")):
            _remove_vf(root, virtfn, kept)


def _add_vf(root: pathlib.Path, physfn: pathlib.Path, index: int, stashed: pathlib.Path) -> None:
    address = stashed.name.partition("-")[2]
    place = physfn.parent / address
    stashed.rename(place)
    link(root / DEVICES / address, place)
    link(place / "physfn", physfn)
    link(physfn / f"virtfn{index}", place)
    groups = [int(path.name) for path in (root / GROUPS).iterdir()]
    if groups:
        group = root / GROUPS / str(max(groups) + 1)
        (group / "devices").mkdir(parents=True)
        (group / "type").write_text("DMA-FQ\n")
        (group / "reserved_regions").write_text("0x00000000fee00000 0x00000000feefffff msi\n")
        link(group / "devices" / address, place)
        link(place / "iommu_group", group)
    probe(root, address)
    load(root, [(place / "modalias").read_text().strip()])


def _remove_vf(root: pathlib.Path, virtfn: pathlib.Path, kept: pathlib.Path) -> None:
    place = virtfn.resolve()
    set_driver(root, place.name, None)
    (place / "driver_override").write_text(f"{NO_OVERRIDE}\n")
    if (place / "iommu_group").is_symlink():
        shutil.rmtree((place / "iommu_group").resolve())
        (place / "iommu_group").unlink()
    for path in (virtfn, place / "physfn", root / DEVICES / place.name):
        path.unlink()
    place.rename(kept / f"{virtfn.name.removeprefix('virtfn')}-{place.name}")


def _is_kept_off(root: pathlib.Path, address: str) -> bool:
    """Whether its parent bars a VF's own driver: pci_device_can_probe() of pci-driver.c."""
    device = root / DEVICES / address
    autoprobe = device / "physfn" / AUTOPROBE
    return (
        autoprobe.exists()
        and autoprobe.read_text().strip() == "0"
        and (device / "driver_override").read_text().strip() == NO_OVERRIDE
    )


def _probe_succeeds(root: pathlib.Path, address: str, driver: str) -> bool:
    # vfio-pci refuses a device without an IOMMU group: "probe failed with error -22".
    if _is_kept_off(root, address):
        return False
    return not is_vfio(root, driver) or (root / DEVICES / address / "iommu_group").is_symlink()


def set_driver(root: pathlib.Path, address: str, driver: str | None) -> None:
    """Let a function be on a driver, or on none, in all places where sysfs shows that."""
    device = (root / DEVICES / address).resolve()
    former = driver_of(root, address)
    if former:
        (device / "driver").unlink()
        (root / DRIVERS / former / address).unlink()
    lines = (device / "uevent").read_text().splitlines(keepends=True)
    lines = [line for line in lines if not line.startswith("DRIVER=")]
    if driver:
        add_driver(root, driver)
        link(device / "driver", root / DRIVERS / driver)
        link(root / DRIVERS / driver / address, device)
        lines.insert(0, f"DRIVER={driver}\n")
    (device / "uevent").write_text("".join(lines))
    if is_vfio(root, former) or is_vfio(root, driver):
        _vfio_nodes(root, device, present=is_vfio(root, driver))
    show_enabled(root, address)
    # Linux 6.1 shows it of every device of VFIO's; here a variant alone has it.
    own = device / "vfio-dev"
    if driver != VFIO_PCI and is_vfio(root, driver):
        (own / "vfio0").mkdir(parents=True, exist_ok=True)
    elif is_vfio(root, former) and own.is_dir():
        shutil.rmtree(own)


def show_enabled(root: pathlib.Path, address: str) -> None:
    """Let ``enable`` of a function say what the kernel has done with it.

    A native driver enables what it binds. vfio-pci and its variants leave that to whoever opens the
    function: a process that has the group's node open is taken to have all of its functions.
    """
    device = root / DEVICES / address
    driver = driver_of(root, address)
    is_enabled = driver is not None
    if is_vfio(root, driver) and (device / "iommu_group").is_symlink():
        node = f"/dev/vfio/{os.path.basename(os.readlink(device / 'iommu_group'))}"
        descriptors = (root / "proc").glob("[0-9]*/fd/*")
        links = (os.readlink(each) for each in descriptors if each.is_symlink())
        is_enabled = node in links
    (device / "enable").write_text(f"{int(is_enabled)}\n")


def show_open(root: pathlib.Path) -> None:
    """Let ``enable`` of all functions follow what processes have opened or closed."""
    for device in (root / DEVICES).iterdir():
        show_enabled(root, device.name)


def _vfio_nodes(root: pathlib.Path, device: pathlib.Path, *, present: bool) -> None:
    # A group has its node while any of its functions is on vfio-pci.
    nodes = root / "dev/vfio"
    if not (device / "iommu_group").is_symlink():
        return
    group = (device / "iommu_group").resolve()
    others = [driver_of(root, member.name) for member in (group / "devices").iterdir()]
    if present:
        nodes.mkdir(parents=True, exist_ok=True)
        (nodes / "vfio").touch()
        (nodes / group.name).touch()
    elif not any(is_vfio(root, other) for other in others):
        (nodes / group.name).unlink(missing_ok=True)


def add_driver(root: pathlib.Path, driver: str) -> None:
    """Register a PCI driver: its directory below /sys/bus/pci/drivers."""
    directory = root / DRIVERS / driver
    directory.mkdir(parents=True, exist_ok=True)
    for name in _DRIVER_FILES:
        (directory / name).touch(mode=0o200)
    if (root / MODULES / driver).exists() and not (directory / "module").is_symlink():
        module = root / "sys/module" / module_of(root, driver)
        module.mkdir(parents=True, exist_ok=True)
        link(directory / "module", module)
    if (root / VARIANTS / driver).exists():
        drivers = root / "sys/module" / module_of(root, driver) / "drivers"
        drivers.mkdir(parents=True, exist_ok=True)
        if not (drivers / f"pci:{driver}").is_symlink():
            link(drivers / f"pci:{driver}", directory)


def remove_driver(root: pathlib.Path, driver: str) -> None:
    """Unregister a driver: its functions lose it first."""
    for entry in list((root / DRIVERS / driver).iterdir()):
        if entry.is_symlink() and entry.name != "module":
            set_driver(root, entry.name, None)
    shutil.rmtree(root / DRIVERS / driver)
    if (root / VARIANTS / driver).exists():
        shutil.rmtree(root / "sys/module" / module_of(root, driver), ignore_errors=True)


def load(root: pathlib.Path, names: list[str]) -> bool:
    """Do what modprobe does: load modules by name or alias; new drivers bind what they want.

    Args:
        root: the tree.
        names: modules (``_`` and ``-`` alike) or modaliases. A blacklisted module is loaded by its
            name and not by an alias: modprobe.d(5).

    Returns:
        False when a name is neither a module of the tree nor the alias of one of its functions.
    """
    blacklist = blacklisted(root)
    for name in names:
        drivers = _drivers_of_alias(root, name) if ":" in name else _drivers_of_module(root, name)
        if not drivers:
            return False
        for driver in drivers:
            if ":" in name and module_of(root, driver) in blacklist:
                continue
            if (root / DRIVERS / driver).is_dir():
                continue  # loaded already: modprobe does nothing, so nothing is probed
            add_driver(root, driver)
            (root / "sys/module" / module_of(root, driver)).mkdir(parents=True, exist_ok=True)
            _offer_all(root, driver)
    return True


def load_built_in(root: pathlib.Path, driver: str) -> None:
    """Register a driver that is part of the kernel image; it binds what wants it."""
    add_driver(root, driver)
    _offer_all(root, driver)


def _offer_all(root: pathlib.Path, driver: str) -> None:
    """Let a driver that was just registered bind what wants it: the kernel asks no other then."""
    for device in sorted((root / DEVICES).iterdir()):
        if wanted_driver(root, device.name) == driver:
            probe(root, device.name)


def _drivers_of_alias(root: pathlib.Path, alias: str) -> set[str]:
    return {
        (root / NATIVE / device.name).read_text()
        for device in (root / DEVICES).iterdir()
        if (device / "modalias").read_text().strip() == alias
        and (root / NATIVE / device.name).exists()
    }


def _drivers_of_module(root: pathlib.Path, name: str) -> set[str]:
    native = {path.read_text() for path in (root / NATIVE).iterdir()}
    known = {*native, *_variants(root), VFIO_PCI, "vfio_iommu_type1"}
    return {driver for driver in known if module_of(root, driver) == _normalize(name)}


def _variants(root: pathlib.Path) -> set[str]:
    directory = root / VARIANTS
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def is_vfio(root: pathlib.Path, driver: str | None) -> bool:
    """Whether a driver gives functions to guests: vfio-pci, or a variant that was made."""
    return driver is not None and (driver == VFIO_PCI or driver in _variants(root))


def blacklisted(root: pathlib.Path) -> set[str]:
    """Modules that modprobe.d or the kernel command line keeps from being loaded by alias."""
    found = set()
    for path in sorted((root / "etc/modprobe.d").glob("*.conf")):
        lines = [line.split() for line in path.read_text().splitlines()]
        found |= {words[1] for words in lines if words[:1] == ["blacklist"]}
    for token in (root / "proc/cmdline").read_text().split():
        option, _, value = token.partition("=")
        if option == "modprobe.blacklist":
            found |= set(value.split(","))
    return {_normalize(name) for name in found}


def module_of(root: pathlib.Path, driver: str) -> str:
    """Name of the module of a driver: as it was said, else they differ by ``-`` and ``_`` alone."""
    said = root / MODULES / driver
    return said.read_text() if said.exists() else _normalize(driver)


def _normalize(name: str) -> str:
    return name.replace("-", "_")


def link(path: pathlib.Path, target: pathlib.Path) -> None:
    """Make a relative symbolic link, as sysfs has them."""
    path.symlink_to(os.path.relpath(target.resolve(), path.parent.resolve()))
