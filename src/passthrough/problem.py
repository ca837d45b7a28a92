"""What an operator has to mend, as a value; `reporting.words` makes the sentence of it."""

from __future__ import annotations

import enum

from passthrough import frozen


class Kind(enum.Enum):
    """Every kind of problem but the guards' objections, which their rules name."""

    IOMMU_IS_OFF = "iommu-is-off"
    KERNEL_LACKS_OPTIONS = "kernel-lacks-options"
    ON_ANOTHER_DRIVER = "on-another-driver"
    VFS_WAIT = "vfs-wait"
    VFS_DIFFER_IN_NUMBER = "vfs-differ-in-number"
    EXPECTATION_UNMET = "expectation-unmet"
    GRUB_LACKS_OPTIONS = "grub-lacks-options"
    GRUB_IS_OVERRULED = "grub-is-overruled"
    IOMMU_IS_TURNED_OFF = "iommu-is-turned-off"
    OPTION_LOSES = "option-loses"
    DEVICE_TYPE_NEVER_MATCHES = "device-type-never-matches"
    PCI_DOMAIN_TOO_HIGH = "pci-domain-too-high"
    PART_OF_A_CARD = "part-of-a-card"
    PF_BESIDE_VF = "pf-beside-vf"
    ONE_TIME_USE_OF_A_VF = "one-time-use-of-a-vf"
    ONE_TIME_USE_NEEDS_PLACEMENT = "one-time-use-needs-placement"
    VFS_DIFFER = "vfs-differ"
    OFFERED_DIFFERENTLY = "offered-differently"
    ALIAS_OF_SEVERAL_MODELS = "alias-of-several-models"
    ALIAS_DIFFERS = "alias-differs"
    NO_NOVA_GROUP = "no-nova-group"
    REPORTED_FOR_GOOD = "reported-for-good"


class Problem(frozen.Value):
    """One thing that is wrong.

    Attributes:
        kind: which of the things that can be wrong; for programs.
        fact: what is wrong, said of ``subject`` where there is one.
        way_out: what an operator does about it; empty where the fact says it all.
        cause: what makes it so, where that is known and is not the fact itself.
        subject: a path, an address or an alias.
        where: what names the subject, from the outside in: an option, an item, an address.
    """

    kind: Kind
    fact: str
    way_out: str = ""
    cause: str = ""
    subject: str = ""
    where: tuple[str, ...] = ()
