"""The integration tests leave no endpoint out."""

from __future__ import annotations

import pathlib

import yaml
from integration import cloud

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_every_endpoint_and_no_other_is_integrated():
    metadata = yaml.safe_load((ROOT / "metadata.yaml").read_text(encoding="utf-8"))
    declared = {**metadata.get("requires", {}), **metadata.get("provides", {})}
    assert set(cloud.ENDPOINTS) == set(declared)
