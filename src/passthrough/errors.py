"""Every error that more than one room speaks of."""

from __future__ import annotations


class PassthroughError(Exception):
    """Base of every error this package raises on purpose.

    The message is one sentence or two for the operator: what is wrong, and the way out.
    """


class OptionError(PassthroughError):
    """An option holds something that is not accepted.

    Attributes:
        option: the option's name, as ``juju config`` spells it.
        fact: what is wrong.
        item: the offending part of the value, or None when it is the whole.
        way_out: what to write instead; empty where the fact says it.
    """

    def __init__(self, option: str, fact: str, item: str | None = None, way_out: str = ""):
        self.option = option
        self.fact = fact
        self.item = item
        self.way_out = way_out
        super().__init__(": ".join([option, *([item] if item else []), self.reason]))

    @property
    def reason(self) -> str:
        """What is wrong and what to write instead, for whoever knows which option and item."""
        return f"{self.fact}; {self.way_out}" if self.way_out else self.fact


class BindError(PassthroughError):
    """A function did not change its driver; it was put back where it was.

    Attributes:
        address: the function's address.
        fact: what kept it from changing.
        left: where that left the function, where that is not where it was.
        way_out: what an operator does about it; empty where the next hook does it.
    """

    def __init__(self, address: str, fact: str, way_out: str = "", *, left: str = ""):
        self.address = address
        self.fact = fact
        self.left = left
        self.way_out = way_out
        said = "; ".join(part for part in (fact, left, way_out) if part)
        super().__init__(f"{address}: {said}")


class InUseError(BindError):
    """A guest holds the function, so it must not be unbound."""


class StuckError(BindError):
    """A driver sleeps in the kernel over an unbind; only a reboot ends that."""


class PostponedError(BindError):
    """Nobody has tried to change a function's driver: it is for the next run to decide."""

    @classmethod
    def after(cls, stuck: StuckError, address: str) -> PostponedError:
        """For what comes behind a driver that does not let go.

        A second one that sleeps would be written down over the first, and a hook that looks at the
        first then would sleep with it.
        """
        return PostponedError(address, f"left alone, as {stuck.address} does not come loose")
