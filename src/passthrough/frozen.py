"""Frozen values: a class whose fields are its annotations, as in a frozen dataclass.

Each hook and each `list` makes every class anew, and `dataclasses` compiles six functions for each.
Of a hook's own imports that was half: a class of five fields costs 2.8 million instructions that
way, 0.6 as a NamedTuple, and 0.05 here, where all values share their functions. What those of
`dataclasses` do with a dataclass (`replace`, `fields`, `asdict`) they do with a value.
"""

from __future__ import annotations

from passthrough import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ClassVar, TypeVar

    from typing_extensions import dataclass_transform

    V = TypeVar("V", bound="Value")
else:

    def dataclass_transform(**_):
        """Tell type checkers; here, nothing."""
        return lambda cls: cls


class _Field:
    """What `field` says of a field, until its class is made."""

    def __init__(self, given: Mapping[str, Any]):
        self.given = given


def field(**given: Any) -> Any:
    """Describe a field further.

    Args:
        given: ``default`` or ``default_factory``, ``compare=False`` for a field that neither
            equality nor the hash looks at, ``repr=False`` for one that is not printed.
    """
    return _Field(given)


class _AsDataclass:
    """The fields in the words of `dataclasses`, for whoever asks: tests, and the JSON of checks."""

    def __get__(self, _: object, owner: type[Value]) -> Mapping[str, Any]:
        import dataclasses

        fields = [
            (name, "object", dataclasses.field(kw_only=True)) for name in owner.__match_args__
        ]
        made: Any = dataclasses.make_dataclass(owner.__name__, fields)
        return made.__dataclass_fields__


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Value:
    """The base of a frozen value.

    Two are equal when they are of one class and their fields are. A `functools.cached_property`
    works, and is no field.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}
    _factories: ClassVar[dict[str, Callable[[], Any]]] = {}
    _compared: ClassVar[tuple[str, ...]] = ()
    _unshown: ClassVar[frozenset[str]] = frozenset()
    if not TYPE_CHECKING:  # type checkers make one of each class's own fields
        __dataclass_fields__ = _AsDataclass()

        def __init__(self, *given, **named):
            cls = type(self)
            fields = cls.__match_args__
            values = {**cls._defaults, **dict(zip(fields, given, strict=False)), **named}
            for name, make in cls._factories.items():
                if name not in values:
                    values[name] = make()
            twice = given and not named.keys().isdisjoint(fields[: len(given)])
            if twice or len(given) > len(fields) or values.keys() != set(fields):
                raise TypeError(f"{cls.__name__} takes {fields}, not {given} and {named}")
            self.__dict__.update(values)

    def __init_subclass__(cls) -> None:
        own = cls.__annotations__
        cls.__match_args__ = (*cls.__match_args__, *own)
        cls._defaults, cls._factories = dict(cls._defaults), dict(cls._factories)
        hidden: set[str] = set()
        for name in own:
            if name not in cls.__dict__:
                continue
            default = cls.__dict__[name]
            if not isinstance(default, _Field):
                cls._defaults[name] = default
                continue
            delattr(cls, name)
            if "default" in default.given:
                cls._defaults[name] = default.given["default"]
            if "default_factory" in default.given:
                cls._factories[name] = default.given["default_factory"]
            if not default.given.get("compare", True):
                hidden.add(name)
            if not default.given.get("repr", True):
                cls._unshown = cls._unshown | {name}
        cls._compared = (*cls._compared, *(name for name in own if name not in hidden))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return _contents(self) == _contents(other)

    def __hash__(self) -> int:
        return hash(_contents(self))

    def __repr__(self) -> str:
        shown = [name for name in self.__match_args__ if name not in self._unshown]
        fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in shown)
        return f"{type(self).__qualname__}({fields})"

    def __setattr__(self, name: str, _: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")


def _contents(value: Any) -> tuple[Any, ...]:
    return tuple([value.__dict__[name] for name in value._compared])


def replace(value: V, **changes: Any) -> V:
    """Give a copy of a value with some fields changed."""
    return type(value)(**{**as_dict(value), **changes})


def as_dict(value: Value) -> dict[str, Any]:
    """Give the fields of a value and what they hold, in their order; values among it stay."""
    return {name: value.__dict__[name] for name in value.__match_args__}
