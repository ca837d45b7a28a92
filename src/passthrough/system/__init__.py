"""Files, locks, commands, and the kernel's file systems. Knows nothing of PCI."""
