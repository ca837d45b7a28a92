"""The only writers: drivers, files of the host, services, reboots."""
