"""Run in a guest: has the host's own display card open, as a display service has it.

usage: own_card.py BYTES. The card is the one with a memory of that size, wherever it stands. Tells
systemd once the card is open; ends with status 1 where no driver has made a node of it in time.
"""

import pathlib
import signal
import subprocess
import sys
import time

SECONDS = 60.0
FIRST_REGION = 0


def find_card(size: int) -> str:
    """Return the node of the card of that size; "" where there is none yet."""
    for card in sorted(pathlib.Path("/sys/class/drm").glob("card?")):
        regions = (card / "device/resource").read_text().splitlines()
        start, end, _ = (int(word, 16) for word in regions[FIRST_REGION].split())
        if end - start + 1 == size:
            return f"/dev/dri/{card.name}"
    return ""


def main(size: str) -> None:
    """Wait for the card, open it, say so, and wait for a signal."""
    deadline = time.monotonic() + SECONDS
    while not (node := find_card(int(size))):
        if time.monotonic() > deadline:
            raise SystemExit("no driver has the card")
        time.sleep(1)
    with open(node, "rb"):
        subprocess.run(["systemd-notify", "--ready"], check=True)
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
