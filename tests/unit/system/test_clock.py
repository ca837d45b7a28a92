"""The wall's clock."""

from __future__ import annotations

import time

from passthrough.system import clock


def test_it_is_in_whole_seconds():
    before = int(time.time())
    assert before <= clock.now() <= time.time()
    assert isinstance(clock.now(), int)
