"""While a hook imports, nothing is collected; afterwards what is there is left alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import garbage


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Leave Python's collector as it was."""
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_until_it_is_resumed():
    garbage.pause()
    assert not gc.isenabled()
    garbage.resume()
    assert gc.isenabled()


def test_what_is_there_by_then_is_not_looked_at_again():
    before = gc.get_freeze_count()
    garbage.pause()
    garbage.resume()
    assert gc.get_freeze_count() > before
