"""Juju's agents on a machine, made up, and the charm's caretaker among them, run by systemd.

The agents are folders, and a service of the machine's agent that sleeps.
"""

import json

from lab import guest, story

FOLDER = "/var/lib/juju"
AGENTS = f"{FOLDER}/agents"
UNIT = f"{AGENTS}/unit-pci-passthrough-0"
AGENT_SERVICE = "jujud-machine-0"
AGENT = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
NAME = "pci-passthrough-caretaker"
RECORD = "/var/lib/pci-passthrough/pci-passthrough.json"
PROGRAM = "/var/lib/pci-passthrough/pci-passthrough.caretaker.pyz"
MEMORY = "/run/pci-passthrough.caretaker-pci-passthrough"
# Seconds that are not enough without any agent.
ALMOST_A_DAY = 23.5 * 3600
WATCHED = (*story.WATCHED, "/var/lib/pci-passthrough")


def begin(host: guest.Guest) -> None:
    """Start the machine's agent; the charm finds the folder of the agents when it is deployed."""
    host.write(f"/etc/systemd/system/{AGENT_SERVICE}.service", AGENT)
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "enable", "--now", AGENT_SERVICE])
    host.run(["mkdir", "-p", AGENTS])


def put_agents(host: guest.Guest) -> None:
    """Make the folders of the agents of the model that the record's owner is of."""
    model = json.loads(host.read(RECORD))["record"]["owner"]["model"]
    for name in ("machine-0", "unit-nova-compute-0", "unit-pci-passthrough-0"):
        host.run(["mkdir", "-p", f"{AGENTS}/{name}"])
        host.write(f"{AGENTS}/{name}/agent.conf", f"tag: {name}\nmodel: model-{model}\n")


def look(found: story.Story) -> tuple[bool, str]:
    """Have the caretaker's service run once; return whether it went well, and what it said."""
    host = found.host
    host.run(["systemctl", "reset-failed", NAME], check=False)
    since = host.run(["date", "+%s.%N"]).stdout.strip()
    done = host.run(["systemctl", "start", NAME], check=False)
    # What the service says itself, without systemd's lines about it.
    own = f"_SYSTEMD_UNIT={NAME}.service"
    said = host.run(["journalctl", own, "-o", "cat", f"--since=@{since}", "--quiet"]).stdout
    return not done.status, said


def has_memory(found: story.Story) -> bool:
    """Return whether the last look has seen evidence."""
    return not found.host.run(["test", "-e", MEMORY], check=False).status


def let_ten_minutes_pass(found: story.Story) -> None:
    """Date the first look back, and let nothing wait."""
    let_pass(found, 601)


def let_pass(found: story.Story, seconds: float) -> None:
    """Date the first look back, have that time count as seen, and let nothing wait."""
    memory = json.loads(found.host.read(MEMORY))
    memory["past"]["first"] -= seconds
    memory["past"]["seen"] += seconds
    memory["pause_until"] = 0
    found.host.write(MEMORY, json.dumps(memory))
    found.host.run(["chmod", "600", MEMORY])


def find_claims(host: guest.Guest) -> list[str]:
    """Return what of a claim the images on /boot and GRUB's configuration hold, line by line."""
    script = (
        "for image in /boot/initrd.img-*; do"
        ' lsinitramfs "$image" | sed "s|^|$image: |"; done | grep pci-passthrough;'
        " grep -E 'pci.passthrough|iommu=on' /boot/grub/grub.cfg"
    )
    return host.run(script, check=False).stdout.splitlines()
