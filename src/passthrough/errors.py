"""Every error that more than one room speaks of."""

from __future__ import annotations


class PassthroughError(Exception):
    """Base of every error this package raises on purpose.

    As text it is one sentence for the operator: what is wrong, and the way out. Whoever needs one
    of the two asks for it and takes no sentence apart.

    Attributes:
        fact: what is wrong.
        way_out: what an operator does about it; empty where the fact says it, or nothing helps.
    """

    def __init__(self, fact: str, way_out: str = ""):
        self.fact = fact
        self.way_out = way_out
        super().__init__(f"{fact}; {way_out}" if way_out else fact)


class BusyError(PassthroughError):
    """Somebody else is at work on the host; nothing was changed, and time alone mends it."""


def unexpected(error: Exception) -> PassthroughError:
    """Make the error for one that nobody has thought of.

    Args:
        error: a mistake in the charm, or something new on the host.
    """
    return PassthroughError(
        f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}",
        "the unit's log has the rest (juju debug-log), and the next hook tries again",
    )


class NotOursError(PassthroughError):
    """The host is not this unit's to look after, so the unit does nothing there."""


class OptionError(PassthroughError):
    """An option holds something that is not accepted.

    Attributes:
        option: the option's name, as ``juju config`` spells it.
        item: the offending part of the value, or None when it is the whole.
    """

    def __init__(self, option: str, fact: str, item: str | None = None, way_out: str = ""):
        super().__init__(fact, way_out)
        self.option = option
        self.item = item

    @property
    def reason(self) -> str:
        """What is wrong and what to write instead, for whoever knows which option and item."""
        return super().__str__()

    def __str__(self) -> str:
        return ": ".join([self.option, *([self.item] if self.item else []), self.reason])


class BindError(PassthroughError):
    """A function did not change its driver; it was put back where it was.

    Attributes:
        address: the function's address.
        left: the driver that the function is left with; empty where it kept the one it had.
    """

    def __init__(self, address: str, fact: str, way_out: str = "", *, left: str = ""):
        super().__init__(fact, way_out)
        self.address = address
        self.left = left

    def __str__(self) -> str:
        said = "; ".join(part for part in (self.fact, self.left, self.way_out) if part)
        return f"{self.address}: {said}"


class InUseError(BindError):
    """A guest holds the function, so it must not be unbound."""


class StuckError(BindError):
    """A driver sleeps in the kernel over an unbind; only a reboot ends that."""


class PostponedError(BindError):
    """Nobody has tried to change a function's driver: it is for the next run to decide."""

    @classmethod
    def because(cls, address: str, objection: str) -> ObjectedError:
        """For what has come to be in use since the run began."""
        return ObjectedError(address, f"left alone, as it cannot be claimed any more: {objection}")

    @classmethod
    def after(cls, stuck: StuckError, address: str) -> PostponedError:
        """For what comes behind a driver that does not let go.

        A second one that sleeps would be written down over the first, and a hook that looks at the
        first then would sleep with it.
        """
        return PostponedError(address, f"left alone, as {stuck.address} does not come loose")


class ObjectedError(PostponedError):
    """A function has come to be in use since the run began, and nobody has touched it."""
