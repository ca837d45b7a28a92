"""What stands in many tests, once: the issue's cards, their drivers, and the charm's files.

Every tier may import it; nothing is imported here.
"""

from __future__ import annotations

APPLICATION = "pci-passthrough"
MODEL_UUID = "5f1f3a3b-6b5f-4a9b-8b1a-0c1d2e3f4a5b"

GPU_ID, AUDIO_ID, NIC_ID, NVME_ID = "10de:1bb0", "10de:10f0", "8086:1572", "144d:a808"
GPU_BUSES = ("83", "84", "85")
CARDS = tuple(f"0000:{bus}:00.{number}" for bus in GPU_BUSES for number in (0, 1))

# Two of the three cards are asked for, and the host keeps the third.
ONE = "gpu=10de:1bb0@0000:83:00.0"
GPUS = f"{ONE}, gpu=10de:1bb0@0000:84:00.0"
CLAIMED, SPARED = CARDS[:4], CARDS[4:]
DRIVERS = {address: ("nouveau", "snd_hda_intel")[int(address[-1])] for address in CARDS}
NATIVE = {address: DRIVERS[address] for address in CLAIMED}
KEPT = {address: DRIVERS[address] for address in SPARED}
READY = {**dict.fromkeys(CLAIMED, "vfio-pci"), **KEPT}

# Where files of the charm outlive a boot.
OWNED = ("etc", "var/lib", "usr/lib/dracut")

INIT_TOP = f"etc/initramfs-tools/scripts/init-top/{APPLICATION}"
INITRAMFS_HOOK = f"etc/initramfs-tools/hooks/{APPLICATION}"
GRUB = f"etc/default/grub.d/95-{APPLICATION}.cfg"
MODULES = f"etc/modules-load.d/{APPLICATION}.conf"
RULES = f"etc/udev/rules.d/60-{APPLICATION}.rules"
NOVA = f"etc/nova/nova.conf.d/{APPLICATION}.conf"
