"""The actions' parameters: they choose among what the host has, and are never part of an answer."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, cast

import ops
import pytest
from harness import hosttree, made

import actions
from fuzz import judge, mutation
from passthrough import rebind
from passthrough.effects.tools import Tools
from passthrough.host import pci
from passthrough.reporting import inventory
from passthrough.site import Site

pytestmark = pytest.mark.faults

PARAMETERS = 500


class Event:
    """An action, as far as list-devices answers it."""

    handle = types.SimpleNamespace(kind="list_devices_action")

    def __init__(self, match: str, form: str):
        self.params = {"match": match, "format": form}
        self.results: dict[str, Any] = {}

    def set_results(self, results: dict[str, Any]) -> None:
        """Take the answer."""
        self.results = results


def test_a_hostile_match_chooses_or_does_not(tmp_path: Path):
    root = hosttree.compute_host(tmp_path / "host").root
    every = {each["address"]: each for each in inventory.describe(root, pci.read(root))}
    unit = types.SimpleNamespace(site=Site(root, "pci-passthrough"), config={})
    seen = set()
    for text in mutation.variants("match", mutation.seeds("match"), PARAMETERS):
        results: dict[str, Any] = {}
        for form in ("json", "table"):
            event = Event(text, form)
            actions.answer(cast(Any, unit), cast(ops.ActionEvent, event))
            results.update(event.results)
        found = json.loads(results["devices"])
        assert all(every[each["address"]] == each for each in found)
        table = results["table"]
        assert all(line.isprintable() for line in table.splitlines()), ascii(table)
        seen.add(len(found))
    assert {0, 1, len(every)} <= seen


def test_a_hostile_address_is_refused(tmp_path: Path):
    """The IOMMU is off, so that a good one is refused as well, and the kernel is not asked."""
    decision = made.decision(made.wanted("10de:1bb0"), *made.gpus("83", "84"))
    texts = mutation.variants("address", mutation.seeds("match"), PARAMETERS)
    for text in texts:
        with pytest.raises(rebind.RebindError) as caught:
            rebind.rebind(decision, rebind.Chosen(text), cast(Tools, None))
        judge.check_message(caught.value)
    assert list(tmp_path.iterdir()) == []
