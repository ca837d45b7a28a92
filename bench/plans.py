"""Plan and apply for a growing number of claims, in this process, on a tree of files.

The made-up host's IOMMU is off, so that all there is to do is the charm's own: look, decide, render
and write. What a driver's bind takes, a kernel has to show; see lab.py.
"""

from __future__ import annotations

import io
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from harness import hosttree
from harness.hosttree import programs

from bench import pairs, trees
from passthrough import reconcile, survey
from passthrough.config import options
from passthrough.effects import tools
from passthrough.host import generators
from passthrough.site import Site

CLAIMS = (1, 8, 64, 512)
_APPLICATION = "pci-passthrough"


class MadeUpTools:
    """The host's commands; ``spent`` are the seconds in them, which are not the charm's."""

    def __init__(self, root: pathlib.Path):
        self._root = root
        self.spent = 0.0

    def rebuild(
        self,
        what: str,
        progress: Callable[[str], object],
        generator: generators.Generator | None = None,
        reached: Callable[[str], object] = tools.nobody,
    ) -> None:
        """Do to the tree what the real command does."""
        del generator, reached  # an update-initramfs is there, and knows; nobody asks
        started = time.process_time()
        programs.run(self._root, f"update-{what}", ["-u"])
        self.spent += time.process_time() - started
        progress(f"{what}: rebuilt")

    def load_vfio(self, variants: Iterable[str] = ()) -> None:
        """Nothing is bound while the IOMMU is off."""
        del variants

    def load_native(self, modalias: str) -> None:
        """Nothing is given back."""

    def running(self, service: str) -> str | None:
        """No service runs."""
        del service

    def restart(self, service: str) -> bool:
        """There is none to restart."""
        raise pairs.BenchError(f"{service}: a benchmark restarts nothing")

    def start_timer(self, name: str) -> None:
        """The made-up host has no systemd."""

    def stop_timer(self, name: str) -> None:
        """The made-up host has no systemd."""

    def start_socket(self, name: str) -> None:
        """The made-up host has no systemd."""

    def stop_socket(self, name: str) -> None:
        """The made-up host has no systemd."""

    def settle_devices(self) -> None:
        """Have nothing to wait for."""

    def reload_udev(self) -> None:
        """The made-up host has no udev."""

    def stop(self, service: str) -> None:
        """There is none to stop."""
        raise pairs.BenchError(f"{service}: a benchmark stops nothing")

    def start(self, service: str) -> None:
        """There is none to start."""
        raise pairs.BenchError(f"{service}: a benchmark starts nothing")


def measure(
    claims: Sequence[int], rounds: int, progress: Callable[[str], object]
) -> list[dict[str, Any]]:
    """Plan, apply and plan again; one row for each number of claims.

    Returns:
        Rows with the number of claims, the median processor seconds of a plan, of a first hook, of
        a hook with nothing left to do, and the first hook's seconds for each claim.
    """
    rows = []
    for count in claims:
        progress(f"plan and apply: {count} claims")
        times = [_life(count) for _ in range(rounds)]
        plan, first, again = (
            pairs.Spread.of([each[index] for each in times]).median for index in range(3)
        )
        rows.append(
            {
                "claims": count,
                "plan-seconds": round(plan, 5),
                "apply-seconds": round(first, 5),
                "again-seconds": round(again, 5),
                "apply-seconds-each": round(first / count, 6),
            }
        )
    return rows


def _life(count: int) -> tuple[float, float, float]:
    with pairs.scratch() as place:
        root = pathlib.Path(place, "host")
        hosttree.HostTree(root, ubuntu="22.04")
        trees.write(root, trees.cards(count), with_groups=False)
        wanted, tools = options.parse({"devices": "gpu=10de:1bb0"}), MadeUpTools(root)

        def look() -> survey.Decision:
            return survey.decide(wanted, survey.look(Site(root, _APPLICATION)))

        def hook() -> reconcile.Result:
            return reconcile.reconcile(Site(root, _APPLICATION), wanted, tools, io.StringIO().write)

        look()  # reads and renders for the first time in this process
        plan, before = _timed(look)
        first, done = _timed(hook)
        again, after = _timed(hook)
        if len(before.claims) != count or not done.outcome.did or after.outcome.did:
            raise pairs.BenchError(f"{count} claims: this is not what was to be measured")
        return plan, first - tools.spent, again


def _timed(do: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = do()
    return time.process_time() - started, result
