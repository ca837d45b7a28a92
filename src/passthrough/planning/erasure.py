"""How an NVMe controller's namespaces can be erased, and what is against it. Pure.

What was not erased is never called erased: a way counts only where it reaches all that a guest can
have written.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from passthrough.system import nvme_admin


class Method(enum.Enum):
    """The ways to erase, the better first; the values are for people and programs."""

    SANITIZE_BLOCK = "sanitize (block erase)"
    SANITIZE_CRYPTO = "sanitize (crypto erase)"
    FORMAT = "format (user data erase)"

    @property
    def is_sanitize(self) -> bool:
        """Whether it has the whole subsystem, in a namespace or not."""
        return self in (Method.SANITIZE_BLOCK, Method.SANITIZE_CRYPTO)


class Told(NamedTuple):
    """What a controller has told.

    Attributes:
        controller: itself.
        controllers: the numbers of all controllers in its subsystem; None where it tells none.
        namespaces: the active ones, in order.
        allocated: the numbers of those that are there, attached or not; None where it tells none.
    """

    controller: nvme_admin.Controller
    controllers: Sequence[int] | None
    namespaces: Sequence[nvme_admin.Namespace]
    allocated: Sequence[int] | None


class Objection(NamedTuple):
    """What is against erasing, and the way out."""

    fact: str
    way_out: str


_OTHERWISE = "erase it by its maker's tool, or destroy it"


def choose(told: Told) -> Method | Objection:
    """Choose the way to erase, or give what is against every one.

    Sanitize comes first, since it reaches what is in no namespace. A block erase comes before one
    of the key, since it shows when it is read back. What a controller's FNA says of Format NVM is
    not asked: all namespaces are erased anyway, and there is no other controller to have some.
    """
    controller = told.controller
    objection = _object_to_others(told)
    if objection:
        return objection
    if controller.sanitizes_by_block:
        return Method.SANITIZE_BLOCK
    if controller.sanitizes_by_key:
        return Method.SANITIZE_CRYPTO
    if controller.formats:
        return _object_to_format(told) or Method.FORMAT
    return Objection("the controller knows neither Sanitize nor Format NVM", _OTHERWISE)


def _object_to_others(told: Told) -> Objection | None:
    """Other controllers see what would go, and can write what would not."""
    controller = told.controller
    others = [each for each in told.controllers or () if each != controller.id]
    shared = [each.id for each in told.namespaces if each.is_shared]
    if controller.is_vf or others:
        names = ", ".join(map(str, others)) or "that of its PF"
        return Objection(
            f"its NVM subsystem has other controllers, which see its namespaces: {names}",
            "erase it where all of them are at hand, by the host's own tools",
        )
    is_alone = told.controllers is not None and controller.id in told.controllers
    if not is_alone and (controller.may_have_others or shared):
        what = f"{', '.join(map(str, shared))} are" if shared else "may be"
        return Objection(
            f"its namespaces {what} shared with other controllers, and it does not tell which there"
            " are",
            _OTHERWISE,
        )
    return None


def _object_to_format(told: Told) -> Objection | None:
    """A format reaches active namespaces alone."""
    controller, active = told.controller, {each.id for each in told.namespaces}
    if not active:
        return Objection(
            "it has no active namespace, and knows no Sanitize", "make a namespace of all of it"
        )
    if not controller.manages_namespaces:
        return None
    if told.allocated is None:
        return Objection("it does not tell which namespaces it has", _OTHERWISE)
    hidden = sorted(set(told.allocated) - active)
    if hidden:
        return Objection(
            f"namespaces {', '.join(map(str, hidden))} are not attached, and a format would leave"
            " them as they are",
            "attach them, or delete all and make one of all of it",
        )
    if controller.unallocated:
        return Objection(
            f"{controller.unallocated} bytes are in no namespace, and a format would leave what a"
            " deleted one has held",
            "make namespaces of all of it first",
        )
    return None
