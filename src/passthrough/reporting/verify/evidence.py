"""What verify looks at besides a decision: slow to read, and of no use to a hook. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from passthrough import frozen
from passthrough.config import options
from passthrough.errors import OptionError
from passthrough.host import exporter_files, generators, initramfs, modules, watch
from passthrough.host import guests as running
from passthrough.planning import boot_files
from passthrough.state import settled
from passthrough.survey import Decision
from passthrough.system import files, http_get, procfs, sysfs

_BOOTED = Path("/run/systemd/system")
_LOOPBACK = "127.0.0.1"
# Seconds. Prometheus waits for ten, and a host of hundreds of functions is read meanwhile.
_ANSWERS = 10.0


class Image(frozen.Value):
    """An initramfs: which of our files it lacks as they are now, or why it cannot be read.

    ``variants`` are the modules of variants of vfio-pci that claims need on its kernel, ``lacking``
    those of them that it does not hold; ``release`` is the kernel's.
    """

    path: str
    missing: tuple[str, ...] = ()
    has_vfio_pci: bool = False
    problem: str | None = None
    variants: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    release: str = ""


class Exporter(frozen.Value):
    """The exporter of metrics.

    ``is_wanted`` tells that the unit was last told so by its option; a relation wants it, too.
    ``files`` is what each of its files holds. ``port`` is where systemd listens for it on this
    host, None where nothing says so; ``problem`` is what is wrong with its answer, None where it
    was not asked, as of a root that is not this host's.
    """

    is_wanted: bool = False
    files: Mapping[str, str | None] = frozen.field(
        default_factory=dict[str, str | None], repr=False
    )
    port: int | None = None
    problem: str | None = None


class Seen(frozen.Value):
    """The host, as far as the checks look at it.

    ``remaps_interrupts`` and ``lockdown`` are None where the kernel does not tell.
    ``unsafe_interrupts`` and ``noiommu`` are vfio's parameters. ``holders`` maps a claimed function
    to the processes that hold it, ``guests`` a process to its guest's name, ``domains`` one to its
    domain of libvirt. ``rebuild`` is the
    command that makes all images of this host anew. ``caretaker`` is what each of the caretaker's
    files holds, and ``caretaker_is_off`` tells that somebody has turned it off. ``exporter`` tells
    of the metrics.
    """

    remaps_interrupts: bool | None = None
    unsafe_interrupts: bool = False
    noiommu: bool = False
    has_vfio_pci: bool = False
    vfio_is_built_in: bool = False
    lockdown: str | None = None
    images: tuple[Image, ...] = ()
    holders: Mapping[str, tuple[int, ...]] = frozen.field(
        default_factory=dict[str, tuple[int, ...]]
    )
    guests: Mapping[int, str] = frozen.field(default_factory=dict[int, str])
    domains: Mapping[int, running.Domain] = frozen.field(default_factory=dict[int, running.Domain])
    rebuild: str = ""
    caretaker: Mapping[str, str | None] = frozen.field(
        default_factory=dict[str, str | None], repr=False
    )
    caretaker_is_off: bool = False
    exporter: Exporter = frozen.field(default_factory=Exporter)


def read(decision: Decision, keep: bool = True) -> Seen:
    """Look at the host that a decision is about.

    Args:
        decision: what was asked for, and the host.
        keep: whether what the images hold is kept below /run for the next time.

    Raises:
        OSError: when it cannot be read.
    """
    root = decision.site.root
    module = root / "sys/module"
    built_in = _is_built_in(root)
    claimed = decision.outcome.addresses
    held = decision.facts.users.of(claimed)
    watched = not decision.facts.record.is_empty
    return Seen(
        caretaker=watch.read(root, decision.site.application) if watched else {},
        exporter=_exporter(decision),
        caretaker_is_off=files.read(root / watch.SWITCH) is not None,
        remaps_interrupts=_remaps_interrupts(root),
        unsafe_interrupts=_is_set(module / "vfio_iommu_type1/parameters/allow_unsafe_interrupts"),
        noiommu=_is_set(module / "vfio/parameters/enable_unsafe_noiommu_mode"),
        has_vfio_pci=sysfs.is_there_or_raise(root / "sys/bus/pci/drivers/vfio-pci"),
        vfio_is_built_in=built_in,
        lockdown=_lockdown(root),
        images=_images(decision, keep) if claimed else (),
        holders=held,
        guests={each.process: each.name for each in decision.facts.guests()} if held else {},
        domains=running.domains(root) if held else {},
        rebuild=" ".join(
            generators.rebuild_command(root, generators.served_by(decision.facts.machine.generator))
        ),
    )


def _exporter(decision: Decision) -> Exporter:
    site = decision.site
    try:
        told = settled.kept_options(site.root).get(site.application, {})
        is_wanted = options.parse_metrics(told).are_wanted
    except (OSError, OptionError):
        is_wanted = (
            False  # root alone reads what the unit was told; of an option its status says so
        )
    there = exporter_files.read(site.root, site.application)
    port = exporter_files.port_of(there[exporter_files.socket_path(site.application)] or "")
    problem = None
    # systemd listens for it, if it is this machine's first process (sd_booted(3)).
    listens = site.root == Path("/") and _BOOTED.is_dir()
    if decision.facts.record.exporter and port and listens:
        problem = http_get.find_problem(_LOOPBACK, port, "/metrics", _ANSWERS)
    return Exporter(is_wanted, there, port, problem)


def _remaps_interrupts(root: Path) -> bool | None:
    """Tell whether the IOMMU remaps interrupts, by the names of x86's interrupt controllers."""
    text = procfs.text_if_there(root, "interrupts")
    if "IO-APIC" not in text:
        return None
    # arch/x86/kernel/apic/io_apic.c and drivers/iommu: "IR-IO-APIC", "IR-PCI-MSI".
    return " IR-" in text


