"""Digests that the next revision of the charm has to find again."""

from __future__ import annotations

import dataclasses
import enum

import pytest

from passthrough.state import digest


def test_a_digest_is_what_it_was():
    """Pinned: what stands in records and below /run must not change with the charm."""
    assert digest.of(2, {"b": ["x", None, True, 1], "a": "é"}) == (
        "2:08a109e61539ac8aa28c041f987d561a5772730c91eebf70298b59c1ec76a722"
    )


def test_the_order_of_a_mapping_does_not_count_and_that_of_a_sequence_does():
    assert digest.of(1, {"a": "1", "b": "2"}) == digest.of(1, {"b": "2", "a": "1"})
    assert digest.of(1, ["a", "b"]) != digest.of(1, ["b", "a"])
    assert digest.of(1, ("a", "b")) == digest.of(1, ["a", "b"])


@pytest.mark.parametrize("value", ["b", ["a"], {"a": None}, None, "", 0, False, "A", "a "])
def test_another_value_has_another(value: digest.Plain):
    assert digest.of(1, value) != digest.of(1, "a")


def test_another_version_has_another():
    one, two = digest.of(1, "a"), digest.of(2, "a")
    assert (one[:2], two[:2]) == ("1:", "2:")
    assert one[2:] == two[2:]


def test_a_name_that_is_no_text_has_one_too():
    """A path may hold any byte, and comes as a surrogate."""
    assert digest.of(1, "\udcff") != digest.of(1, "\udcfe")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Thing:
    name: str = "x"


@pytest.mark.parametrize("value", [Colour.RED, Thing(), {"x": Thing()}, {1, 2}, b"x"])
def test_what_is_not_plain_is_refused(value: object):
    with pytest.raises(TypeError):
        digest.of(1, value)  # pyright: ignore[reportArgumentType] - that is what it is about
