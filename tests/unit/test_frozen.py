"""What a frozen value has in common with a frozen dataclass, which it stands for."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from passthrough import frozen


class Card(frozen.Value):
    """A value with every kind of field."""

    address: str
    numbers: tuple[int, ...] = ()
    names: Mapping[str, str] = frozen.field(default_factory=dict[str, str])
    group: int | None = frozen.field(default=None, compare=False)
    text: str = frozen.field(default="", repr=False)

    @functools.cached_property
    def length(self) -> int:
        """How long the address is."""
        return len(self.address)


class Port(Card):
    """A value with more fields than its base has."""

    speed: int = 0


@dataclasses.dataclass(frozen=True)
class Model:
    """The same as a dataclass."""

    address: str
    numbers: tuple[int, ...] = ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    group: int | None = dataclasses.field(default=None, compare=False)
    text: str = dataclasses.field(default="", repr=False)


# Arguments, by position and by name, that make a value and a dataclass alike, or neither.
ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a",), {}),
    (("a", (1,)), {"names": {"b": "c"}}),
    ((), {"group": 3, "address": "a"}),
    ((), {}),
    (("a",), {"address": "b"}),
    (("a", (), {}, 1, "b"), {}),
    (("a", (), {}, 1, "b", 2), {}),
    (("a",), {"unknown": 1}),
    ((), {"unknown": 1}),
]


@pytest.mark.parametrize(("given", "named"), ARGUMENTS)
def test_it_takes_the_arguments_that_a_dataclass_takes(given: tuple[Any, ...], named: Any):
    try:
        wanted = Model(*given, **named)
    except TypeError:
        with pytest.raises(TypeError, match="Card takes"):
            Card(*given, **named)
    else:
        made = Card(*given, **named)
        assert repr(made) == repr(wanted).replace("Model", "Card")
        assert frozen.as_dict(made) == dataclasses.asdict(wanted)


def test_each_value_has_a_mapping_of_its_own():
    assert Card("a").names is not Card("a").names


def test_two_are_equal_where_the_fields_are_that_count():
    assert Card("a", group=1) == Card("a", group=2)
    assert hash(Card("a", names=(), group=1)) == hash(Card("a", names=(), group=2))  # type: ignore[arg-type]
    assert Card("a") != Card("b")
    assert Card("a") != Port("a")
    assert Card("a") != "a"
    assert Port("a", speed=1) != Port("a", speed=2)


def test_it_cannot_be_changed():
    card = Card("a")
    with pytest.raises(AttributeError, match="address is frozen"):
        card.address = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="address is frozen"):
        delattr(card, "address")
    assert card == Card("a")


def test_a_cached_property_works_and_is_no_field():
    card = Card("abc")
    assert card.length == 3
    assert card == Card("abc")
    assert frozen.replace(card, address="de").length == 2


def test_replace_makes_a_copy_and_knows_the_fields():
    assert frozen.replace(Port("a", speed=1), group=7) == Port("a", group=7, speed=1)
    with pytest.raises(TypeError, match="Card takes"):
        frozen.replace(Card("a"), colour="red")


def test_it_is_taken_apart_by_match_and_copied():
    match Card("a", (1,)):
        case Card(address, numbers):
            assert (address, numbers) == ("a", (1,))
    assert copy.deepcopy(Card("a", (1,))) == Card("a", (1,))


def test_the_functions_of_dataclasses_take_it():
    port = Port("a", (1,), speed=2)
    assert dataclasses.replace(port, speed=3) == Port("a", (1,), speed=3)
    assert [each.name for each in dataclasses.fields(Port)] == [
        *("address", "numbers", "names", "group", "text", "speed")
    ]
    assert dataclasses.asdict(port) == frozen.as_dict(port)


def test_it_imports_nothing_that_takes_long():
    code = "import sys, passthrough.frozen; sys.exit('dataclasses' in sys.modules)"
    source = pathlib.Path(frozen.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=source, check=False)
    assert done.returncode == 0