def _is_set(path: Path) -> bool:
    return sysfs.attribute_if_there(path) in ("Y", "1")


def _lockdown(root: Path) -> str | None:
    """Read the kernel's lockdown mode out of ``none [integrity] confidentiality``."""
    text = sysfs.attribute_if_there(root / "sys/kernel/security/lockdown") or ""
    return text.partition("[")[2].partition("]")[0] or None


def _is_built_in(root: Path) -> bool:
    listed = files.read(root / f"lib/modules/{procfs.release_if_there(root)}/modules.builtin")
    return bool(listed) and any(
        line.endswith("/vfio-pci.ko") for line in listed.content.splitlines()
    )


def _images(decision: Decision, keep: bool) -> tuple[Image, ...]:
    """Look into the initramfs that boots next, and into the running kernel's."""
    root, machine = decision.site.root, decision.facts.machine
    if machine.generator is None:
        return ()
    entry = machine.grub.entry
    initrds = entry.initrds if entry else ()
    found = initramfs.find(root, machine.generator, initrds, procfs.release_if_there(root))
    wanted = {
        file.path: present.content.encode("utf-8", "surrogateescape")
        for file in boot_files.owned_files(decision.site.application)
        if file.in_initramfs and (present := decision.facts.present.get(file.path))
    }
    releases = {path: release for release, path in initramfs.find_all(root).items()}

    def read_one(path: Path, shown: str) -> Image:
        image = _read_image(root, path, shown, wanted, keep)
        return _with_variants(image, decision, releases.get(path, ""))

    return tuple(read_one(path, shown) for path, shown in found.items())


def _with_variants(image: Image, decision: Decision, release: str) -> Image:
    """The same image, with the modules of variants that its kernel names for the claims."""
    named = modules.variants_among(claim.vfio.module_at(release) for claim in decision.claims)
    if image.problem or not named:
        return image
    lacking = tuple(each for each in named if each not in image.variants)
    return frozen.replace(image, variants=named, lacking=lacking, release=release)


def _read_image(
    root: Path, path: Path, shown: str, wanted: Mapping[str, bytes], keep: bool
) -> Image:
    try:
        contents = initramfs.look_up(root, path, wanted.values(), keep)
    except (initramfs.ImageError, OSError) as error:
        return Image(shown, problem=str(error))
    missing = [
        f"/{name}"
        for name, content in wanted.items()
        if initramfs.digest(content) not in contents.digests
    ]
    held = tuple(sorted(contents.modules))
    return Image(shown, tuple(missing), contents.has_vfio_pci, variants=held)
