"""One module for each kind of use of a PCI function by the host; none knows another."""
